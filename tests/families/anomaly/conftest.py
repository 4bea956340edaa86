"""Telemetry for the tests of the anomaly family."""

import os
from pathlib import Path

import numpy as np
import pytest

from builder.families.anomaly.synthetic import make_channel, write_folder

ROOT = Path(__file__).parents[3]
SHORT_TRAIN = 260
SHORT_TEST = 400


@pytest.fixture(scope="session")
def real_telemetry() -> Path:
    """The folder with the real SMAP telemetry, where the machine has it."""
    named = os.environ.get("BUILDER_TELEMETRY")
    folder = Path(named) if named else ROOT.parent / "shared" / "telemetry"
    if not (folder / "labeled_anomalies.csv").is_file():
        pytest.skip(f"no real telemetry in {folder}; name its folder in BUILDER_TELEMETRY")
    return folder


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short synthetic telemetry of two channels."""
    folder = tmp_path_factory.mktemp("telemetry")
    write_folder(folder, ("E-1", "A-1"), 0, SHORT_TRAIN, SHORT_TEST)
    return folder


@pytest.fixture(scope="session")
def train_array() -> np.ndarray:
    """A short synthetic train array, FP32 [260,25]."""
    return make_channel("E-1", 0, SHORT_TRAIN, SHORT_TEST).train.astype(np.float32)

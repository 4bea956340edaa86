"""The python-backend twins, and one real server with those of the anomaly family."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.serving.backends import prepare_backends
from builder.serving.server import TritonServer

ROOT = Path(__file__).parents[2]
TWINS = ROOT / "model_repository" / "python"
ANOMALY = (
    *("preprocessing", "postprocessing", "custom_logic", "omnianomaly_py", "tranad_py"),
    "anomaly_pipeline_py",
)


@pytest.fixture(scope="session")
def twins() -> Path:
    """The folder of the hand-written models."""
    return TWINS


@pytest.fixture(scope="session")
def python_backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_backends(tmp_path_factory.mktemp("build"), python=True, onnxruntime=False)


@pytest.fixture(scope="session")
def twin_server(python_backends: Path) -> Iterator[TritonServer]:
    with TritonServer([TWINS], backend_directory=python_backends, load=ANOMALY) as server:
        yield server

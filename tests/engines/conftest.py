"""Every stage that gets a plan, exported without its build."""

from pathlib import Path

import pytest

from builder.config import Config
from builder.family import Registry
from builder.stage import Stage

# One stage of each graph: the detectors differ in their weights only.
STAGES = (
    "SMAP_E-1",
    "tranad_sat1",
    "preprocessing_onnx",
    "postprocessing_onnx",
    "validity_mask_onnx",
    "subsystem_vote_onnx",
)


@pytest.fixture(scope="session")
def stages(built: Config) -> dict[str, tuple[Stage, Path]]:
    """Stage and ONNX file by name."""
    from builder.build.export_action import export_folder
    from builder.export.exporter import MODEL

    registry = Registry.load(built)
    return {
        name: (stage, export_folder(built.exports, stage) / MODEL)
        for name, stage in registry.stages.items()
    }

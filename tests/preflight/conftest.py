"""A sound repository with plans, to break in one place per test.

The plans are bytes that no TensorRT ever saw: the preflight only compares records, and that is
what is tested.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.record import Record

TENSORRT = "10.14.1.48"
CONFIG = 'name: "{name}"\nbackend: "tensorrt"\n'
ENTRY = 'cc_model_filenames {{ key: "{key}" value: "{file}" }}\n'

AddPlan = Callable[..., Path]


def write_plan(
    repository: Path, model: str = "net_trt", capability: str = "9.0", **more: Any
) -> Path:
    """Add a plan with its record, and its entry in the config."""
    file = f"sm{capability.replace('.', '')}.plan"
    plan = repository / "tensorrt" / model / "1" / file
    plan.parent.mkdir(parents=True, exist_ok=True)
    data = f"plan of {model} for {capability}".encode()
    plan.write_bytes(data)
    details = {
        "tensorrt": TENSORRT,
        "compute_capability": capability,
        "gpu": "NVIDIA H200",
        "driver": "590.10",
        "os": "Linux x86_64",
        "flags": ["SAME_COMPUTE_CAPABILITY"],
        "onnx_sha256": hashlib.sha256(b"onnx").hexdigest(),
        "target": file[:-5],
        **more,
    }
    record = Record(
        artefact="tensorrt",
        model=model,
        made_from={"export": "e" * 64},
        files={file: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}},
        details=details,
    )
    plan.with_name(f"{file}.json").write_bytes(record.to_bytes())
    config = plan.parent.parent / "config.pbtxt"
    text = config.read_text() if config.is_file() else CONFIG.format(name=model)
    config.write_text(text + ENTRY.format(key=capability, file=file))
    return plan


def edit_record(plan: Path, **details: Any) -> None:
    """Change details in the record of a plan."""
    path = plan.with_name(f"{plan.name}.json")
    record = json.loads(path.read_text())
    record["details"] |= details
    path.write_text(json.dumps(record))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository with plans of `net_trt` for 8.9 and 9.0."""
    root = tmp_path / "model_repository"
    for capability in ("8.9", "9.0"):
        write_plan(root, capability=capability)
    return root


@pytest.fixture
def plan(repository: Path) -> Path:
    """The plan for 9.0."""
    return repository / "tensorrt" / "net_trt" / "1" / "sm90.plan"

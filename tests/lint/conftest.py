"""A sound repository to break in one place per test."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

STAGE = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: 0
input {{ name: "x" data_type: TYPE_FP32 dims: [ -1, 25 ] }}
output {{ name: "y" data_type: TYPE_FP32 dims: [ -1, 25 ] }}
"""

ENSEMBLE = """\
name: "pipe"
platform: "ensemble"
input { name: "raw" data_type: TYPE_FP32 dims: [ -1, 25 ] }
output { name: "answer" data_type: TYPE_FP32 dims: [ -1, 25 ] }
ensemble_scheduling {
  step {
    model_name: "first"
    model_version: -1
    input_map { key: "x" value: "raw" }
    output_map { key: "y" value: "middle" }
  }
  step {
    model_name: "second"
    model_version: -1
    input_map { key: "x" value: "middle" }
    output_map { key: "y" value: "answer" }
  }
}
"""

PYTHON = """\
class TritonPythonModel:
    def execute(self, requests):
        return []
"""

Io = tuple[str, int, Sequence[int | str]]


def save_onnx(
    path: Path,
    inputs: Sequence[Io] = (("x", TensorProto.FLOAT, ["T", 25]),),
    outputs: Sequence[Io] = (("y", TensorProto.FLOAT, ["T", 25]),),
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", [inputs[0][0]], [outputs[0][0]])],
        "g",
        [helper.make_tensor_value_info(*io) for io in inputs],
        [helper.make_tensor_value_info(*io) for io in outputs],
    )
    onnx.save(helper.make_model(graph), path)


def save_record(folder: Path) -> None:
    files = {
        p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "size": p.stat().st_size}
        for p in folder.iterdir()
        if p.name != "record.json"
    }
    (folder / "record.json").write_text(json.dumps({"files": files}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """onnx/first, onnx/second, python/twin_py and ensemble/pipe, all without fault."""
    root = tmp_path / "model_repository"
    for name in ("first", "second"):
        folder = root / "onnx" / name / "1"
        folder.mkdir(parents=True)
        save_onnx(folder / "model.onnx")
        save_record(folder)
        (folder.parent / "config.pbtxt").write_text(STAGE.format(name=name))
    twin = root / "python" / "twin_py" / "1"
    twin.mkdir(parents=True)
    (twin / "model.py").write_text(PYTHON)
    (twin.parent / "config.pbtxt").write_text('name: "twin_py"\nbackend: "python"\n')
    pipe = root / "ensemble" / "pipe" / "1"
    pipe.mkdir(parents=True)
    (pipe.parent / "config.pbtxt").write_text(ENSEMBLE)
    return root


@pytest.fixture
def edit(root: Path) -> Callable[..., Path]:
    """Replaces a text in the config of a model, or adds lines to it."""

    def edit(model: str, old: str = "", new: str = "", *, add: str = "") -> Path:
        path = root / model / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new) + add if old else text + add)
        return path

    return edit

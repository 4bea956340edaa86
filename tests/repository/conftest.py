"""Small ONNX files, made with onnx.helper."""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

Io = tuple[str, int, Sequence[int | str | None]]


def make_onnx(path: Path, inputs: Sequence[Io], outputs: Sequence[Io], *, weights: int = 4) -> Path:
    """Save a model with this signature and an initializer of `weights` floats."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [weights], bytes(4 * weights), raw=True)
    graph = helper.make_graph(
        [helper.make_node("Identity", [inputs[0][0]], [outputs[0][0]])],
        "g",
        [helper.make_tensor_value_info(*io) for io in inputs],
        [helper.make_tensor_value_info(*io) for io in outputs],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@pytest.fixture
def onnx_file(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model file in the test's folder."""

    def make(inputs: Sequence[Io], outputs: Sequence[Io], **options: int) -> Path:
        return make_onnx(tmp_path / "model.onnx", inputs, outputs, **options)

    return make

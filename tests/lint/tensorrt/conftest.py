"""Small graphs, each with one thing in it that TensorRT does not take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from builder.lint.tensorrt.graph import make_graph
from builder.lint.tensorrt.model import OnnxFinding
from builder.lint.tensorrt.runner import lint_graph

Io = tuple[str, int, Sequence[int | str] | None]
Find = Callable[..., list[OnnxFinding]]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Io],
    outputs: Sequence[Io],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 20,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*io) for io in inputs],
        [helper.make_tensor_value_info(*io) for io in outputs],
        list(constants),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets)


def integers(name: str, values: Sequence[int]) -> onnx.TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


@pytest.fixture
def find() -> Find:
    """Findings in a model; arguments as for `model`."""

    def find(*arguments: Any, **more: Any) -> list[OnnxFinding]:
        return lint_graph(make_graph(model(*arguments, **more), Path("m.onnx")))

    return find

"""The parser knows a range of opsets.

Older and newer operators may mean something else under the same name, so it refuses the file.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield the opset if it is out of range."""
    table = operator_table()
    low, high = table.opsets
    if not low <= graph.opset <= high:
        yield OnnxHit(
            "the model",
            f"opset {graph.opset} is not within {low} to {high}, what TensorRT {table.tensorrt} "
            "takes",
            "export it with opset 20, or convert it with onnx.version_converter",
        )


RULE = OnnxRule("ON001", "opset out of range", Severity.ERROR, check)

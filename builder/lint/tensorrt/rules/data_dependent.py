"""A shape that depends on values.

TensorRT runs such a graph, but no memory can be planned for it: the largest case is allocated,
each run waits for the size to reach the host, and CUDA graphs are impossible.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield operators with such an output."""
    for node in graph.nodes:
        if node.op in operator_table().data_dependent and not node.is_constant(0):
            yield OnnxHit(
                node.label,
                f"the size of what {node.op} returns depends on values",
                "use a mask of fixed size instead, or keep the stage on ONNX Runtime",
            )


RULE = OnnxRule("ON009", "data-dependent shape", Severity.WARNING, check)

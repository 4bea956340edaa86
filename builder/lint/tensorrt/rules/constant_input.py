"""An input that must be known when the plan is built.

Axes, depths and the like decide what is built. TensorRT takes them from initialisers and from
whatever it can compute from those and from fixed sizes.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield inputs that depend on what the caller sends."""
    for node in graph.nodes:
        for position in operator_table().constant_inputs.get(node.op, ()):
            if not node.is_constant(position):
                yield OnnxHit(
                    node.label,
                    f"input {position} of {node.op} ({node.proto.input[position]}) must be a "
                    "constant",
                    "make it an attribute of the module, or compute it from fixed sizes",
                )


RULE = OnnxRule("ON006", "input that must be constant", Severity.ERROR, check)

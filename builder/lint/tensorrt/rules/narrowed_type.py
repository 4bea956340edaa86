"""FP64 is computed as FP32.

The build works, but a tolerance that was met in FP64 may not be met any more.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield inputs and tensors of such a type."""
    narrowed = operator_table().narrowed_types
    places = {f"input {name}": value for name, value in graph.inputs.items()}
    for node in graph.nodes:
        for position, name in enumerate(node.proto.output):
            if (value := node.output(position)) is not None:
                places[f"tensor {name}"] = value
    for where, value in places.items():
        if value.dtype in narrowed:
            yield OnnxHit(
                where,
                f"TensorRT computes {value.dtype} as FP32",
                "cast it to FP32 in the module, so that parity is measured for what is served",
            )


RULE = OnnxRule("ON004", "data type that loses bits", Severity.WARNING, check)

"""A tensor whose number of dims is not known.

Sizes may be dynamic in TensorRT, the rank of a tensor may not.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table

# Of what a loop carries along ONNX infers no shape, as it might change; TensorRT demands that it
# does not.
_SILENT = ("Loop", "Scan")


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield inputs without a shape, and operators whose inputs have a rank but not their output."""
    for name, value in graph.inputs.items():
        if value.dims is None and value.dtype != "SEQUENCE":
            yield OnnxHit(
                f"input {name}", "its rank is not known", "state its shape when it is exported"
            )
    if graph.problem:
        return  # then hardly any rank is known, and another rule says why
    known = operator_table().operators
    for node in graph.nodes:
        output = node.output(0)
        if node.op not in known or node.op in _SILENT or output is None or output.dims is not None:
            continue
        values = [node.input(p) for p in range(len(node.proto.input))]
        if all(value is None or value.dims is not None for value in values):
            yield OnnxHit(
                node.label,
                f"the rank of what {node.op} returns is not known",
                "use shapes of a fixed length, as a Reshape to a list of sizes has",
            )


RULE = OnnxRule("ON011", "unknown rank", Severity.ERROR, check)

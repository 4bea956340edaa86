"""An operator that the parser has no importer for.

Without a plugin of that name the build ends with "no importer registered for op".
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield the operators that are not listed."""
    known = operator_table().operators
    for node in graph.nodes:
        if node.op in known:
            continue
        if "::" in node.op:
            yield OnnxHit(
                node.label,
                f"{node.op} is an operator of its own domain, for which TensorRT needs a plugin",
                "write it with standard operators (ONNX Runtime's fusions do not belong into the "
                "export), or keep the stage on ONNX Runtime",
            )
        else:
            yield OnnxHit(
                node.label,
                f"TensorRT takes no {node.op}",
                "write it with other operators, or keep the stage on ONNX Runtime",
            )


RULE = OnnxRule("ON002", "operator without importer", Severity.ERROR, check)

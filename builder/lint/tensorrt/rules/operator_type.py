"""An operator that is taken, but not for this data type.

The parser's list says for each operator which types it takes. A Cast before and after it usually
helps, where the values fit into the other type.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import Node, OnnxGraph, Value
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table

# Which input the types of the list are about, where it is not the first one.
_INPUT = {"Where": 1, "OneHot": 2}
# Operators whose output they are about.
_BY_OUTPUT = {"Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"}
# Control flow carries values of any type; the nodes within are looked at one by one.
_EVERYTHING = {"If", "Loop", "Scan", "Shape", "Size"}


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield operators with a data type that they do not take."""
    table = operator_table()
    known = table.types | table.quantized_types | {"UINT8"}
    for node in graph.nodes:
        types = table.operators.get(node.op)
        value = _value(node)
        if types is None or value is None or value.dtype not in known or _folded(node):
            continue  # an unknown operator or type is another rule's business
        if value.dtype not in types:
            listed = ", ".join(sorted(types))
            yield OnnxHit(
                node.label,
                f"{node.op} takes {listed}, not {value.dtype}",
                "cast to one of these before it and back after it",
            )


def _folded(node: Node) -> bool:
    """Whether the node only computes a constant, which the parser does by itself."""
    return node.op not in _BY_OUTPUT and all(o in node.constants for o in node.proto.output if o)


def _value(node: Node) -> Value | None:
    if node.op in _EVERYTHING:
        return None
    if node.op in _BY_OUTPUT:
        return node.output(0)
    return node.input(_INPUT.get(node.op, 0))


RULE = OnnxRule("ON005", "operator does not take this type", Severity.ERROR, check)

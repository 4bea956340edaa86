"""An operator with an attribute, output or rank that the parser does not take."""

from collections.abc import Iterator
from typing import Any

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import Node, OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import OperatorTable, operator_table


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield attributes, inputs, outputs and ranks outside the list."""
    table = operator_table()
    used = {name for node in graph.nodes for name in node.proto.input} | set(graph.outputs)
    for node in graph.nodes:
        for message, remedy in _problems(node, table, used):
            yield OnnxHit(node.label, message, remedy)


def _problems(node: Node, table: OperatorTable, used: set[str]) -> Iterator[tuple[str, str]]:
    for attribute, allowed in table.attributes.get(node.op, {}).items():
        value = node.attribute(attribute)
        if value is not None and not _within(value, allowed):
            words = ", ".join(map(str, allowed))
            yield f"{node.op} takes {attribute} {words}, not {value}", "choose one of these"
    first = table.unused_outputs_from.get(node.op, len(node.proto.output))
    for name in node.proto.output[first:]:
        if name in used:
            yield (
                f"{node.op} computes no output {list(node.proto.output).index(name)} ({name})",
                "compute it with other operators",
            )
    first = table.unused_inputs_from.get(node.op, len(node.proto.input))
    if any(node.proto.input[first:]):
        yield f"{node.op} takes no more than {first} inputs", "leave the others out"
    ranks = table.ranks.get(node.op)
    value = node.input(0)
    if ranks and value is not None and value.dims is not None and len(value.dims) not in ranks:
        words = " or ".join(map(str, ranks))
        yield (
            f"{node.op} takes rank {words}, not {len(value.dims)}",
            "add or merge dims with Reshape around it",
        )


def _within(value: Any, allowed: tuple[Any, ...]) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(item in allowed for item in values)


RULE = OnnxRule("ON007", "restricted operator", Severity.ERROR, check)

"""A Loop that collects outputs needs a number of turns that is known when the plan is built."""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import Node, OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield loops with collected outputs whose number of turns may vary."""
    for node in graph.nodes:
        if node.op != "Loop":
            continue
        carried = max(len(node.proto.input) - 2, 0)
        collects = any(node.proto.output[carried:])
        if collects and (node.input(0) is None or not node.is_constant(0) or _may_break(node)):
            yield OnnxHit(
                node.label,
                "Loop collects outputs over a number of turns that is not known beforehand",
                "unroll it, use a fixed number of turns, or keep the stage on ONNX Runtime",
            )


def _may_break(node: Node) -> bool:
    """Whether the condition to go on is computed rather than handed through."""
    body = next((a.g for a in node.proto.attribute if a.name == "body"), None)
    if body is None or len(body.input) < 2 or not body.output:
        return False
    source = body.output[0].name
    producers = {name: proto for proto in body.node for name in proto.output}
    while source in producers and producers[source].op_type == "Identity":
        source = producers[source].input[0]
    is_constant = source in producers and producers[source].op_type == "Constant"
    return source != body.input[1].name and not is_constant


RULE = OnnxRule("ON010", "loop output of unknown length", Severity.ERROR, check)

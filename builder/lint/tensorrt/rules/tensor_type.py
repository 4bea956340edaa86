"""A data type that TensorRT does not have: strings, sequences, FP64, unsigned and short integers.

UINT8 may be an input or output, where a Cast next to it makes something else of it.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph, Value
from builder.lint.tensorrt.model import OnnxHit, OnnxRule
from builder.lint.tensorrt.operators import operator_table

_IO_CASTS = ("Cast", "CastLike")


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield inputs, outputs and tensors within the graph of such a type."""
    table = operator_table()
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for name, value in values.items():
            if _bad(value, table.io_types | table.narrowed_types):
                yield _hit(f"{kind} {name}", value)
    io = {*graph.inputs, *graph.outputs}
    within = table.types | table.quantized_types | table.narrowed_types
    for node in graph.nodes:
        for position, name in enumerate(node.proto.output):
            made = node.output(position)
            if name in io or made is None or not _bad(made, within):
                continue
            if made.dtype == "UINT8" and node.op in _IO_CASTS:
                continue  # whoever computes with it is found by its type
            yield _hit(f"tensor {name}", made)


def _bad(value: Value, allowed: frozenset[str]) -> bool:
    return value.dtype is not None and value.dtype not in allowed


def _hit(where: str, value: Value) -> OnnxHit:
    return OnnxHit(
        where,
        f"TensorRT has no {value.dtype} tensors here",
        "compute with FP32, INT32 or INT64 inside the graph, and keep strings and sequences in a "
        "stage on ONNX Runtime",
    )


RULE = OnnxRule("ON003", "unsupported data type", Severity.ERROR, check)

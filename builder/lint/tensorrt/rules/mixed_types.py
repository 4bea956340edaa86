"""Operands of different types in a strongly typed network.

TensorRT 11 has strongly typed networks only: nothing is cast behind the scenes, so an elementwise
operator with FP16 and FP32 operands does not build. ONNX itself allows this for Pow, and a
graph that was half converted to FP16 by a tool is full of it.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule

# Operator -> the inputs whose types have to agree; None means all.
_ALIKE: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Mean", "Sum")),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    **dict.fromkeys(("And", "Or", "Xor", "MatMul", "Gemm", "Concat", "PRelu", "Clip")),
    **dict.fromkeys(("Conv", "ConvTranspose", "InstanceNormalization", "BatchNormalization")),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "Attention", "Einsum")),
    "RMSNormalization": None,
    "Where": (1, 2),
    "Range": None,
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Pad": (0, 2),
    "GRU": (0, 1, 2, 3, 5),
    "LSTM": (0, 1, 2, 3, 5, 6, 7),
    "RNN": (0, 1, 2, 3, 5),
}


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield operators whose operands have different types."""
    for node in graph.nodes:
        if node.op not in _ALIKE:
            continue
        positions = _ALIKE[node.op] or range(len(node.proto.input))
        values = [node.input(p) for p in positions]
        types = list(dict.fromkeys(v.dtype for v in values if v is not None and v.dtype))
        # The mask of an Attention may be BOOL.
        if node.op == "Attention":
            types = [t for t in types if t != "BOOL"]
        if len(types) > 1:
            yield OnnxHit(
                node.label,
                f"{node.op} has operands of types {', '.join(types)}",
                "cast them to one type in the module: a strongly typed network casts nothing",
            )


RULE = OnnxRule("ON008", "operands of different types", Severity.ERROR, check)

"""Computing the small integer constants of a graph: axes, shapes, indices.

The parser does so itself; the shape inference of ONNX does not look through a Cast or a Reshape
of a constant, and would call a rank unknown that TensorRT knows.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

_LARGEST = 256  # elements; weights are of no interest
_OPERATORS = {
    *("Add", "Cast", "CastLike", "Concat", "Constant", "Div", "Gather", "Identity", "Max", "Min"),
    *("Mul", "Neg", "Range", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"),
}


def fold_integers(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """A copy in which integers that follow from constants are initialisers.

    Nodes of the outermost graph only; one that fails to compute stays what it is.
    """
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in copy.graph.initializer:
        local = tensor.data_location != onnx.TensorProto.EXTERNAL
        if local and _is_integer(tensor.data_type) and _elements(tensor.dims) <= _LARGEST:
            known[tensor.name] = numpy_helper.to_array(tensor)
    kept = []
    returned = {value.name for value in copy.graph.output}
    opset = next((o.version for o in copy.opset_import if o.domain in ("", "ai.onnx")), 0)
    for node in copy.graph.node:
        result = None if returned & set(node.output) else _compute(node, known, opset)
        if result is None:
            kept.append(node)
        else:
            known[node.output[0]] = result
            copy.graph.initializer.append(numpy_helper.from_array(result, node.output[0]))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _compute(
    node: "onnx.NodeProto", known: "dict[str, np.ndarray[Any, Any]]", opset: int
) -> "np.ndarray[Any, Any] | None":
    import numpy as np
    from onnx.reference import ReferenceEvaluator

    names = [name for name in node.input if name]
    if node.domain or node.op_type not in _OPERATORS or any(name not in known for name in names):
        return None
    try:
        evaluator = ReferenceEvaluator(node, opsets={"": opset})
        (result,) = evaluator.run(None, {name: known[name] for name in names})
        array = np.asarray(result)
    except Exception:  # whatever an odd node makes the evaluator raise, it is only not folded
        return None
    return array if array.dtype.kind in "iub" and array.size <= _LARGEST else None


def _is_integer(data_type: int) -> bool:
    from onnx import TensorProto

    return data_type in (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


def _elements(dims: Any) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count

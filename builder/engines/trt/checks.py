"""What is checked before a build is paid for: types and shapes, without TensorRT."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.engines.trt.profiles import ShapeProfile
from builder.errors import EngineError
from builder.export.casting import opset_of, shared_types

if TYPE_CHECKING:
    import onnx


def check_network(path: Path, profiles: Sequence[ShapeProfile], *, name: str) -> None:
    """Check an ONNX file as a strongly typed network with these profiles.

    Raises:
        EngineError: Inputs of one operator differ in type, or the shapes do not work out at the
            smallest, usual or largest size of a profile.
    """
    import onnx

    # The weights are not needed, and may be larger than memory.
    model = onnx.load(str(path), load_external_data=False)
    if mixed := mixed_types(model):
        raise EngineError(
            f"operators with inputs of several types: {'; '.join(mixed[:5])}",
            where=name,
            hint="a strongly typed network casts nothing by itself: add Cast nodes to the export",
        )
    for profile in profiles:
        for which in ("min", "opt", "max"):
            check_shapes(model, profile, which, name=name)


def mixed_types(model: "onnx.ModelProto") -> list[str]:
    """Operators whose schema wants one type where the graph has several, in words."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    types = {
        v.name: v.type.tensor_type.elem_type
        for v in (*graph.input, *graph.output, *graph.value_info)
    }
    types |= {i.name: i.data_type for i in graph.initializer}
    found = []
    for node in graph.node:
        kinds: dict[str, dict[str, int]] = {}
        for tensor, variable, _, allowed in shared_types(node, opset_of(model)):
            if allowed and types.get(tensor):
                kinds.setdefault(variable, {})[tensor] = types[tensor]
        for tensors in kinds.values():
            if len(set(tensors.values())) > 1:
                names = onnx.TensorProto.DataType.Name
                listed = ", ".join(f"{t} {names(k)}" for t, k in tensors.items())
                found.append(f"{node.op_type} {node.name or node.output[0]} ({listed})")
    return found


def check_shapes(
    model: "onnx.ModelProto", profile: ShapeProfile, which: str, *, name: str
) -> dict[str, tuple[int | None, ...]]:
    """Infer all shapes strictly at one point of a profile.

    Args:
        which: `min`, `opt` or `max`.

    Returns:
        Shapes of the outputs; None for a size that depends on the data.

    Raises:
        EngineError: The shapes do not work out.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    position = ("min", "opt", "max").index(which)
    for tensor in fixed.graph.input:
        if tensor.name in profile.inputs:
            dims = tensor.type.tensor_type.shape.dim
            for dim, size in zip(dims, profile.inputs[tensor.name][position], strict=True):
                dim.dim_value = size
    del fixed.graph.value_info[:]  # inferred at other sizes
    for output in fixed.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.Clear()
    try:
        inferred = onnx.shape_inference.infer_shapes(
            fixed, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:
        raise EngineError(
            f"shapes do not work out at the profile's {which} {profile.point(which)}: "
            f"{str(error).strip()}",
            where=name,
            hint="the export holds a size that was frozen, or the profile is too wide",
        ) from error
    return {
        output.name: tuple(
            d.dim_value if d.HasField("dim_value") else None
            for d in output.type.tensor_type.shape.dim
        )
        for output in inferred.graph.output
    }

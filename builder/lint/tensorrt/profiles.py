"""Strict shape inference at the sizes of an optimisation profile.

A plan is built for the smallest, the usual and the largest size at once. Inferring all shapes
with each of them in place of the symbols finds sizes that an exporter froze and sizes that do not
fit, without a GPU.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import ExportError
from builder.lint.tensorrt.fold import fold_integers
from builder.stage import Stage

if TYPE_CHECKING:
    import onnx

POINTS = ("min", "opt", "max")


def profile_points(stage: Stage) -> dict[str, dict[str, int]]:
    """`min`, `opt` and `max` of a stage's profile: sizes by symbol.

    A batch symbol that the profile leaves out goes from 1 to `max_batch_size`.

    Raises:
        ExportError: An input has a symbol without a range.
    """
    batch = stage.inputs[0].dims[0] if stage.max_batch_size > 0 and stage.inputs else None
    points: dict[str, dict[str, int]] = {point: {} for point in POINTS}
    symbols = dict.fromkeys(d for t in stage.inputs for d in t.dims if isinstance(d, str))
    for symbol in symbols:
        if symbol in stage.profile:
            sizes = {point: getattr(stage.profile[symbol], point) for point in POINTS}
        elif symbol == batch:
            sizes = {"min": 1, "opt": stage.max_batch_size, "max": stage.max_batch_size}
        else:
            raise ExportError(
                f"the profile has no sizes for {symbol}",
                where=f"stage {stage.name}",
                hint=f'declare profile={{"{symbol}": Range(min, opt, max)}}',
            )
        for point, size in sizes.items():
            points[point][symbol] = size
    return points


def infer_profile(stage: Stage, path: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """`infer_at` for `min`, `opt` and `max` of the stage's profile.

    Raises:
        ExportError: As `infer_at` and `profile_points`.
    """
    model = _load(path)
    return {
        point: _infer(stage, model, sizes, f"stage {stage.name} at the profile's {point}")
        for point, sizes in profile_points(stage).items()
    }


def infer_at(stage: Stage, path: Path, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Infer every shape of a stage's export with fixed input sizes, strictly.

    Args:
        path: The ONNX file.
        sizes: Size of each symbol of the inputs.

    Returns:
        Shapes of the outputs by name; an output whose shape ONNX's inference cannot settle (it
        depends on values) is left out.

    Raises:
        ExportError: The sizes contradict the graph, or an output gets another shape than the
            stage declares.
    """
    return _infer(stage, _load(path), sizes, f"stage {stage.name} at {dict(sizes)}")


def _load(path: Path) -> "onnx.ModelProto":
    """The model without inferred shapes, output sizes and local functions; integers folded."""
    import onnx
    from onnx import inliner

    model = onnx.load(str(path), load_external_data=False)
    model.graph.ClearField("value_info")
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.Clear()
    return fold_integers(inliner.inline_local_functions(model) if model.functions else model)


def _infer(
    stage: Stage, model: "onnx.ModelProto", sizes: Mapping[str, int], where: str
) -> dict[str, tuple[int, ...]]:
    from onnx import shape_inference

    declared = {tensor.name: tensor for tensor in stage.inputs}
    for value in model.graph.input:
        if value.name in declared:
            _set_dims(value, declared[value.name].shape(sizes))
    try:
        inferred = shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:  # onnx raises RuntimeError, ValueError and classes of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(f"shapes do not fit: {reason}", where=where) from error
    found: dict[str, tuple[int, ...]] = {}
    for value, tensor in zip(inferred.graph.output, stage.outputs, strict=True):
        dims = value.type.tensor_type.shape.dim
        want = [sizes.get(d) if isinstance(d, str) else d for d in tensor.dims]
        have = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
        known = [(a, b) for a, b in zip(have, want, strict=False) if None not in (a, b)]
        if len(have) != len(want) or any(a != b for a, b in known):
            raise ExportError(
                f"output {tensor.name} has shape {have}, declared is {want}",
                where=where,
                hint="a size that was frozen by the exporter shows like this",
            )
        settled = [size for size in have if size is not None]
        if len(settled) == len(have):
            found[tensor.name] = tuple(settled)
    return found


def _set_dims(value: "onnx.ValueInfoProto", shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    for dim, size in zip(dims, shape, strict=True):
        dim.Clear()
        dim.dim_value = size

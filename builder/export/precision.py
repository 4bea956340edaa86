"""Precision: the network of a stage in FP32, FP16, BF16, INT8 or FP8, and how far off it may be.

TensorRT 11 has no precision flags any more: a strongly typed network computes in the types that
the ONNX graph states. So the graph itself is converted, before the plan is built.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import EngineError, MissingDependencyError
from builder.export.casting import CASTS, Weights, cast_model
from builder.export.external import (
    DataFile,
    check_external,
    external_files,
    external_tensor,
    is_finite,
    link_file,
    outline,
    stored_tensor,
    write_model,
)
from builder.stage import Arrays, Tolerance

if TYPE_CHECKING:
    import onnx

FP32, QUANTIZED = "fp32", ("int8", "fp8")
PRECISIONS = (FP32, *CASTS, *QUANTIZED)

_TOLERANCES = {
    "fp32": Tolerance(atol=1e-5, rtol=1e-4),
    "fp16": Tolerance(atol=2e-3, rtol=1e-2),
    "bf16": Tolerance(atol=2e-2, rtol=5e-2),
    "int8": Tolerance(atol=5e-2, rtol=1e-1),
    "fp8": Tolerance(atol=5e-2, rtol=1e-1),
}


def check_precision(name: str, *, where: str) -> str:
    """The precision, if there is one of that name.

    Raises:
        EngineError: There is none.
    """
    if name not in PRECISIONS:
        raise EngineError(
            f"unknown precision {name!r}", where=where, hint=f"use one of {', '.join(PRECISIONS)}"
        )
    return name


def tolerance_at(precision: str, tolerance: Tolerance) -> Tolerance:
    """The tolerance of an engine of that precision: that of the stage, or a wider one.

    FP32 needs a wider one, too: a GPU adds in another order.
    """
    usual = _TOLERANCES[precision]
    return Tolerance(
        atol=max(tolerance.atol, usual.atol),
        rtol=max(tolerance.rtol, usual.rtol),
        levels=tolerance.levels,
    )


def convert(source: Path, target: Path, precision: str, calibration: Arrays | None = None) -> Path:
    """Write an ONNX file in another precision; FP32 gives back the source itself.

    Args:
        source: An ONNX file; external weights are found beside it.
        target: The file to write.
        calibration: Typical inputs, from which INT8 and FP8 take their scales; without them
            nvidia-modelopt makes random ones.

    Returns:
        The file to build from.

    Raises:
        EngineError: The graph is not valid, or not one of FP32.
        MissingDependencyError: INT8 and FP8 need nvidia-modelopt.
    """
    if precision == FP32:
        return source
    if precision in QUANTIZED:
        return _quantize(source, target, precision, calibration)
    from builder.export.exporter import save

    model = outline(source)
    if not external_files(model, source.parent):
        save(cast_model(model, precision, where=str(source)), target)
        check_graph(target)
        return target
    data = DataFile(target.with_name(f"{target.name}.{precision}"))
    store = ExternalWeights(source.parent, data)
    cast_model(model, precision, where=str(source), store=store)
    for file in external_files(model, target.parent):
        if file != data.path and file.parent != source.parent:
            file.unlink(missing_ok=True)
            link_file(source.with_name(file.name), file)
    write_model(model, target)
    check_external(model, target)
    return target


class ExternalWeights(Weights):
    """Weights beside the ONNX file: read, cast and written one at a time.

    Args:
        folder: Where the ONNX file is that they belong to.
        data: Where those in another precision go.
    """

    def __init__(self, folder: Path, data: DataFile):
        self.folder = folder
        self.data = data

    def low(
        self, initialiser: "onnx.TensorProto", name: str, dtype: int
    ) -> "onnx.TensorProto | None":
        """See `Weights.low`."""
        import onnx
        import torch

        if initialiser.data_location != onnx.TensorProto.EXTERNAL:
            return super().low(initialiser, name, dtype)
        half = dtype == onnx.TensorProto.FLOAT16
        values = stored_tensor(initialiser, self.folder).read()
        values = values.to(torch.float16 if half else torch.bfloat16)
        if not is_finite(values):  # the export has finite weights only
            return None
        place = self.data.append(name, values)
        kind = "F16" if half else "BF16"
        return external_tensor(name, values.shape, kind, self.data.path.name, *place)


def check_graph(path: Path) -> None:
    """Run the full ONNX checker, strict shape inference included.

    Raises:
        EngineError: It refuses the graph.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        raise EngineError(f"the ONNX checker refuses the graph: {error}", where=path) from error


def _quantize(source: Path, target: Path, precision: str, calibration: Arrays | None) -> Path:
    """Insert Q/DQ nodes with nvidia-modelopt; what is not quantised becomes FP16.

    Unverified: written against the signature of nvidia-modelopt 0.47, which was not run.
    """
    try:
        quantize = importlib.import_module("modelopt.onnx.quantization").quantize
    except ImportError as error:
        raise MissingDependencyError(
            f"{precision} needs nvidia-modelopt, which is not installed",
            where=source,
            hint="pip install 'nvidia-modelopt[onnx]', or choose fp16 or bf16",
        ) from error
    try:
        quantize(
            str(source),
            quantize_mode=precision,
            calibration_data=calibration,
            calibration_eps=["cpu"],
            high_precision_dtype="fp16",
            use_external_data_format=source.with_name(f"{source.name}.data").is_file(),
            output_path=str(target),
            log_level="ERROR",
        )
    except Exception as error:
        raise EngineError(f"nvidia-modelopt cannot quantise it: {error}", where=source) from error
    check_graph(target)
    return target

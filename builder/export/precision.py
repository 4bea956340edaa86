"""Precision: the network of a stage in FP32, FP16, BF16, INT8 or FP8, and how far off it may be.

TensorRT 11 has no precision flags any more: a strongly typed network computes in the types that
the ONNX graph states. So the graph itself is converted, before the plan is built.
"""

import importlib
from pathlib import Path

from builder.errors import EngineError, MissingDependencyError
from builder.export.casting import CASTS, cast_model
from builder.stage import Arrays, Tolerance

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
    import onnx

    from builder.export.exporter import save

    # Types are inferred without the weights, which may be larger than one message can be.
    outline = onnx.load(str(source), load_external_data=False)
    model = cast_model(onnx.load(str(source)), precision, where=str(source), outline=outline)
    save(model, target)
    check_graph(target)
    return target


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

"""Any ONNX file as a plan, without stage or repository: what scripts/convert_tensorrt.py does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.digest import FileDigests
from builder.engines.tensorrt import Plan, build_from
from builder.engines.trt.gpu import gpu_for, local_gpus
from builder.engines.trt.options import TensorRTOptions
from builder.engines.trt.profiles import ShapeProfile, make_profile, parse_ranges
from builder.engines.trt.seam import Progress
from builder.errors import EngineError, UsageError
from builder.files import write_atomic
from builder.record import Record, describe_files
from builder.repository.plans import record_name
from builder.repository.signature import onnx_signature
from builder.target import Target

Shapes = Mapping[str, tuple[int, ...]]


def convert_file(
    onnx: Path,
    output: Path,
    *,
    precision: str = "fp32",
    options: TensorRTOptions,
    profiles: Sequence[str] = (),
    shapes: tuple[Shapes, Shapes, Shapes] | None = None,
    target: Target | None = None,
    cache: Path | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> Plan:
    """Build the plan of an ONNX file and write it, with its record beside it.

    Args:
        profiles: Profiles by symbol, as `T=1:100:4096`.
        shapes: Or one profile by input: smallest, usual and largest shapes.
        target: The GPU to build for; by default the first one here.
        cache: Folder for timing caches.

    Raises:
        UsageError: The file is missing, or the shapes do not fit its inputs.
        EngineError: There is no such GPU here, a dynamic size has no range, or TensorRT fails.
        MissingDependencyError: TensorRT is not installed.
    """
    if not onnx.is_file():
        raise UsageError("there is no such file", where=onnx, hint="check --onnx")
    if profiles and shapes:
        raise UsageError("give the profile either by symbol or by input, not both")
    chosen = target or _first_target()
    gpu = gpu_for(chosen)
    signature = onnx_signature(onnx)
    where = onnx.name
    found: list[ShapeProfile] = []
    if shapes:
        found.append(_by_input(onnx, shapes))
    for text in profiles or ([] if shapes else [""]):
        given = parse_ranges(text, where=where) if text else {}
        found.append(make_profile(signature.inputs, given, where=where, given=given))
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".plan-") as scratch:
        plan = build_from(
            onnx,
            Path(scratch) / output.name,
            gpu=gpu,
            profiles=tuple(found),
            precision=precision,
            options=options,
            cache=cache,
            progress=progress,
            name=where,
        )
        record = Record(
            artefact="tensorrt",
            model=onnx.stem,
            made_from={"onnx": plan.export_sha256, "tensorrt": plan.tensorrt},
            files=describe_files([plan.path], FileDigests()),
            details={"target": chosen.name, **plan.details()},
        )
        plan.path.replace(output)
    write_atomic(output.with_name(record_name(output.name)), record.to_bytes())
    return plan


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Read `input:1x3x512x512,mask:1x512x512`, as trtexec writes shapes.

    Raises:
        UsageError: It is written differently.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in text.replace(" ", "").split(","):
        name, _, dims = part.rpartition(":")
        try:
            shapes[name] = tuple(int(d) for d in dims.split("x"))
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"{part!r} is no shape", hint="write input:1x3x512x512")
    return shapes


def _first_target() -> Target:
    gpus = local_gpus()
    if not gpus:
        raise EngineError(
            "there is no NVIDIA GPU here",
            hint="a plan is built on the kind of GPU that runs it; `nvidia-smi` must list one",
        )
    return gpus[0].target


def _by_input(onnx: Path, shapes: tuple[Shapes, Shapes, Shapes]) -> ShapeProfile:
    inputs = {}
    for tensor in onnx_signature(onnx).inputs:
        fixed = tuple(d for d in tensor.dims if isinstance(d, int))
        points = []
        for which, given in zip(("min", "opt", "max"), shapes, strict=True):
            shape = given.get(tensor.name, fixed if len(fixed) == len(tensor.dims) else None)
            if shape is None or len(shape) != len(tensor.dims):
                raise UsageError(
                    f"{tensor} needs a {which} shape of {len(tensor.dims)} sizes", where=onnx.name
                )
            points.append(shape)
        low, usual, high = points
        if not all(0 < a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
            raise UsageError(f"not 0 < min <= opt <= max: {tensor.name}", where=onnx.name)
        inputs[tensor.name] = (low, usual, high)
    if unknown := sorted({name for given in shapes for name in given} - set(inputs)):
        raise UsageError(f"there is no input {unknown[0]}", where=onnx.name)
    return ShapeProfile({}, inputs)

"""TensorRT plans, one per compute capability: `sm90.plan`.

What needs a GPU stands behind `builder.engines.trt.seam`, which also says what is unverified.
"""

import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.digest import FileDigests
from builder.engines.engine import EngineJob, EngineKind
from builder.engines.trt.checks import check_network
from builder.engines.trt.gpu import Gpu, gpu_for
from builder.engines.trt.options import SERVING, TensorRTOptions
from builder.engines.trt.profiles import ShapeProfile, stage_profiles
from builder.engines.trt.seam import LoadedPlan, PlanSpec, Progress, plan_builder
from builder.engines.trt.timing_cache import timing_cache
from builder.errors import EngineError
from builder.export.parity import Runner
from builder.export.precision import QUANTIZED, check_precision, convert
from builder.stage import Arrays, Stage
from builder.target import Target, parse_target

SUFFIX = "_trt"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that was built.

    Attributes:
        path: The file.
        spec: How it was built.
        precision: Precision of its network.
        tensorrt: Version of TensorRT.
        onnx_sha256: SHA-256 of the ONNX file that it was built from, in its precision.
        export_sha256: SHA-256 of the export itself.
    """

    path: Path
    spec: PlanSpec
    precision: str
    tensorrt: str
    onnx_sha256: str
    export_sha256: str

    def details(self) -> dict[str, Any]:
        """For the record."""
        gpu, options = self.spec.gpu, self.spec.options
        return {
            "tensorrt": self.tensorrt,
            "compute_capability": gpu.compute_capability,
            "gpu": gpu.name,
            "gpu_memory_mib": gpu.memory_mib,
            "driver": gpu.driver,
            "os": f"{platform.system()} {platform.machine()}",
            "profiles": [profile.to_json() for profile in self.spec.profiles],
            "flags": flags(options),
            "precision": self.precision,
            "onnx_sha256": self.onnx_sha256,
            "export_sha256": self.export_sha256,
            "builder": {k: v for k, v in asdict(options).items() if k not in SERVING},
        }


def flags(options: TensorRTOptions) -> list[str]:
    """Names of the builder flags and the hardware compatibility level that a plan is built with."""
    names = ["STRONGLY_TYPED", options.hardware_compatibility.upper()]
    names += ["VERSION_COMPATIBLE"] * options.version_compatible
    names += ["TF32"] * options.tf32
    names += ["STRICT_NANS"] * options.strict_nans
    return names


def precision_of(stage: Stage, target: Target, options: TensorRTOptions) -> str:
    """The precision that a stage's plan has on a target.

    Raises:
        EngineError: There is no such precision.
    """
    name = options.precision or stage.precision_at(target.name)
    return check_precision(name, where=f"stage {stage.name}")


def build_plan(job: EngineJob) -> Plan:
    """Check the network, bring it into its precision and build its plan, in `job.folder`.

    Raises:
        EngineError: The target is not this machine's GPU, the profile or the network does not
            fit, or TensorRT fails.
        MissingDependencyError: TensorRT is not installed or too old, or nvidia-modelopt is
            wanted and not installed.
    """
    job.tensorrt.check(f'builder.toml [tensorrt."{job.stage.name}"]')
    gpu = gpu_for(job.target)
    profiles = stage_profiles(job.stage, job.tensorrt.profiles)
    precision = precision_of(job.stage, job.target, job.tensorrt)
    return build_from(
        job.export,
        job.folder / job.target.plan,
        gpu=gpu,
        profiles=profiles,
        precision=precision,
        options=job.tensorrt,
        cache=job.cache,
        progress=job.progress,
        name=job.stage.name,
        calibration=_typical_inputs(job.stage) if precision in QUANTIZED else None,
    )


def _typical_inputs(stage: Stage) -> Arrays:
    import numpy as np

    return stage.example(stage.shapes[0] if stage.shapes else {}, np.random.default_rng(0))


def build_from(
    onnx: Path,
    plan: Path,
    *,
    gpu: Gpu,
    profiles: tuple[ShapeProfile, ...],
    precision: str,
    options: TensorRTOptions,
    cache: Path | None,
    progress: Progress,
    name: str,
    calibration: Arrays | None = None,
) -> Plan:
    """Build the plan of any ONNX file.

    Args:
        onnx: The file, FP32; external weights lie beside it.
        plan: The file to write.
        cache: Folder for timing caches; None keeps none.
        name: For messages.
        calibration: Typical inputs; see `builder.export.precision.convert`.

    Raises:
        EngineError: The network does not fit, or TensorRT fails.
        MissingDependencyError: See `build_plan`.
    """
    builder = plan_builder()
    version = builder.version()
    digests = FileDigests()
    with tempfile.TemporaryDirectory(dir=plan.parent, prefix=".network-") as scratch:
        network = convert(onnx, Path(scratch) / "model.onnx", precision, calibration)
        check_network(network, profiles, name=name)
        times = timing_cache(cache, gpu, version) if cache else None
        spec = PlanSpec(gpu=gpu, profiles=profiles, options=options, timing_cache=times)
        content = builder.build(network, spec, progress)
        if not content:
            raise EngineError("TensorRT built an empty plan", where=name)
        plan.write_bytes(content)
        return Plan(plan, spec, precision, version, digests.sha256(network), digests.sha256(onnx))


def build(job: EngineJob) -> list[Path]:
    """Build the plan; see `build_plan`."""
    return [build_plan(job).path]


def runner(stage: Stage, files: Sequence[Path]) -> Runner:
    """Run a plan with the profile that its stage declares, on the GPU that its name names.

    Raises:
        EngineError: That GPU is not here, or the plan does not deserialise.
    """
    gpu = gpu_for(parse_target(files[0].stem))
    spec = PlanSpec(gpu=gpu, profiles=stage_profiles(stage), options=TensorRTOptions())
    return runner_of(plan_builder().load(files[0], spec))


def runner_of(plan: LoadedPlan) -> Runner:
    """A loaded plan as inputs by name -> outputs by name."""

    def run(inputs: Arrays) -> Arrays:
        return plan.run(inputs)

    return run


def supports(target: Target) -> bool:
    """Every GPU; whether TensorRT still knows an old one, it says itself."""
    return target.is_gpu


KIND = EngineKind(
    name="tensorrt",
    backend="tensorrt",
    group="tensorrt",
    suffix=SUFFIX,
    libraries=("polygraphy",),
    build=build,
    runner=runner,
    supports=supports,
    per_target=True,
)

"""The real plan builder, on polygraphy's loaders. What of it is unverified stands in `seam`.

Only options that TensorRT 10.8 to 11 all know are used: networks are strongly typed, and nothing
sets a precision flag.
"""

import ctypes
import logging
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.engines.trt.failures import explain
from builder.engines.trt.gpu import INSTALL, Gpu, check_version
from builder.engines.trt.progress import Phases, make_monitor
from builder.engines.trt.seam import PlanSpec, Progress
from builder.errors import BuilderError, EngineError, MissingDependencyError
from builder.stage import Arrays

_WARMUP_RUNS, _TIMED_RUNS = 10, 50


class NvidiaPlanBuilder:
    """Builds and runs plans on a local GPU."""

    def version(self) -> str:
        """Version of the TensorRT that is imported.

        Raises:
            MissingDependencyError: It is not installed, cannot be loaded, or is too old.
        """
        try:
            import tensorrt as trt
        except (ImportError, OSError) as error:
            raise MissingDependencyError(
                f"TensorRT cannot be loaded: {error}", hint=INSTALL
            ) from error
        return check_version(str(trt.__version__))

    def build(self, onnx: Path, spec: PlanSpec, progress: Progress) -> bytes:
        """Build a plan from an ONNX file.

        Raises:
            EngineError: TensorRT refuses the network, or memory ran out.
            KeyboardInterrupt: The build was cancelled.
        """
        self.version()
        use_gpu(spec.gpu)
        phases = Phases(progress)
        with tensorrt_log() as log:
            try:
                plan = build_plan(onnx, spec, make_monitor(phases))
            except BuilderError:
                raise
            except Exception as error:
                if phases.interrupted:
                    raise KeyboardInterrupt from error
                raise explain(str(error), log, name=onnx.name) from error
        return plan

    def load(self, plan: Path, spec: PlanSpec) -> "NvidiaPlan":
        """Load a plan onto the GPU.

        Raises:
            EngineError: It does not deserialise.
        """
        self.version()
        use_gpu(spec.gpu)
        with tensorrt_log() as log:
            try:
                return NvidiaPlan(plan, spec)
            except Exception as error:
                raise explain(str(error), log, name=plan.name) from error


class NvidiaPlan:
    """A plan on a GPU, with one execution context."""

    def __init__(self, plan: Path, spec: PlanSpec):
        from polygraphy.backend.common import bytes_from_path
        from polygraphy.backend.trt import TrtRunner, engine_from_bytes

        self._profiles = spec.profiles
        self._name = plan.name
        self._runner = TrtRunner(engine_from_bytes(bytes_from_path(str(plan))))
        self._runner.activate()
        self._profile: int | None = None

    def run(self, inputs: Arrays) -> Arrays:
        """Run it with the first profile that admits the inputs.

        Raises:
            EngineError: No profile does, or the GPU failed.
        """
        index = next((i for i, p in enumerate(self._profiles) if p.admits_arrays(inputs)), None)
        if index is None:
            shapes = {name: array.shape for name, array in inputs.items()}
            raise EngineError(f"no profile admits inputs of the shapes {shapes}", where=self._name)
        with tensorrt_log() as log:
            try:
                if index != self._profile:
                    self._runner.set_profile(index)
                    self._profile = index
                outputs = self._runner.infer(inputs)
            except Exception as error:
                raise explain(str(error), log, name=self._name) from error
        # The runner's buffers are used again by the next run.
        return {name: array.copy() for name, array in outputs.items()}

    def latency_ms(self, inputs: Arrays) -> float:
        """Median of fifty runs after ten that are not counted."""
        for _ in range(_WARMUP_RUNS):
            self.run(inputs)
        times = []
        for _ in range(_TIMED_RUNS):
            start = time.perf_counter()
            self.run(inputs)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3

    def close(self) -> None:
        """Give its GPU memory back."""
        self._runner.deactivate()


def build_plan(onnx: Path, spec: PlanSpec, monitor: Any) -> bytes:
    """Parse, configure and build with polygraphy."""
    import tensorrt as trt
    from polygraphy.backend.trt import (
        CreateConfig,
        PostprocessConfig,
        Profile,
        engine_bytes_from_network,
        network_from_onnx_path,
    )

    profiles = []
    for wanted in spec.profiles:
        profile = Profile()
        for name, (low, usual, high) in wanted.inputs.items():
            profile.add(name, min=low, opt=usual, max=high)
        profiles.append(profile)
    options = spec.options
    workspace = options.workspace_mib << 20
    cache = None
    if spec.timing_cache is not None:
        spec.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        cache = str(spec.timing_cache)

    def set_flags(builder: Any, network: Any, config: Any) -> None:
        if options.strict_nans:
            config.set_flag(trt.BuilderFlag.STRICT_NANS)

    levels = trt.HardwareCompatibilityLevel
    config = CreateConfig(
        profiles=profiles,
        tf32=options.tf32,
        load_timing_cache=cache if cache and Path(cache).is_file() else None,
        hardware_compatibility_level=getattr(levels, options.hardware_compatibility.upper()),
        version_compatible=options.version_compatible,
        builder_optimization_level=options.optimization_level,
        memory_pool_limits={trt.MemoryPoolType.WORKSPACE: workspace} if workspace else None,
        progress_monitor=monitor,
        # As TensorRT does by default; polygraphy's would write every layer's details into the plan.
        profiling_verbosity=trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
    )
    plan = engine_bytes_from_network(
        network_from_onnx_path(str(onnx), strongly_typed=True),
        config=PostprocessConfig(config, set_flags),
        save_timing_cache=cache,
    )
    return bytes(plan)


def use_gpu(gpu: Gpu) -> None:
    """Make a GPU the one that this thread works on.

    Raises:
        EngineError: CUDA refuses it.
    """
    # Read once, when CUDA starts: its own order, fastest first, is not that of nvidia-smi.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    from polygraphy.cuda import wrapper

    try:
        status = int(wrapper().handle.cudaSetDevice(ctypes.c_int(gpu.ordinal)))
    except Exception as error:
        raise EngineError(
            f"CUDA cannot be loaded: {str(error).splitlines()[0]}", where=gpu.name, hint=INSTALL
        ) from error
    if status != 0:
        raise EngineError(
            f"CUDA error {status} when selecting GPU {gpu.ordinal}",
            where=gpu.name,
            hint="check that `nvidia-smi` works and CUDA_VISIBLE_DEVICES names that GPU",
        )


@contextmanager
def tensorrt_log() -> Iterator[list[str]]:
    """Collect what TensorRT and polygraphy report as errors, instead of printing it.

    BUILDER_DEBUG prints everything as well.
    """
    from polygraphy.logger import G_LOGGER

    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                messages.append(record.getMessage())

    logger = logging.getLogger("Polygraphy")
    before = (G_LOGGER.use_python_logging_system, logger.propagate, logger.level)
    G_LOGGER.use_python_logging_system = True
    handlers: list[logging.Handler] = [Collector()]
    if os.environ.get("BUILDER_DEBUG"):
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if len(handlers) > 1 else logging.ERROR)
    try:
        yield messages
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        G_LOGGER.use_python_logging_system, logger.propagate, _ = before
        logger.setLevel(before[2])

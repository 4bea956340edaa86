"""The seam: every call that needs a GPU or the TensorRT libraries goes through a `PlanBuilder`.

`plan_builder()` returns the real one, `builder.engines.trt.nvidia.NvidiaPlanBuilder`. Tests put
another one in its place with `replaced`, and a stand-in for the program `nvidia-smi` on PATH; all
else (profiles, precision, checks, publishing, records, refusals) runs as on a GPU machine.

**Unverified.** The real one has not built or run a plan, because no GPU was at hand. What is
checked is that every name, argument and attribute that it and polygraphy use exists in the
genuine Python bindings of TensorRT 11.4 and 10.16 (tests/engines/test_tensorrt_api.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from builder.engines.trt.gpu import Gpu
from builder.engines.trt.options import TensorRTOptions
from builder.engines.trt.profiles import ShapeProfile
from builder.stage import Arrays

Progress = Callable[[str, int, int], None]
"""Called with the phase of a build, how many of its steps are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    """How a plan is built from an ONNX file.

    Attributes:
        gpu: The GPU to build on.
        profiles: Optimisation profiles; several ones cover several ranges of sizes.
        options: Settings of the builder.
        timing_cache: File that remembers how long kernels take; made if it is not there.
    """

    gpu: Gpu
    profiles: tuple[ShapeProfile, ...]
    options: TensorRTOptions
    timing_cache: Path | None = None


class LoadedPlan(Protocol):
    """A plan on a GPU."""

    def run(self, inputs: Arrays) -> Arrays:
        """Run it: inputs by name -> outputs by name."""
        ...

    def latency_ms(self, inputs: Arrays) -> float:
        """Median time of one run in milliseconds, copies from and to the host included."""
        ...

    def close(self) -> None:
        """Give its GPU memory back."""
        ...


class PlanBuilder(Protocol):
    """What needs a GPU."""

    def version(self) -> str:
        """Version of TensorRT.

        Raises:
            MissingDependencyError: It is not installed, cannot be loaded, or is too old.
        """
        ...

    def build(self, onnx: Path, spec: PlanSpec, progress: Progress) -> bytes:
        """Build a plan; external weights are found beside the ONNX file.

        Raises:
            EngineError: TensorRT refuses the network, or memory ran out.
        """
        ...

    def load(self, plan: Path, spec: PlanSpec) -> LoadedPlan:
        """Load a plan onto the GPU.

        Raises:
            EngineError: It does not deserialise.
        """
        ...


def plan_builder() -> PlanBuilder:
    """The plan builder in use."""
    if _replacement is not None:
        return _replacement
    from builder.engines.trt.nvidia import NvidiaPlanBuilder

    return NvidiaPlanBuilder()


@contextmanager
def replaced(builder: PlanBuilder) -> Iterator[None]:
    """Use another plan builder inside the block: for tests, and for builders elsewhere."""
    global _replacement
    before, _replacement = _replacement, builder
    try:
        yield
    finally:
        _replacement = before


_replacement: PlanBuilder | None = None

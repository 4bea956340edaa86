"""`[tensorrt."SMAP_*"]` in builder.toml: how plans are built and served."""

from dataclasses import dataclass

from builder.config import setting
from builder.errors import ConfigError

HARDWARE = ("same_compute_capability", "ampere_plus", "none")


@dataclass(frozen=True, slots=True)
class TensorRTOptions:
    """How the plan of one stage is built and served."""

    precision: str | None = setting(
        None, "fp32, fp16, bf16, int8 or fp8; unset means what the stage declares for the target"
    )
    profiles: tuple[str, ...] = setting(
        (), 'optimisation profiles, e.g. ["T=1:100:4096"]; unset means the one of the stage'
    )
    optimization_level: int = setting(3, "builder optimisation level: 0 (quick) to 5 (thorough)")
    workspace_mib: int = setting(0, "MiB of GPU memory that a layer may use; 0 means no limit")
    hardware_compatibility: str = setting(
        "same_compute_capability", "same_compute_capability, ampere_plus, or none"
    )
    version_compatible: bool = setting(
        False, "run with later TensorRT versions, too; the server must be told"
    )
    tf32: bool = setting(False, "let FP32 matrix products round their inputs to 10 bits")
    strict_nans: bool = setting(True, "no optimisation that hides NaN or Inf")
    rtol: float | None = setting(None, "relative tolerance of the plan; unset: by precision")
    atol: float | None = setting(None, "absolute tolerance of the plan; unset: by precision")
    gpus: tuple[int, ...] = setting((), "GPUs to place instances on; empty means every GPU")
    cuda_graphs: bool = setting(False, "replay a CUDA graph at the profiles' usual sizes")

    def check(self, where: str) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: A value is out of its range.
        """
        if not 0 <= self.optimization_level <= 5:
            raise ConfigError("optimization_level is not within 0 to 5", where=where)
        if self.workspace_mib < 0:
            raise ConfigError("workspace_mib is negative", where=where)
        if self.hardware_compatibility not in HARDWARE:
            raise ConfigError(
                f"hardware_compatibility is {self.hardware_compatibility!r}",
                where=where,
                hint=f"use one of {', '.join(HARDWARE)}",
            )
        if any(gpu < 0 for gpu in self.gpus):
            raise ConfigError("gpus holds a negative number", where=where)


SERVING = ("gpus", "cuda_graphs")
"""Settings that change the config of a model, not its plan."""

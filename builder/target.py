"""Targets: where an engine runs."""

import difflib
from dataclasses import dataclass

from builder.errors import UsageError


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A kind of device: `cpu`, or a CUDA compute capability such as `sm90`.

    Attributes:
        name: `cpu` or `sm<major><minor>`, the name used in file names and on the command line.
    """

    name: str

    @property
    def is_gpu(self) -> bool:
        """Whether engines for this target run on a CUDA device."""
        return self.name != "cpu"

    @property
    def compute_capability(self) -> str | None:
        """The key that Triton uses in `cc_model_filenames`, e.g. `9.0`; None on the CPU."""
        return f"{self.name[2:-1]}.{self.name[-1]}" if self.is_gpu else None

    @property
    def plan(self) -> str:
        """File name of a TensorRT plan for this target: `sm90.plan`."""
        return f"{self.name}.plan"


CPU = Target("cpu")

AUTO = "auto"
"""On the command line and in builder.toml: `cpu`, and the GPUs of this machine if there are any."""

COMPUTE_CAPABILITIES = (
    *("7.0", "7.2", "7.5"),  # Volta, Xavier, Turing
    *("8.0", "8.6", "8.7", "8.8", "8.9"),  # Ampere, Orin, Ada
    *("9.0", "10.0", "10.1", "10.3", "11.0", "12.0", "12.1"),  # Hopper, Blackwell, Thor
)
"""The compute capabilities from 7.0 on that exist (https://developer.nvidia.com/cuda-gpus)."""


def target_of(compute_capability: str) -> Target:
    """The target of a GPU: `9.0` -> `sm90`.

    Raises:
        UsageError: That compute capability does not exist or is older than 7.0.
    """
    return parse_target("sm" + compute_capability.replace(".", ""))


def parse_target(text: str) -> Target:
    """Read a target name.

    Raises:
        UsageError: The text is neither `cpu` nor a compute capability from sm70 on.
    """
    name = text.strip().lower()
    known = ["cpu", *("sm" + c.replace(".", "") for c in COMPUTE_CAPABILITIES)]
    if name in known:
        return Target(name)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    raise UsageError(
        f"unknown target {text!r}",
        hint=(f"did you mean {close[0]}? " if close else "")
        + "targets are cpu and compute capabilities such as sm75, sm80, sm90, sm120",
    )

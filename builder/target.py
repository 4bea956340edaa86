"""Targets: where an engine runs."""

import re
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


CPU = Target("cpu")

_SM = re.compile(r"sm([7-9]|1[0-9])([0-9])")


def parse_target(text: str) -> Target:
    """Read a target name.

    Raises:
        UsageError: The text is neither `cpu` nor a compute capability from sm70 on.
    """
    name = text.strip().lower()
    if name == "cpu" or _SM.fullmatch(name):
        return Target(name)
    raise UsageError(
        f"unknown target {text!r}",
        hint="targets are cpu and compute capabilities such as sm75, sm80, sm90, sm120",
    )

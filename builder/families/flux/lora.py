"""LoRA files: low-rank changes of weights, fused into the networks before they are exported.

A file holds, for each layer that it changes, `down` [rank,in] and `up` [out,rank], and may hold
`alpha`; the layer's weight W becomes W + scale * alpha/rank * up @ down (E. Hu et al., "LoRA:
Low-Rank Adaptation of Large Language Models", 2021). Changes of several files add up.

`lora_names` knows what the names of the tensors mean, `lora_file` reads and checks a file, and
`lora_fuse` changes the weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import UsageError

CODE = tuple(f"builder.families.flux.{name}" for name in ("lora_names", "lora_file", "lora_fuse"))
"""The modules that decide what a fused network computes."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA file and how much of it is wanted.

    Attributes:
        scale: 1 is what it was trained for; may be negative.
    """

    file: Path
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.file.name}:{self.scale!r}"


def parse_lora(text: str) -> Lora:
    """Read `file.safetensors:0.8`; without a number the scale is 1. The path becomes absolute.

    Raises:
        UsageError: There is no such file, or the scale is no finite number.
    """
    name, colon, number = text.rpartition(":")
    if not colon or Path(text).is_file():
        name, number = text, "1"
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise UsageError(
            f"{number!r} is no scale", where=f"--lora {text}", hint="write FILE:SCALE, FILE:0.8"
        )
    file = Path(name).expanduser().absolute()
    if not file.is_file():
        raise UsageError("no such file", where=f"--lora {name}")
    return Lora(file, scale)


def lora_ingredients(
    loras: Sequence[Lora],
) -> tuple[tuple[Path, ...], tuple[str, ...], dict[str, str]]:
    """What decides the weights of a fused network besides its checkpoint: files, code, settings."""
    if not loras:
        return (), (), {}
    files = tuple(dict.fromkeys(lora.file for lora in loras))
    return files, CODE, {"loras": ", ".join(map(str, loras))}

"""The `[anomaly]` section of builder.toml."""

from dataclasses import dataclass
from pathlib import Path

from builder.config import setting

SHIPPED_WEIGHTS = Path(__file__).parent / "weights"
"""The weights that come with the package."""


@dataclass(frozen=True, slots=True)
class AnomalyOptions:
    """What the anomaly family is built from."""

    weights: Path = setting(
        SHIPPED_WEIGHTS, "folder with SMAP_<channel>.safetensors and tranad_sat1.safetensors"
    )
    tranad_checkpoint: Path | None = setting(
        None, "an upstream model.ckpt to use for tranad_sat1 in place of its safetensors file"
    )
    bank: bool = setting(
        False, "also build smap_bank: all 27 channels in one model, for requests about many"
    )

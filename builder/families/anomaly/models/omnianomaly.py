"""OmniAnomaly for the 27 SMAP channels: one graph, 27 weight sets."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import CHANNELS, Channel
from builder.families.anomaly.models.detector import (
    INPUTS,
    OUTPUTS,
    PROFILE,
    SHAPES,
    telemetry_example,
)
from builder.families.anomaly.options import AnomalyOptions
from builder.stage import Stage, TorchSource

if TYPE_CHECKING:
    import torch


def stages(config: Config) -> Iterable[Stage]:
    """`SMAP_A-1` … `SMAP_T-3`."""
    weights = config.root / config.section("anomaly", AnomalyOptions).weights
    for channel in CHANNELS:
        yield stage(channel, weights / f"{channel.model}.safetensors")


def stage(channel: Channel, checkpoint: Path) -> Stage:
    """The detector of one channel."""

    def load() -> "torch.nn.Module":
        from builder.families.anomaly.checkpoint import load_omnianomaly

        return load_omnianomaly(checkpoint)

    return Stage(
        name=channel.model,
        family="anomaly",
        inputs=INPUTS,
        outputs=OUTPUTS,
        source=TorchSource(
            load=load,
            files=(checkpoint,),
            code=(
                "builder.families.anomaly.networks.omnianomaly",
                "builder.families.anomaly.networks.detector",
                "builder.families.anomaly.networks.scoring",
                "builder.families.anomaly.networks.compact_score",
            ),
            graph="omnianomaly",
        ),
        example=telemetry_example,
        shapes=SHAPES,
        profile=PROFILE,
        metadata={
            "channel": channel.name,
            "subsystem": channel.subsystem,
            "spacecraft": channel.spacecraft,
        },
    )

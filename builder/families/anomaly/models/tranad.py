"""TranAD, as ONNX and as TorchScript."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builder.config import Config
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

NAME = "tranad_sat1"


def stages(config: Config) -> Iterable[Stage]:
    """`tranad_sat1`."""
    options = config.section("anomaly", AnomalyOptions)
    checkpoint = config.root / (
        options.tranad_checkpoint or options.weights / f"{NAME}.safetensors"
    )

    def load() -> "torch.nn.Module":
        from builder.families.anomaly.checkpoint import load_tranad

        return load_tranad(checkpoint)

    yield Stage(
        name=NAME,
        family="anomaly",
        inputs=INPUTS,
        outputs=OUTPUTS,
        source=TorchSource(
            load=load,
            files=(checkpoint,),
            code=(
                "builder.families.anomaly.networks.tranad",
                "builder.families.anomaly.networks.folded_tranad",
                "builder.families.anomaly.networks.detector",
                "builder.families.anomaly.networks.scoring",
                "builder.families.anomaly.networks.compact_score",
            ),
        ),
        example=telemetry_example,
        shapes=SHAPES,
        profile=PROFILE,
        engines=("onnxruntime", "tensorrt", "torchscript"),
        metadata={"spacecraft": "SMAP"},
    )

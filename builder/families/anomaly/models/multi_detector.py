"""The pipeline `multi_detector`: all channels of a subsystem in, one answer about it out."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import FEATURES, SUBSYSTEMS
from builder.families.anomaly.models import postprocessing
from builder.families.anomaly.models.detector import PROFILE, SHAPES, telemetry_window
from builder.pipeline import Pipeline, Step
from builder.stage import Arrays, Shape, Stage, Tensor, Tolerance, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import torch

NAME = "multi_detector"
ALIGN_NAME = "aligned_channels_onnx"
CHANNELS = SUBSYSTEMS[postprocessing.SUBSYSTEM]


def stages(config: Config) -> Iterable[Stage]:
    """The first step: one for all channels, since Triton can lock up where several are first."""

    def load() -> "torch.nn.Module":
        from builder.families.anomaly.networks.processing import AlignedChannels

        return AlignedChannels().eval()

    def windows(shape: Shape, generator: "np.random.Generator") -> Arrays:
        return {channel: telemetry_window(shape["T"], generator) for channel in CHANNELS}

    return (
        Stage(
            name=ALIGN_NAME,
            family="anomaly",
            inputs=tuple(Tensor(channel, "FP32", ("T", FEATURES)) for channel in CHANNELS),
            outputs=tuple(
                Tensor(f"aligned_{channel}", "FP32", ("T", FEATURES)) for channel in CHANNELS
            ),
            source=TorchSource(
                load=load, code=("builder.families.anomaly.networks.processing", __name__)
            ),
            example=windows,
            shapes=SHAPES,
            tolerance=Tolerance(atol=0.0),
            profile=PROFILE,
            metadata={"description": "refuses channels of different lengths, changes nothing"},
        ),
    )


def pipelines(config: Config) -> Iterable[Pipeline]:
    """The one pipeline of this module; its inputs are named after the channels, `E-1` to `E-5`.

    The channels have to be sampled at the same times: row t of every input is one moment. NaN
    and Inf go straight to the detectors, which raise an alarm about such a sample.
    """
    stage = postprocessing.subsystem_vote(config)
    align = Step(
        ALIGN_NAME,
        {channel: channel for channel in CHANNELS},
        {f"aligned_{channel}": f"aligned_{channel}" for channel in CHANNELS},
    )
    detectors = [
        Step(
            model,
            {"input_data": f"aligned_{channel}"},
            {"anomaly_score": f"score_{channel}", "anomaly_detected": f"detected_{channel}"},
        )
        for channel, model in zip(CHANNELS, postprocessing.VOTERS, strict=True)
    ]
    vote = Step(
        stage.name,
        {tensor.name: tensor.name for tensor in stage.inputs},
        {tensor.name: tensor.name for tensor in stage.outputs},
    )
    return (
        Pipeline(
            name=NAME,
            family="anomaly",
            inputs=tuple(Tensor(channel, "FP32", ("T", FEATURES)) for channel in CHANNELS),
            outputs=stage.outputs,
            steps=(align, *detectors, vote),
            example=example,
            reference=partial(reference, config),
            description=f"the {len(CHANNELS)} channels of {postprocessing.SUBSYSTEM} -> one answer",
            metadata={"subsystem": postprocessing.SUBSYSTEM},
        ),
    )


def example(generator: "np.random.Generator") -> Arrays:
    """A hundred samples of every channel."""
    return {channel: telemetry_window(100, generator) for channel in CHANNELS}


def reference(config: Config, arrays: Arrays) -> Arrays:
    """The pipeline in PyTorch, without any export or engine."""
    from builder.families.anomaly.networks.reference import answer

    detectors = postprocessing.detectors(config)
    answers = [
        answer(detectors[model], arrays[channel])
        for channel, model in zip(CHANNELS, postprocessing.VOTERS, strict=True)
    ]
    return answer(
        postprocessing.subsystem_vote(config),
        *(a[name] for a in answers for name in ("anomaly_score", "anomaly_detected")),
    )

"""The pipeline `multi_detector`: all channels of a subsystem in, one answer about it out."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import FEATURES, SUBSYSTEMS
from builder.families.anomaly.models import postprocessing, preprocessing
from builder.pipeline import Pipeline, Step
from builder.stage import Arrays, Tensor

if TYPE_CHECKING:
    import numpy as np

NAME = "multi_detector"
CHANNELS = SUBSYSTEMS[postprocessing.SUBSYSTEM]


def pipelines(config: Config) -> Iterable[Pipeline]:
    """The one pipeline of this module; its inputs are named after the channels, `E-1` to `E-5`.

    The channels have to be sampled at the same times: row t of every input is one moment. NaN
    and Inf go straight to the detectors, which raise an alarm about such a sample.
    """
    outputs = (
        Tensor("anomaly_score", "FP32", ("T",)),
        Tensor("anomaly_detected", "BOOL", ("T",)),
        Tensor("votes", "INT32", ("T",)),
        Tensor("detector_flags", "BOOL", ("T", len(CHANNELS))),
    )
    detectors = [
        Step(
            model,
            {"input_data": channel},
            {"anomaly_score": f"score_{channel}", "anomaly_detected": f"detected_{channel}"},
        )
        for channel, model in zip(CHANNELS, postprocessing.VOTERS, strict=True)
    ]
    vote = Step(
        postprocessing.VOTE_NAME,
        {
            name: name
            for model in postprocessing.VOTERS
            for name in postprocessing.vote_inputs(model)
        },
        {tensor.name: tensor.name for tensor in outputs},
    )
    return (
        Pipeline(
            name=NAME,
            family="anomaly",
            inputs=tuple(Tensor(channel, "FP32", ("T", FEATURES)) for channel in CHANNELS),
            outputs=outputs,
            steps=(*detectors, vote),
            example=example,
            reference=reference,
            description=f"the {len(CHANNELS)} channels of {postprocessing.SUBSYSTEM} -> one answer",
            metadata={"subsystem": postprocessing.SUBSYSTEM},
        ),
    )


def example(generator: "np.random.Generator") -> Arrays:
    """A hundred samples of every channel."""
    return {channel: preprocessing.telemetry_like(100, generator) for channel in CHANNELS}


def reference(arrays: Arrays) -> Arrays:
    """The pipeline in PyTorch, without any export or engine."""
    from builder.families.anomaly.networks.reference import detect, run

    answers = [
        detect(model, arrays[channel])[output]
        for channel, model in zip(CHANNELS, postprocessing.VOTERS, strict=True)
        for output in ("anomaly_score", "anomaly_detected")
    ]
    score, detected, votes, flags = run(postprocessing.load_vote(), *answers)
    return {
        "anomaly_score": score,
        "anomaly_detected": detected,
        "votes": votes,
        "detector_flags": flags,
    }

"""The stages behind the detectors: fusing two of them, masking one, and a subsystem's vote."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import SUBSYSTEMS, find_channel
from builder.families.anomaly.models import omnianomaly, tranad
from builder.stage import (
    Arrays,
    Dtype,
    Range,
    Shape,
    Stage,
    Tensor,
    Tolerance,
    TorchSource,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

NAME = "postprocessing_onnx"
MASK_NAME = "validity_mask_onnx"
VOTE_NAME = "subsystem_vote_onnx"

FUSED = ("SMAP_E-1", tranad.NAME)
"""The detectors that `postprocessing_onnx` fuses; their thresholds are in its graph."""

SUBSYSTEM = "EPS"
"""The subsystem that `subsystem_vote_onnx` is about: electrical power."""

QUORUM = 1
"""Channels that must raise an alarm for the subsystem to: each watches something else, so they
need not agree."""

VOTERS: tuple[str, ...] = tuple(find_channel(name).model for name in SUBSYSTEMS[SUBSYSTEM])
"""The detectors that vote, in the order of the vote's inputs."""

_CODE = ("builder.families.anomaly.networks.processing", __name__)
_SHAPES: tuple[Shape, ...] = ({"T": 100}, {"T": 1}, {"T": 731})
_PROFILE: Mapping[str, Range] = {"T": Range(1, 100, 8640)}

_ANSWER = (
    Tensor("anomaly_score", "FP32", ("T",)),
    Tensor("anomaly_detected", "BOOL", ("T",)),
)
_VOTES = Tensor("votes", "INT32", ("T",))


def stages(config: Config) -> Iterable[Stage]:
    """Everything that comes after the detectors."""
    return (postprocessing(config), validity_mask(), subsystem_vote(config))


def detectors(config: Config) -> Mapping[str, Stage]:
    """The stages of all detectors by name."""
    return {s.name: s for s in (*omnianomaly.stages(config), *tranad.stages(config))}


def postprocessing(config: Config) -> Stage:
    """The fusion of two detectors of one channel; see `networks.processing.Postprocessing`."""
    fused = [detectors(config)[name] for name in FUSED]

    def load() -> "torch.nn.Module":
        from builder.families.anomaly.networks.processing import Postprocessing
        from builder.families.anomaly.networks.reference import threshold

        return Postprocessing(*map(threshold, fused)).eval()

    return _stage(
        NAME,
        inputs={
            "omnianomaly_score": "FP32",
            "omnianomaly_detected": "BOOL",
            "tranad_score": "FP32",
            "tranad_detected": "BOOL",
            "sample_valid": "BOOL",
        },
        outputs=(*_ANSWER, _VOTES),
        source=TorchSource(load=load, files=_files(fused), code=_CODE),
        description=f"fuses {FUSED[0]} and {FUSED[1]}; a score above 1 is an alarm",
    )


def validity_mask() -> Stage:
    """One detector's answer without invalid samples; see `networks.processing.ValidityMask`."""

    def load() -> "torch.nn.Module":
        from builder.families.anomaly.networks.processing import ValidityMask

        return ValidityMask().eval()

    return _stage(
        MASK_NAME,
        inputs={"score": "FP32", "detected": "BOOL", "sample_valid": "BOOL"},
        outputs=_ANSWER,
        source=TorchSource(load=load, code=_CODE),
        description="takes back what a detector said about filled-in samples",
    )


def subsystem_vote(config: Config) -> Stage:
    """One answer from several channels; see `networks.processing.SubsystemVote`."""
    voters = [detectors(config)[name] for name in VOTERS]

    def load() -> "torch.nn.Module":
        from builder.families.anomaly.networks.processing import SubsystemVote
        from builder.families.anomaly.networks.reference import threshold

        return SubsystemVote([threshold(voter) for voter in voters], QUORUM).eval()

    inputs: dict[str, Dtype] = {}
    for channel in SUBSYSTEMS[SUBSYSTEM]:
        inputs |= {f"score_{channel}": "FP32", f"detected_{channel}": "BOOL"}
    return _stage(
        VOTE_NAME,
        inputs=inputs,
        outputs=(*_ANSWER, _VOTES, Tensor("detector_flags", "BOOL", ("T", len(VOTERS)))),
        source=TorchSource(load=load, files=_files(voters), code=_CODE),
        description=f"one answer about {SUBSYSTEM} from {', '.join(VOTERS)}",
    )


def _files(stages: Iterable[Stage]) -> tuple[Path, ...]:
    return tuple(file for stage in stages for file in stage.source.files)


def _stage(
    name: str,
    *,
    inputs: Mapping[str, Dtype],
    outputs: tuple[Tensor, ...],
    source: TorchSource,
    description: str,
) -> Stage:
    def example(shape: Shape, generator: "np.random.Generator") -> Arrays:
        arrays: Arrays = {}
        for tensor, dtype in inputs.items():
            if dtype == "BOOL":
                # Most samples are valid, few are anomalies.
                share = 0.9 if tensor == "sample_valid" else 0.2
                arrays[tensor] = generator.random(shape["T"]) < share
            else:
                arrays[tensor] = generator.exponential(2.0, shape["T"]).astype("float32")
        return arrays

    return Stage(
        name=name,
        family="anomaly",
        inputs=tuple(Tensor(tensor, dtype, ("T",)) for tensor, dtype in inputs.items()),
        outputs=outputs,
        source=source,
        example=example,
        shapes=_SHAPES,
        tolerance=Tolerance(atol=1e-6, rtol=1e-6),
        profile=_PROFILE,
        metadata={"description": description},
    )

"""The stages behind the detectors: fusing two of them, masking one, and a subsystem's vote."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import SUBSYSTEMS, find_channel
from builder.stage import Arrays, Dtype, Range, Shape, Stage, Tensor, Tolerance, TorchSource

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

NAME = "postprocessing_onnx"
MASK_NAME = "validity_mask_onnx"
VOTE_NAME = "subsystem_vote_onnx"

FUSED = ("SMAP_E-1", "tranad_sat1")
"""The detectors that `postprocessing_onnx` fuses; their thresholds are in its graph."""

SUBSYSTEM = "EPS"
"""The subsystem that `subsystem_vote_onnx` is about: electrical power."""

QUORUM = 1
"""Channels that must raise an alarm for the subsystem to: each watches something else, so they
need not agree."""

VOTERS: tuple[str, ...] = tuple(find_channel(name).model for name in SUBSYSTEMS[SUBSYSTEM])
"""The detectors that vote, in the order of the vote's inputs."""

_CODE = ("builder.families.anomaly.networks.processing",)
_WEIGHTS = Path(__file__).parents[1] / "weights"
_SHAPES: tuple[Shape, ...] = ({"T": 100}, {"T": 1}, {"T": 731})
_PROFILE: Mapping[str, Range] = {"T": Range(1, 100, 8640)}

_ANSWER = (
    Tensor("anomaly_score", "FP32", ("T",)),
    Tensor("anomaly_detected", "BOOL", ("T",)),
)
_VOTES = Tensor("votes", "INT32", ("T",))


def stages(config: Config) -> Iterable[Stage]:
    """Everything that comes after the detectors."""
    yield _stage(
        NAME,
        inputs=_inputs(
            omnianomaly_score="FP32",
            omnianomaly_detected="BOOL",
            tranad_score="FP32",
            tranad_detected="BOOL",
            sample_valid="BOOL",
        ),
        outputs=(*_ANSWER, _VOTES),
        source=TorchSource(load=load_postprocessing, files=weights_files(FUSED), code=_CODE),
        description=f"fuses {FUSED[0]} and {FUSED[1]}; a score above 1 is an alarm",
    )
    yield _stage(
        MASK_NAME,
        inputs=_inputs(score="FP32", detected="BOOL", sample_valid="BOOL"),
        outputs=_ANSWER,
        source=TorchSource(load=load_mask, code=_CODE),
        description="takes back what a detector said about filled-in samples",
    )
    yield _stage(
        VOTE_NAME,
        inputs=_inputs(
            **{name: dtype for model in VOTERS for name, dtype in vote_inputs(model).items()}
        ),
        outputs=(*_ANSWER, _VOTES, Tensor("detector_flags", "BOOL", ("T", len(VOTERS)))),
        source=TorchSource(load=load_vote, files=weights_files(VOTERS), code=_CODE),
        description=f"one answer about {SUBSYSTEM} from {', '.join(VOTERS)}",
    )


def weights_files(models: tuple[str, ...]) -> tuple[Path, ...]:
    """The files that the thresholds of these detectors come from."""
    return tuple(_WEIGHTS / f"{model}.safetensors" for model in models)


def vote_inputs(model: str) -> Mapping[str, Dtype]:
    """Names and dtypes of the two inputs of the vote that one detector feeds."""
    channel = model.removeprefix("SMAP_")
    return {f"score_{channel}": "FP32", f"detected_{channel}": "BOOL"}


def load_postprocessing() -> "nn.Module":
    """The fusion with the thresholds of its two detectors."""
    from builder.families.anomaly.networks.processing import Postprocessing
    from builder.families.anomaly.networks.reference import thresholds

    return Postprocessing(*thresholds(FUSED)).eval()


def load_mask() -> "nn.Module":
    """The mask; it has no weights."""
    from builder.families.anomaly.networks.processing import ValidityMask

    return ValidityMask().eval()


def load_vote() -> "nn.Module":
    """The vote with the thresholds of its detectors."""
    from builder.families.anomaly.networks.processing import SubsystemVote
    from builder.families.anomaly.networks.reference import thresholds

    return SubsystemVote(thresholds(VOTERS), QUORUM).eval()


def _inputs(**dtypes: Dtype) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, ("T",)) for name, dtype in dtypes.items())


def _stage(
    name: str,
    *,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    source: TorchSource,
    description: str,
) -> Stage:
    def example(shape: Shape, generator: "np.random.Generator") -> Arrays:
        arrays: Arrays = {}
        for tensor in inputs:
            if tensor.dtype == "BOOL":
                # Most samples are valid, few are anomalies.
                share = 0.9 if tensor.name == "sample_valid" else 0.2
                arrays[tensor.name] = generator.random(shape["T"]) < share
            else:
                arrays[tensor.name] = generator.exponential(0.01, shape["T"]).astype("float32")
        return arrays

    return Stage(
        name=name,
        family="anomaly",
        inputs=inputs,
        outputs=outputs,
        source=source,
        example=example,
        shapes=_SHAPES,
        tolerance=Tolerance(atol=1e-6, rtol=1e-6),
        profile=_PROFILE,
        metadata={"description": description},
    )

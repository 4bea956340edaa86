"""The pipeline `anomaly_pipeline`: raw telemetry in, the fused answer of two detectors out."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.anomaly.channels import FEATURES
from builder.families.anomaly.models import postprocessing, preprocessing
from builder.pipeline import Pipeline, Step
from builder.stage import Arrays, Tensor

if TYPE_CHECKING:
    import numpy as np

NAME = "anomaly_pipeline"
OMNIANOMALY, TRANAD = postprocessing.FUSED


def pipelines(config: Config) -> Iterable[Pipeline]:
    """The one pipeline of this module."""
    return (
        Pipeline(
            name=NAME,
            family="anomaly",
            inputs=(Tensor("telemetry", "FP32", ("T", FEATURES)),),
            outputs=(
                Tensor("anomaly_score", "FP32", ("T",)),
                Tensor("anomaly_detected", "BOOL", ("T",)),
                Tensor("votes", "INT32", ("T",)),
                Tensor("sample_valid", "BOOL", ("T",)),
                Tensor("reconstruction", "FP32", ("T", FEATURES)),
            ),
            steps=(
                Step(
                    preprocessing.NAME,
                    {"telemetry": "telemetry"},
                    {"input_data": "clean", "sample_valid": "sample_valid"},
                ),
                Step(
                    OMNIANOMALY,
                    {"input_data": "clean"},
                    {
                        "reconstruction": "reconstruction",
                        "anomaly_score": "omnianomaly_score",
                        "anomaly_detected": "omnianomaly_detected",
                    },
                ),
                Step(
                    TRANAD,
                    {"input_data": "clean"},
                    {"anomaly_score": "tranad_score", "anomaly_detected": "tranad_detected"},
                ),
                Step(
                    postprocessing.NAME,
                    {
                        "omnianomaly_score": "omnianomaly_score",
                        "omnianomaly_detected": "omnianomaly_detected",
                        "tranad_score": "tranad_score",
                        "tranad_detected": "tranad_detected",
                        "sample_valid": "sample_valid",
                    },
                    {
                        "anomaly_score": "anomaly_score",
                        "anomaly_detected": "anomaly_detected",
                        "votes": "votes",
                    },
                ),
            ),
            example=example,
            reference=partial(reference, config),
            description=f"telemetry with drop-outs -> {OMNIANOMALY} and {TRANAD} -> one answer",
            metadata={"channel": OMNIANOMALY.removeprefix("SMAP_")},
        ),
    )


def example(generator: "np.random.Generator") -> Arrays:
    """A hundred samples with drop-outs."""
    return preprocessing.example({"T": 100}, generator)


def reference(config: Config, arrays: Arrays) -> Arrays:
    """The pipeline in NumPy and PyTorch, without any export or engine."""
    from builder.families.anomaly.networks.reference import answer

    detectors = postprocessing.detectors(config)
    clean = preprocessing.reference(arrays)
    omnianomaly = answer(detectors[OMNIANOMALY], clean["input_data"])
    tranad = answer(detectors[TRANAD], clean["input_data"])
    fused = answer(
        postprocessing.postprocessing(config),
        omnianomaly["anomaly_score"],
        omnianomaly["anomaly_detected"],
        tranad["anomaly_score"],
        tranad["anomaly_detected"],
        clean["sample_valid"],
    )
    return {
        **fused,
        "sample_valid": clean["sample_valid"],
        "reconstruction": omnianomaly["reconstruction"],
    }

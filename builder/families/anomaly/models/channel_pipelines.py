"""The pipelines `SMAP_A-1_pipeline` and so on: one channel's raw telemetry, drop-outs included."""

from collections.abc import Iterable
from functools import partial

from builder.config import Config
from builder.families.anomaly.channels import CHANNELS, FEATURES, Channel
from builder.families.anomaly.models import anomaly_pipeline, postprocessing, preprocessing
from builder.pipeline import Pipeline, Step
from builder.stage import Arrays, Tensor


def pipelines(config: Config) -> Iterable[Pipeline]:
    """One pipeline per channel."""
    return [_pipeline(config, channel) for channel in CHANNELS]


def name_of(channel: Channel) -> str:
    """Name of a channel's pipeline."""
    return f"{channel.model}_pipeline"


def _pipeline(config: Config, channel: Channel) -> Pipeline:
    return Pipeline(
        name=name_of(channel),
        family="anomaly",
        inputs=(Tensor("telemetry", "FP32", ("T", FEATURES)),),
        outputs=(
            Tensor("reconstruction", "FP32", ("T", FEATURES)),
            Tensor("anomaly_score", "FP32", ("T",)),
            Tensor("anomaly_detected", "BOOL", ("T",)),
            Tensor("sample_valid", "BOOL", ("T",)),
        ),
        steps=(
            Step(
                preprocessing.NAME,
                {"telemetry": "telemetry"},
                {"input_data": "clean", "sample_valid": "sample_valid"},
            ),
            Step(
                channel.model,
                {"input_data": "clean"},
                {
                    "reconstruction": "reconstruction",
                    "anomaly_score": "score",
                    "anomaly_detected": "detected",
                },
            ),
            Step(
                postprocessing.MASK_NAME,
                {"score": "score", "detected": "detected", "sample_valid": "sample_valid"},
                {"anomaly_score": "anomaly_score", "anomaly_detected": "anomaly_detected"},
            ),
        ),
        example=anomaly_pipeline.example,
        reference=partial(reference, config, channel.model),
        description=f"telemetry with drop-outs -> {channel.model}",
        metadata={"channel": channel.name, "subsystem": channel.subsystem},
    )


def reference(config: Config, model: str, arrays: Arrays) -> Arrays:
    """The pipeline around one detector in NumPy and PyTorch, without any export or engine."""
    from builder.families.anomaly.networks.reference import answer

    clean = preprocessing.reference(arrays)
    detector = answer(postprocessing.detectors(config)[model], clean["input_data"])
    masked = answer(
        postprocessing.validity_mask(),
        detector["anomaly_score"],
        detector["anomaly_detected"],
        clean["sample_valid"],
    )
    return {
        **masked,
        "sample_valid": clean["sample_valid"],
        "reconstruction": detector["reconstruction"],
    }

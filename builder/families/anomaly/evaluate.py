"""Evaluating the detectors on labelled telemetry, beside detectors that need no model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builder.families.anomaly.baselines import RANDOM_RATE, random_alarms, range_rule
from builder.families.anomaly.channels import Channel
from builder.families.anomaly.metrics import Counts, Metrics, count, pool, summarise
from builder.families.anomaly.telemetry import (
    SAMPLES_PER_DAY,
    Mask,
    Samples,
    Segment,
    load_labels,
    load_test,
    load_train,
    to_segments,
)

if TYPE_CHECKING:
    from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
    from builder.families.anomaly.networks.tranad import TranAD

RANDOM_SEEDS = tuple(range(5))
"""Random alarms are drawn with each of these seeds; the counts of all draws are pooled."""

DETECTORS = ("model", "range rule", "random, same rate", "random, 1 %")
"""What is compared, in the order of the report."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a detector says about some telemetry.

    Attributes:
        score: FP32 [T].
        detected: BOOL [T].
        threshold: Scores above it are detected.
    """

    score: NDArray[np.float32]
    detected: Mask
    threshold: float


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """One channel.

    Attributes:
        channel, subsystem: Which one.
        samples: Length of the test array.
        metrics: Figures by detector, see `DETECTORS`.
        labelled: Labelled segments.
        detected: Segments that the model detected.
        threshold: Of the model's score.
    """

    channel: str
    subsystem: str
    samples: int
    metrics: dict[str, Metrics]
    labelled: tuple[Segment, ...]
    detected: tuple[Segment, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All channels.

    Attributes:
        model: Name of the evaluated network.
        samples_per_day: The assumption behind false alarms per day.
        pooled: Figures by detector over the samples of all channels.
        channels: Per channel, in the order in which they were given.
    """

    model: str
    samples_per_day: int
    pooled: dict[str, Metrics]
    channels: tuple[ChannelReport, ...]

    def to_json(self) -> str:
        """The whole report, indented."""
        return json.dumps(asdict(self), indent=2)


Seen = Callable[[ChannelReport, Samples, Scores], None]
"""Called after each channel with its report, its test array and the model's answer."""


def apply_detector(module: "OmniAnomaly | TranAD", samples: Samples) -> Scores:
    """Run a detector on FP32 [T,25] as one window."""
    import torch

    with torch.inference_mode():
        _, score, detected = module(torch.from_numpy(samples))
    return Scores(score.numpy(), detected.numpy(), float(module.scorer.threshold))


def evaluate(
    folder: Path,
    channels: Sequence[Channel],
    load: Callable[[Channel], "OmniAnomaly | TranAD"],
    seen: Seen | None = None,
) -> Evaluation:
    """Run the detector of each channel on its test array and compare with the labels.

    Args:
        folder: Telemetry of the telemanom layout.
        channels: The channels; at least one.
        load: Gives the detector of a channel.
        seen: Called after each channel, for progress and plots.

    Raises:
        DataError: The telemetry cannot be used.
        CheckpointError: Weights cannot be used.
    """
    labels = load_labels(folder)
    totals: dict[str, list[Counts]] = {name: [] for name in DETECTORS}
    reports = []
    model = ""
    for number, channel in enumerate(channels):
        train, test = load_train(folder, channel.name), load_test(folder, channel.name)
        module = load(channel)
        model = type(module).__name__
        answer = apply_detector(module, test)
        labelled = labels.get(channel.name, ())
        counts = _compare(answer.detected, train, test, labelled, number)
        for name, counted in counts.items():
            totals[name].append(counted)
        report = ChannelReport(
            channel=channel.name,
            subsystem=channel.subsystem,
            samples=len(test),
            metrics={name: summarise(counted) for name, counted in counts.items()},
            labelled=labelled,
            detected=to_segments(answer.detected),
            threshold=answer.threshold,
        )
        reports.append(report)
        if seen is not None:
            seen(report, test, answer)
    pooled = {name: summarise(pool(counted)) for name, counted in totals.items()}
    return Evaluation(model, SAMPLES_PER_DAY, pooled, tuple(reports))


def _compare(
    detected: Mask,
    train: Samples,
    test: Samples,
    labelled: Sequence[Segment],
    number: int,
) -> dict[str, Counts]:
    rate = float(detected.mean())
    rules = (detected, range_rule(train, test))
    counts = [count(alarms, labelled) for alarms in rules]
    for part in (rate, RANDOM_RATE):
        draws = (random_alarms(len(test), part, [seed, number]) for seed in RANDOM_SEEDS)
        counts.append(pool(count(alarms, labelled) for alarms in draws))
    return dict(zip(DETECTORS, counts, strict=True))

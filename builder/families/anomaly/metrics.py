"""How good detections are, point by point, by segment and point-adjusted.

Point adjustment (Xu et al., WWW 2018) counts a whole labelled segment as found as soon as one of
its samples is: random alarms on 1 % of the samples then look excellent. It is reported because
papers report it, never alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.families.anomaly.telemetry import SAMPLES_PER_DAY, Mask, Segment, to_mask, to_segments


@dataclass(frozen=True, slots=True)
class Counts:
    """Confusion counts of detections, which add up over channels.

    Attributes:
        true_positives, false_positives, false_negatives: Samples.
        adjusted_true_positives: Samples that count as found after point adjustment.
        segments: Labelled segments.
        segments_hit: Labelled segments with at least one detected sample.
        false_alarms: Detected segments without any labelled sample.
        samples: All samples.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    adjusted_true_positives: int = 0
    segments: int = 0
    segments_hit: int = 0
    false_alarms: int = 0
    samples: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one detector on one channel, or pooled over channels.

    Attributes:
        precision, recall, f1: Point-wise, as is.
        adjusted_precision, adjusted_recall, adjusted_f1: After point adjustment.
        segments: Labelled segments.
        segments_hit: Those with at least one detected sample.
        false_alarms_per_day: Detected segments without a labelled sample, per channel and day
            of telemetry at one sample per minute.
    """

    precision: float
    recall: float
    f1: float
    adjusted_precision: float
    adjusted_recall: float
    adjusted_f1: float
    segments: int
    segments_hit: int
    false_alarms_per_day: float


def count(detected: Mask, labelled: Sequence[Segment]) -> Counts:
    """Compare BOOL [T] with the labelled segments, which must not overlap."""
    truth = to_mask(labelled, detected.size)
    true_positives = int((detected & truth).sum())
    hits = [s for s in labelled if detected[s.first : s.last + 1].any()]
    inside = [s for s in labelled if s.first < detected.size]
    return Counts(
        true_positives=true_positives,
        false_positives=int((detected & ~truth).sum()),
        false_negatives=int(truth.sum()) - true_positives,
        adjusted_true_positives=int(to_mask(hits, detected.size).sum()),
        segments=len(inside),
        segments_hit=len(hits),
        false_alarms=sum(not truth[s.first : s.last + 1].any() for s in to_segments(detected)),
        samples=detected.size,
    )


def summarise(counts: Counts) -> Metrics:
    """The figures of some counts; a ratio whose denominator is 0 is 0."""
    positives = counts.true_positives + counts.false_negatives
    precision, recall, f1 = _scores(counts.true_positives, counts.false_positives, positives)
    adjusted = _scores(counts.adjusted_true_positives, counts.false_positives, positives)
    return Metrics(
        precision,
        recall,
        f1,
        *adjusted,
        segments=counts.segments,
        segments_hit=counts.segments_hit,
        false_alarms_per_day=_ratio(counts.false_alarms * SAMPLES_PER_DAY, counts.samples),
    )


def pool(counts: Iterable[Counts]) -> Counts:
    """The sum of some counts."""
    return sum(counts, Counts())


def _scores(hits: int, false_positives: int, positives: int) -> tuple[float, float, float]:
    precision = _ratio(hits, hits + false_positives)
    recall = _ratio(hits, positives)
    return precision, recall, _ratio(2 * precision * recall, precision + recall)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0

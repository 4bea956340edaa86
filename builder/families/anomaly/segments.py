"""From one decision per sample to the segments that a person looks at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builder.families.anomaly.telemetry import Segment, to_segments


@dataclass(frozen=True, slots=True)
class Detection:
    """Consecutive samples that a detector flagged.

    Attributes:
        segment: The first and the last sample, both included.
        peak: The largest score in the segment.
        peak_at: Number of the (first) sample with that score.
    """

    segment: Segment
    peak: float
    peak_at: int


def detections(flags: NDArray[np.bool_], scores: NDArray[np.float32]) -> tuple[Detection, ...]:
    """The runs of flagged samples with their peaks.

    Args:
        flags: BOOL [T].
        scores: FP32 [T].
    """
    found = []
    for segment in to_segments(flags):
        peak_at = segment.first + int(np.argmax(scores[segment.first : segment.last + 1]))
        found.append(Detection(segment, float(scores[peak_at]), peak_at))
    return tuple(found)


def bridge(flags: NDArray[np.bool_], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Flag invalid samples between two flagged ones: a drop-out does not end an anomaly.

    Args:
        flags: BOOL [T], false for every invalid sample.
        valid: BOOL [T].

    Returns:
        BOOL [T]; an invalid sample is flagged if the nearest valid samples on both sides are.
    """
    where = np.flatnonzero(valid)
    sides = np.concatenate(([False], flags[where], [False]))
    missing = np.flatnonzero(~valid)
    after = np.searchsorted(where, missing)  # the next valid sample, counted among the valid
    bridged = flags.copy()
    bridged[missing] = sides[after] & sides[after + 1]
    return bridged

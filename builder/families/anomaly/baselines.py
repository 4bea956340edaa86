"""Detectors that anybody could write in a minute. A model has to be better than these."""

from collections.abc import Sequence

import numpy as np

from builder.families.anomaly.channels import TELEMETRY_COLUMN
from builder.families.anomaly.telemetry import Mask, Samples

RANGE_MARGIN = 0.05
"""The range rule's margin, as a part of the train range."""

RANDOM_RATE = 0.01
"""Part of the samples on which the random detector raises an alarm."""


def range_rule(train: Samples, samples: Samples, margin: float = RANGE_MARGIN) -> Mask:
    """BOOL [T]: the telemetry value is outside its train range, widened on both sides.

    Where the value was constant while training, the margin is `margin` itself.
    """
    values = train[:, TELEMETRY_COLUMN]
    low, high = float(values.min()), float(values.max())
    slack = margin * ((high - low) or 1.0)
    value = samples[:, TELEMETRY_COLUMN]
    return (value < low - slack) | (value > high + slack)


def random_alarms(samples: int, rate: float, seed: int | Sequence[int]) -> Mask:
    """BOOL [samples]: each sample is an alarm with probability `rate`, independently."""
    return np.random.default_rng(seed).random(samples) < rate

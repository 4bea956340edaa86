"""Detectors that anybody could write in a minute. A model has to be better than these."""

import numpy as np
from numpy.typing import NDArray

from builder.families.anomaly.channels import TELEMETRY_COLUMN

RANGE_MARGIN = 0.05
"""The range rule's margin, as a part of the train range."""

RANDOM_RATE = 0.01
"""Part of the samples on which the random detector raises an alarm."""


def range_rule(
    train: NDArray[np.float32], samples: NDArray[np.float32], margin: float = RANGE_MARGIN
) -> NDArray[np.bool_]:
    """BOOL [T]: the telemetry value is outside its train range, widened on both sides."""
    values = train[:, TELEMETRY_COLUMN]
    low, high = float(values.min()), float(values.max())
    slack = margin * (high - low)
    value = samples[:, TELEMETRY_COLUMN]
    return (value < low - slack) | (value > high + slack)


def random_alarms(samples: int, rate: float, seed: int) -> NDArray[np.bool_]:
    """BOOL [samples]: each sample is an alarm with probability `rate`, independently."""
    return np.random.default_rng(seed).random(samples) < rate

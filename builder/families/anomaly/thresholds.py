"""Peaks over threshold: the score that normal operation exceeds with a chosen probability.

From Siffer, Fouque, Termier and Largouet, "Anomaly Detection in Streams with Extreme Value
Theory" (KDD 2017), section 3: the excesses over a high initial quantile t follow a generalised
Pareto distribution with shape gamma and scale sigma, fitted by maximum likelihood; then

    z(q) = t + sigma / gamma * ((q * n / n_t) ** -gamma - 1)

(for gamma = 0 the limit, t - sigma * log(q * n / n_t)), where n is the number of scores, n_t the
number of excesses and q the risk.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MIN_EXCESSES = 10
"""With fewer excesses no tail is fitted."""

MAX_SHAPE = 0.5
"""A larger shape means a tail without variance: an artefact of a few distinct excesses."""

_TINY_SHAPE = 1e-6


@dataclass(frozen=True, slots=True)
class PotSettings:
    """How a threshold is chosen.

    Attributes:
        risk: Probability q that a normal score exceeds the threshold. For scores that were held
            out, as here, less than 1e-2 cost hits on injected anomalies and saved no alarms.
        level: Quantile of the scores at which the tail begins.
    """

    risk: float = 1e-2
    level: float = 0.98

    def __post_init__(self) -> None:
        if not (0 < self.risk < 1 and 0 < self.level < 1):
            raise ValueError(f"risk and level must be between 0 and 1: {self}")


@dataclass(frozen=True, slots=True)
class PotFit:
    """A fitted threshold.

    Attributes:
        threshold: Scores above it are anomalies.
        method: `pot`, or `quantile` where there was no tail to fit.
        initial: The initial quantile t.
        excesses: Number of scores above t.
        shape: gamma of the generalised Pareto distribution; 0 without a fit.
        scale: sigma of it; 0 without a fit.
    """

    threshold: float
    method: Literal["pot", "quantile"]
    initial: float
    excesses: int
    shape: float = 0.0
    scale: float = 0.0


def fit_pot(scores: NDArray[np.floating[Any]], settings: PotSettings | None = None) -> PotFit:
    """The threshold of scores FP [T] of normal operation, high scores being anomalous.

    Falls back to the largest score seen where the tail is no tail: too few excesses, or all of
    them alike (constant scores).

    Raises:
        ValueError: There are no scores, or some are not finite.
    """
    settings = settings or PotSettings()
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError("scores must be a non-empty vector of finite numbers")
    initial = float(np.quantile(values, settings.level))
    excesses = values[values > initial] - initial
    largest = float(values.max())
    if excesses.size < MIN_EXCESSES or np.ptp(excesses) <= 1e-9 * max(1.0, abs(largest)):
        return PotFit(largest, "quantile", initial, int(excesses.size))
    shape, scale = fit_generalised_pareto(excesses)
    ratio = settings.risk * values.size / excesses.size
    if ratio >= 1:  # the risk asks for a quantile below the tail
        threshold = float(np.quantile(values, 1 - settings.risk))
        return PotFit(threshold, "quantile", initial, int(excesses.size))
    threshold = initial + pareto_quantile(shape, scale, ratio)
    return PotFit(threshold, "pot", initial, int(excesses.size), shape, scale)


def fit_generalised_pareto(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution at 0, by maximum likelihood.

    The shape is kept at or below `MAX_SHAPE`; the scale is then that of the moments.
    """
    from scipy.stats import genpareto  # imports slowly

    mean = float(excesses.mean())
    shape, _, scale = genpareto.fit(excesses / mean, floc=0)  # in units of the mean: conditioning
    if not (math.isfinite(shape) and math.isfinite(scale)) or scale <= 0:
        return 0.0, mean
    if shape > MAX_SHAPE:
        return MAX_SHAPE, mean * (1 - MAX_SHAPE)
    return float(shape), float(scale) * mean


def pareto_quantile(shape: float, scale: float, tail: float) -> float:
    """The excess that is exceeded with probability `tail`."""
    if abs(shape) < _TINY_SHAPE:
        return -scale * math.log(tail)
    return scale / shape * (math.pow(tail, -shape) - 1)

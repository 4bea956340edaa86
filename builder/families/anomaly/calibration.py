"""Fitting everything that is not a network weight, from train data only.

The normaliser takes the ranges of the train array. The scorer's statistics take theirs from the
train array too, but a range that was fitted to data looks tighter than it is: telemetry drifts.
So each range is widened by what contiguous fifths of the train array do outside the range of the
other four (the 99th percentile of their distance). The threshold is the peaks-over-threshold
quantile of those held-out scores, and at least `MARGIN` above the edge of normal operation; with
the defaults that floor decides for most channels.

How the constants were chosen: on the first 70 % of every train array all was fitted, networks
included, and into the rest anomalies of eight kinds (shift, noise, stuck, flipped, scaled,
drifting, smoothed, taken from another time) of 30 to 400 samples were injected. Of the settings
that raised alarms on no more than about 0.2 % of the untouched rest, those with the best
point-wise F1 were taken. `MIN_SPAN` and `Normaliser.known` were set by reasoning.

What was seen of the labelled test arrays meanwhile: their ranges, results of about twenty
settings of the rolling statistics without a network, and results of the shipped detectors with
and without the residuals. That led to masking unknown commands, and to leaving out the residual
of the single sample, which added short alarms and had made no difference to injected anomalies.
No constant was tuned to them, but the figures are not those of a set that nobody had looked at.
There the residuals mostly add false alarms (on E-5), while on injected anomalies they add a tenth
of the hits; they stay because that choice is not made on test labels.
"""

import itertools
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from builder.families.anomaly.channels import TELEMETRY_COLUMN
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.scoring import STATISTICS, Normaliser
from builder.families.anomaly.networks.tranad import TranAD
from builder.families.anomaly.telemetry import Samples
from builder.families.anomaly.thresholds import PotFit, PotSettings, fit_pot

FOLDS = 5
WIDENING_QUANTILE = 0.99
MARGIN = 0.4
"""The threshold is at least this far above 1, in half-widths of normal operation."""

MIN_SPAN = 0.1
"""Smallest range of the telemetry value for normalisation, in raw units: 5 % of -1..1."""

MIN_HALF_WIDTH = {"value": 0.1, "mean": 0.1, "range": 0.1, "activity": 0.05, "residual": 0.05}
"""Smallest half-width by statistic, in train ranges: a statistic that was constant while training
must move this much to score 1."""

RESIDUAL_ALLOWANCE = 2.0
"""Residuals of telemetry that the network was not trained on are larger than those fitted here:
the half-width of the residual statistics is multiplied by this."""

_NEVER = 1e6
"""Half-width of a statistic whose window is longer than the train array."""


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """What is scored.

    Attributes:
        columns: Columns that count; by default only the telemetry value.
        pot: How the threshold is chosen.
        margin: See `MARGIN`.
    """

    columns: tuple[int, ...] = (0,)
    pot: PotSettings = PotSettings()
    margin: float = MARGIN


def fit_normaliser(normaliser: Normaliser, train: Samples) -> None:
    """Take the ranges of FP32 [T,25].

    A command that was never sent, or always, keeps a span of 1.
    """
    low = train.min(axis=0)
    span = train.max(axis=0) - low
    normaliser.known.copy_(torch.from_numpy(span > 0))
    span[span == 0] = 1.0
    value = train[:, TELEMETRY_COLUMN]
    span[TELEMETRY_COLUMN] = max(float(np.ptp(value)), MIN_SPAN)
    normaliser.low.copy_(torch.from_numpy(low))
    normaliser.span.copy_(torch.from_numpy(span))
    normaliser.fill.copy_(torch.from_numpy(np.median(train, axis=0)))


def fit_scorer(module: OmniAnomaly | TranAD, train: Samples, settings: ScoreSettings) -> PotFit:
    """Fit the scorer of a module, whose normaliser and network are ready, to FP32 [T,25]."""
    samples = torch.from_numpy(train)
    scorer = module.scorer
    module.eval()
    with torch.inference_mode():
        normal, _ = module.normaliser(samples)
        reconstruction = module.reconstruct(module.normaliser.for_network(normal))
        statistics = [s.numpy() for s in scorer.statistics(normal, reconstruction)]
    scorer.weights.zero_()
    scorer.weights[list(settings.columns)] = 1.0
    held_out = np.zeros(len(train), np.float32)
    for row, (values, (name, window)) in enumerate(zip(statistics, STATISTICS, strict=True)):
        fitted = normal_range(values, window, MIN_HALF_WIDTH[name])
        allowance = RESIDUAL_ALLOWANCE if name == "residual" else 1.0
        scorer.centre[row].copy_(torch.from_numpy(fitted.centre))
        scorer.half_width[row].copy_(torch.from_numpy(fitted.half_width * allowance))
        distance = fitted.held_out[:, list(settings.columns)].max(axis=1) / allowance
        held_out[window - 1 :] = np.maximum(held_out[window - 1 :], distance)
    fit = fit_pot(held_out, settings.pot)
    scorer.threshold.fill_(max(fit.threshold, 1.0 + settings.margin))
    return fit


@dataclass(frozen=True, slots=True)
class NormalRange:
    """What a statistic of the 25 columns is in normal operation.

    Attributes:
        centre, half_width: FP32 [25]; the half-width is widened.
        held_out: FP32 [T - window + 1,25], distances of the train samples from the range that
            the other folds have, in widened half-widths.
    """

    centre: NDArray[np.float32]
    half_width: NDArray[np.float32]
    held_out: NDArray[np.float32]


def normal_range(values: NDArray[np.float32], window: int, smallest: float) -> NormalRange:
    """Fit the range of a statistic over windows, FP32 [T,25]; half-widths are >= smallest."""
    full = values[window - 1 :]  # earlier windows are not filled
    held_out = np.zeros_like(full)
    if len(full) == 0:
        return NormalRange(np.zeros_like(values[0]), np.full_like(values[0], _NEVER), held_out)
    centre, half = _middle(full, smallest)
    bounds = [fold * len(full) // FOLDS for fold in range(FOLDS + 1)]
    for first, end in itertools.pairwise(bounds):
        # The windows just after the fold still contain samples of it.
        others = np.concatenate((full[:first], full[end + window - 1 :]))
        if len(others) > 0 and end > first:
            centre_others, half_others = _middle(others, smallest)
            held_out[first:end] = np.abs(full[first:end] - centre_others) / half_others
    widening = np.maximum(np.quantile(held_out, WIDENING_QUANTILE, axis=0), 1.0)
    return NormalRange(
        centre, (half * widening).astype(np.float32), (held_out / widening).astype(np.float32)
    )


def _middle(
    values: NDArray[np.float32], smallest: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Middle and half of the range of each column; the half is >= smallest."""
    low, high = values.min(axis=0), values.max(axis=0)
    return (low + high) / 2, np.maximum((high - low) / 2, np.float32(smallest))


def describe(settings: ScoreSettings, fit: PotFit) -> dict[str, str]:
    """Settings and fit as metadata of a checkpoint."""
    facts = {
        "scored_columns": ",".join(map(str, settings.columns)),
        "margin": f"{settings.margin:g}",
        "pot_risk": f"{settings.pot.risk:g}",
        "pot_level": f"{settings.pot.level:g}",
    }
    return facts | {f"pot_{name}": f"{value}" for name, value in asdict(fit).items()}

"""What both detectors share around their network: normalisation, scoring and threshold.

All of it is plain tensor arithmetic on buffers, so it is exported with the network, and the
served model takes raw telemetry and answers with a decision.

The score. A reconstruction error alone misses telemetry that stays in its range but behaves
unlike itself: stuck, noisier, at another level. So ten statistics are taken of each column, the
signal v being the normalised value, over short and longer windows that end at the sample:

    value       v
    mean        of v over 16 and over 64 samples
    range       largest minus smallest v over 16 and over 64 samples
    activity    mean of |v - previous v| over 16 and over 64 samples
    residual    |v - reconstruction|, and its mean over 16 and over 64 samples

The score of a sample is the largest distance of a statistic from the middle of what it was in
normal operation, in units of half its width then: up to 1 is what training saw, beyond is not.
By default only column 0, the telemetry value, is scored.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from builder.families.anomaly.channels import FEATURES, TELEMETRY_COLUMN

CLIP_LOW = -1.0
CLIP_HIGH = 2.0
"""Normalised values are clipped to one train range below and above the train range."""

SCORE_MAX = 1e6
"""Scores are capped here, and a sample with NaN or Inf gets exactly this score. It is finite so
that JSON clients and averages over scores keep working."""

WINDOWS = (16, 64)
"""Lengths of the rolling windows, in samples."""

STATISTICS: tuple[tuple[str, int], ...] = (
    ("value", 1),
    ("residual", 1),
    *((name, window) for window in WINDOWS for name in ("mean", "range", "activity", "residual")),
)
"""Name and window of each statistic, in the order of the rows of `Scorer.centre`."""

_FLOAT_MAX = 3.4028234663852886e38


class Normaliser(nn.Module):
    """Maps raw telemetry to train ranges and back; replaces NaN and Inf.

    Buffers:
        low, span: FP32 [25]; `(x - low) / span` is 0..1 on the train data.
        fill: FP32 [25], the train median, which stands in for NaN and Inf.
    """

    low: Tensor
    span: Tensor
    fill: Tensor

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(features))
        self.register_buffer("span", torch.ones(features))
        self.register_buffer("fill", torch.zeros(features))

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise FP32 [T,25]; also returns BOOL [T], true where a row is all finite."""
        finite = raw.abs() <= _FLOAT_MAX  # false for NaN too
        clean = torch.where(finite, raw, self.fill)
        normal = ((clean - self.low) / self.span).clamp(CLIP_LOW, CLIP_HIGH)
        return normal, finite.all(dim=-1)

    def inverse(self, normal: Tensor) -> Tensor:
        """From normalised to raw units."""
        return normal * self.span + self.low


class Scorer(nn.Module):
    """Turns values and reconstructions into one score per sample, and that into a decision.

    Buffers:
        centre, half_width: FP32 [10,25], of each statistic in normal operation.
        weights: FP32 [25], factor of each column's score; by default 1 for column 0, else 0.
        threshold: FP32 scalar; a score above it is an anomaly.
    """

    centre: Tensor
    half_width: Tensor
    weights: Tensor
    threshold: Tensor

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(len(STATISTICS), features))
        self.register_buffer("half_width", torch.ones(len(STATISTICS), features))
        weights = torch.zeros(features)
        weights[TELEMETRY_COLUMN] = 1.0
        self.register_buffer("weights", weights)
        self.register_buffer("threshold", torch.tensor(float("inf")))

    def statistics(self, normal: Tensor, reconstruction: Tensor) -> Iterator[Tensor]:
        """Each of `STATISTICS`, FP32 [T,25], from normalised values and reconstruction [T,25].

        Before the first sample, the window is filled with copies of it.
        """
        residual = (normal - reconstruction).abs()
        activity = (normal - torch.cat((normal[:1], normal[:-1]))).abs()
        yield normal
        yield residual
        for window in WINDOWS:
            yield _rolling_mean(normal, window)
            yield _rolling_max(normal, window) + _rolling_max(-normal, window)
            yield _rolling_mean(activity, window)
            yield _rolling_mean(residual, window)

    def forward(self, normal: Tensor, reconstruction: Tensor, finite: Tensor) -> Tensor:
        """FP32 [T] scores from FP32 [T,25] normalised values and reconstruction, BOOL [T].

        A window counts once it is filled with finite samples: a request shorter than a window
        is judged by the shorter windows only.
        """
        gap = 1.0 - finite.to(normal.dtype).unsqueeze(-1)  # [T,1]
        score = torch.zeros_like(gap).squeeze(-1)
        # enumerate, not zip: torch.jit.trace and torch.export unroll both, but only plain
        # integer indexing keeps the buffers' names in the exported graph.
        for row, statistic in enumerate(self.statistics(normal, reconstruction)):
            distance = (statistic - self.centre[row]).abs() / self.half_width[row]
            distance = (distance * self.weights).amax(dim=-1)
            window = STATISTICS[row][1]
            if window > 1:
                complete = 1.0 - _rolling_max(gap, window, before=1.0).squeeze(-1)
                distance = distance * complete
            score = torch.maximum(score, distance)
        score = score.clamp(max=SCORE_MAX)
        return torch.where(finite, score, torch.full_like(score, SCORE_MAX))

    def detect(self, score: Tensor, finite: Tensor) -> Tensor:
        """BOOL [T]: the score is above the threshold, or the sample is not finite."""
        return torch.logical_or(score > self.threshold, torch.logical_not(finite))


def _with_history(x: Tensor, window: int, before: float | None) -> Tensor:
    """FP32 [T,F] as [1,F,window-1+T], preceded by copies of the first row or by a constant."""
    first = x[:1] if before is None else torch.full_like(x[:1], before)
    return torch.cat((first.repeat(window - 1, 1), x)).transpose(0, 1).unsqueeze(0)


def _rolling_mean(x: Tensor, window: int) -> Tensor:
    pooled = nn.functional.avg_pool1d(_with_history(x, window, None), window, stride=1)
    return pooled.squeeze(0).transpose(0, 1)


def _rolling_max(x: Tensor, window: int, before: float | None = None) -> Tensor:
    pooled = nn.functional.max_pool1d(_with_history(x, window, before), window, stride=1)
    return pooled.squeeze(0).transpose(0, 1)

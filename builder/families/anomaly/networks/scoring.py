"""What both detectors share around their network: normalisation, scoring and threshold.

All of it is plain tensor arithmetic on buffers, so it is exported with the network, and the
served model takes raw telemetry and answers with a decision.

The score. A reconstruction error alone misses telemetry that stays in its range but behaves
unlike itself: stuck, noisier, at another level. So nine statistics are taken of each column, the
signal v being the normalised value, over short and longer windows that end at the sample:

    value       v
    mean        of v over 16 and over 64 samples
    range       largest minus smallest v over 16 and over 64 samples
    activity    mean of |v - previous v| over 16 and over 64 samples
    residual    mean of |v - reconstruction| over 16 and over 64 samples

The score of a sample is the largest distance of a statistic from the middle of what it was in
normal operation, in units of half its width then: up to 1 is what training saw, beyond is not.
By default only column 0, the telemetry value, is scored.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from builder.families.anomaly.channels import FEATURES, TELEMETRY_COLUMN
from builder.families.anomaly.networks.compact_score import MOST_COLUMNS, compact_score

CLIP_LOW = -1.0
CLIP_HIGH = 2.0
"""Normalised values are clipped to one train range below and above the train range."""

SCORE_MAX = 1e6
"""Scores are capped here, and a sample with NaN or Inf gets exactly this score. It is finite so
that JSON clients and averages over scores keep working."""

WINDOWS = (16, 64)
"""Lengths of the rolling windows, in samples: powers of two, ascending."""

STATISTICS: tuple[tuple[str, int], ...] = (
    ("value", 1),
    *((name, window) for window in WINDOWS for name in ("mean", "range", "activity", "residual")),
)
"""Name and window of each statistic, in the order of the rows of `Scorer.centre`."""

_FLOAT_MAX = 3.4028234663852886e38


class Normaliser(nn.Module):
    """Maps raw telemetry to train ranges and back; replaces NaN and Inf.

    Buffers:
        low, span: FP32 [25]; `(x - low) / span` is 0..1 on the train data.
        fill: FP32 [25], the train median, which stands in for NaN and Inf.
        known: FP32 [25], 1 for columns that varied while training, else 0. The network sees the
            others as they were then: it learnt nothing about them, and a command that it has
            never seen would only confuse it.
    """

    low: Tensor
    span: Tensor
    fill: Tensor
    known: Tensor

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(features))
        self.register_buffer("span", torch.ones(features))
        self.register_buffer("fill", torch.zeros(features))
        self.register_buffer("known", torch.ones(features))

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise FP32 [T,25]; also returns BOOL [T], true where a row is all finite."""
        finite = raw.abs() <= _FLOAT_MAX  # false for NaN too
        clean = torch.where(finite, raw, self.fill)
        normal = ((clean - self.low) / self.span).clamp(CLIP_LOW, CLIP_HIGH)
        return normal, finite.all(dim=-1)

    def for_network(self, normal: Tensor) -> Tensor:
        """Normalised FP32 [T,25] without what the network knows nothing about."""
        return normal * self.known

    def inverse(self, normal: Tensor) -> Tensor:
        """From normalised to raw units."""
        return normal * self.span + self.low


class Scorer(nn.Module):
    """Turns values and reconstructions into one score per sample, and that into a decision.

    Buffers:
        centre, half_width: FP32 [9,25], of each statistic in normal operation.
        weights: FP32 [25], factor of each column's score; by default 1 for column 0, else 0.
        threshold: FP32 scalar; a score above it is an anomaly.

    Attributes:
        columns: How many columns have a weight, as of when the buffers were loaded: an export
            looks at no others.
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
        self.columns = 1
        self.register_load_state_dict_post_hook(_count_columns)  # type: ignore[no-untyped-call]

    def statistics(self, normal: Tensor, reconstruction: Tensor) -> Tensor:
        """Each of `STATISTICS`, FP32 [9,T,25], from normalised values and reconstruction [T,25].

        Before the first sample, the window is filled with copies of it.
        """
        return torch.stack([s for s, _ in self._windowed(normal, reconstruction, normal[:, :1])])

    def _windowed(
        self, normal: Tensor, reconstruction: Tensor, gap: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each statistic, FP32 [T,25], with the largest `gap` [T,1] of its window, FP32 [T,1]."""
        residual = (normal - reconstruction).abs()
        activity = (normal - torch.cat((normal[:1], normal[:-1]))).abs()
        yield normal, torch.zeros_like(gap)
        # All sums share one chain of additions, all maxima one of maximum operations.
        sums = torch.cat((normal, activity, residual), dim=1)
        peaks = torch.cat((normal, -normal, gap), dim=1)
        before = torch.cat((normal[:1], -normal[:1], torch.ones_like(gap[:1])), dim=1)
        features = normal.shape[1]
        for window, total, peak in zip(
            WINDOWS,
            _rolling(sums, sums[:1], torch.add),
            _rolling(peaks, before, torch.maximum),
            strict=True,
        ):
            # Slices, not split: that would be exported as a sequence, which TensorRT lacks.
            mean, missing = total / window, peak[:, 2 * features :]
            yield mean[:, :features], missing
            yield peak[:, :features] + peak[:, features : 2 * features], missing
            yield mean[:, features : 2 * features], missing
            yield mean[:, 2 * features :], missing

    def forward(self, normal: Tensor, reconstruction: Tensor, finite: Tensor) -> Tensor:
        """FP32 [T] scores from FP32 [T,25] normalised values and reconstruction, BOOL [T].

        A window counts once it is filled with finite samples: a request shorter than a window
        is judged by the shorter windows only.
        """
        if torch.compiler.is_exporting() and self.columns <= MOST_COLUMNS:
            return compact_score(self, normal, reconstruction, finite, self.columns)
        gap = 1.0 - finite.to(normal.dtype).unsqueeze(-1)  # [T,1]
        statistics, missing = zip(*self._windowed(normal, reconstruction, gap), strict=True)
        distance = (torch.stack(statistics) - self.centre.unsqueeze(1)).abs()
        distance = distance / self.half_width.unsqueeze(1) * self.weights
        complete = 1.0 - torch.stack(missing).squeeze(-1)  # [9,T]
        score = (distance.amax(dim=-1) * complete).amax(dim=0).clamp(max=SCORE_MAX)
        return torch.where(finite, score, torch.full_like(score, SCORE_MAX))

    def detect(self, score: Tensor, finite: Tensor) -> Tensor:
        """BOOL [T]: the score is above the threshold, or the sample is not finite."""
        return score > torch.where(finite, self.threshold, -1.0)


def _count_columns(scorer: nn.Module, _: object) -> None:
    assert isinstance(scorer, Scorer)
    scorer.columns = max(1, int(scorer.weights.count_nonzero()))


def _rolling(
    x: Tensor, before: Tensor, combine: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[Tensor]:
    """FP32 [T,F] combined over each of `WINDOWS` that ends at a sample, by doubling.

    Ten times faster than pooling operators, whose kernels are made for images; sums are exact to
    rounding whatever T is, which differences of a cumulative sum are not.

    Args:
        x: FP32 [T,F].
        before: FP32 [1,F], what precedes the first sample.
        combine: Addition, or another associative operation.
    """
    longest = WINDOWS[-1]
    x = torch.cat((before.repeat(longest - 1, 1), x))
    width = 1
    for window in WINDOWS:
        while width < window:
            x = combine(x[width:], x[:-width])
            width *= 2
        yield x[longest - window :]

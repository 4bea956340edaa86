"""What both detectors share around their network: normalisation, scoring and threshold.

All of it is plain tensor arithmetic on buffers, so it is exported with the network and the
served model takes raw telemetry and answers with a decision.
"""

import torch
from torch import Tensor, nn

from builder.families.anomaly.channels import FEATURES, TELEMETRY_COLUMN

CLIP_LOW = -1.0
CLIP_HIGH = 2.0
"""Normalised values are clipped to one train range below and above the train range."""

SCORE_MAX = 1e6
"""Scores are capped here, and a sample with NaN or Inf gets exactly this score. It is finite so
that JSON clients and averages over scores keep working."""

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
    """Turns reconstruction errors into one score per sample, and the score into a decision.

    Buffers:
        weights: FP32 [25], how much each column's error counts; by default only column 0.
        threshold: FP32 scalar; a score above it is an anomaly.
    """

    weights: Tensor
    threshold: Tensor

    def __init__(self, features: int = FEATURES) -> None:
        super().__init__()
        weights = torch.zeros(features)
        weights[TELEMETRY_COLUMN] = 1.0
        self.register_buffer("weights", weights)
        self.register_buffer("threshold", torch.tensor(float("inf")))

    def forward(self, normal: Tensor, reconstruction: Tensor, finite: Tensor) -> Tensor:
        """FP32 [T] scores from normalised input and reconstruction FP32 [T,25]."""
        error = (normal - reconstruction).square()
        score = (error * self.weights).sum(dim=-1).clamp(max=SCORE_MAX)
        return torch.where(finite, score, torch.full_like(score, SCORE_MAX))

    def detect(self, score: Tensor, finite: Tensor) -> Tensor:
        """BOOL [T]: the score is above the threshold, or the sample is not finite."""
        return torch.logical_or(score > self.threshold, torch.logical_not(finite))

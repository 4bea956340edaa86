"""What happens to detectors' answers: masking, fusing and voting, as PyTorch modules.

A detector's score is a squared error, whose size means little without the detector's threshold.
Where several detectors give one answer, their scores are divided by their thresholds first: the
fused score then is above 1 exactly where some detector raises an alarm on a valid sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SCORE_MAX = 1000.0
"""Cap of a fused score: a sample is never more than this many times the threshold."""

_SMALLEST = torch.finfo(torch.float32).tiny


class ValidityMask(nn.Module):
    """Takes back what a detector said about samples that were filled in."""

    def forward(
        self, score: Tensor, detected: Tensor, sample_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask one detector's answer.

        Args:
            score: FP32 [T], the detector's score.
            detected: BOOL [T], its decision.
            sample_valid: BOOL [T], false where the sample was filled in.

        Returns:
            anomaly_score: FP32 [T], 0 for an invalid sample.
            anomaly_detected: BOOL [T], false for an invalid sample.
        """
        masked = torch.where(sample_valid, score, torch.zeros_like(score))
        return masked, torch.logical_and(detected, sample_valid)


class RelativeScore(nn.Module):
    """The largest score of several detectors, in units of their thresholds.

    Buffers:
        thresholds: FP32 [detectors]; +Inf (a detector without threshold) makes its score 0.
    """

    thresholds: Tensor

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__()
        positive = torch.tensor(thresholds, dtype=torch.float32).clamp(min=_SMALLEST)
        self.register_buffer("thresholds", positive)

    def forward(self, scores: Sequence[Tensor]) -> Tensor:
        """The largest of the relative scores, FP32 [T], at most SCORE_MAX.

        Args:
            scores: FP32 [T] of each detector, in the order of the thresholds.
        """
        # One by one, not stacked: ONNX Runtime leaves an empty tensor's reduced axis in place.
        largest = scores[0] / self.thresholds[0]
        for row, score in enumerate(scores[1:], start=1):
            largest = torch.maximum(largest, score / self.thresholds[row])
        return largest.clamp(max=SCORE_MAX)


def count(flags: Sequence[Tensor]) -> Tensor:
    """How many of the flags, BOOL [T] each, are true: INT32 [T]."""
    votes = flags[0].to(torch.int32)
    for flag in flags[1:]:
        votes = votes + flag.to(torch.int32)
    return votes


class Postprocessing(nn.Module):
    """Fuses OmniAnomaly's and TranAD's answers about one channel.

    Either detector can raise the alarm: one watches the long memory of the channel, the other
    the shape of the last ten samples, and each finds segments that the other misses.
    """

    def __init__(self, omnianomaly_threshold: float, tranad_threshold: float) -> None:
        super().__init__()
        self.relative = RelativeScore((omnianomaly_threshold, tranad_threshold))

    def forward(
        self,
        omnianomaly_score: Tensor,
        omnianomaly_detected: Tensor,
        tranad_score: Tensor,
        tranad_detected: Tensor,
        sample_valid: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse two answers.

        Args:
            omnianomaly_score: FP32 [T].
            omnianomaly_detected: BOOL [T].
            tranad_score: FP32 [T].
            tranad_detected: BOOL [T].
            sample_valid: BOOL [T], false where preprocessing filled the sample in.

        Returns:
            anomaly_score: FP32 [T], the larger of score / threshold; 0 for an invalid sample.
            anomaly_detected: BOOL [T], a detector raised an alarm and the sample is valid: an
                invalid sample is reported in `sample_valid`, not as an anomaly.
            votes: INT32 [T], how many detectors raised an alarm; 0 for an invalid sample.
        """
        score = self.relative((omnianomaly_score, tranad_score))
        score = torch.where(sample_valid, score, torch.zeros_like(score))
        votes = count((omnianomaly_detected, tranad_detected)) * sample_valid.to(torch.int32)
        return score, votes > 0, votes


class AlignedChannels(nn.Module):
    """Passes five channels on as they are, if they have the same number of samples."""

    def forward(
        self,
        channel_1: Tensor,
        channel_2: Tensor,
        channel_3: Tensor,
        channel_4: Tensor,
        channel_5: Tensor,
    ) -> tuple[Tensor, ...]:
        """Five windows FP32 [T,25], unchanged."""
        together = torch.stack((channel_1, channel_2, channel_3, channel_4, channel_5))
        # Indices, not unbind: that would be exported as a sequence, which TensorRT lacks.
        return tuple(together[row] for row in range(together.shape[0]))


class SubsystemVote(nn.Module):
    """One answer about a subsystem from the detectors of its five channels.

    Args:
        thresholds: One per channel.
        quorum: How many channels have to raise an alarm at a sample for the subsystem to.
    """

    def __init__(self, thresholds: Sequence[float], quorum: int) -> None:
        super().__init__()
        self.relative = RelativeScore(thresholds)
        self.quorum = quorum

    # The arguments are spelled out because torch.export gives dynamic sizes to named ones only.
    def forward(
        self,
        score_1: Tensor,
        detected_1: Tensor,
        score_2: Tensor,
        detected_2: Tensor,
        score_3: Tensor,
        detected_3: Tensor,
        score_4: Tensor,
        detected_4: Tensor,
        score_5: Tensor,
        detected_5: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count votes, from a score FP32 [T] and a decision BOOL [T] per channel.

        Returns:
            anomaly_score: FP32 [T], the largest score / threshold of all channels.
            anomaly_detected: BOOL [T], at least `quorum` channels raised an alarm.
            votes: INT32 [T], how many did.
            detector_flags: BOOL [T,5], which ones.
        """
        flags = (detected_1, detected_2, detected_3, detected_4, detected_5)
        score = self.relative((score_1, score_2, score_3, score_4, score_5))
        votes = count(flags)
        return score, votes >= self.quorum, votes, torch.stack(flags, dim=-1)

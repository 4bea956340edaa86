"""What makes a detector of a network that reconstructs telemetry."""

import abc

import torch
from torch import Tensor, nn

from builder.families.anomaly.networks.scoring import Normaliser, Scorer


class Detector(nn.Module, abc.ABC):
    """Base of the detectors: normalise, reconstruct, score, decide.

    A subclass defines `reconstruct`, causally: the answer at t depends on samples 0..t only.

    Run by PyTorch, a detector computes what its papers say, operation by operation. While it is
    exported it computes the same with fewer operations (`compact_score`, `folded_tranad`, and
    `OmniAnomaly.reconstruct`); each export is then compared with the plain form.
    """

    def __init__(self) -> None:
        super().__init__()
        self.normaliser = Normaliser()
        self.scorer = Scorer()

    @property
    def graph_variant(self) -> str:
        """What decides the exported graph beside the class: equal variants can share a graph."""
        return f"{self.scorer.columns} scored columns"

    @abc.abstractmethod
    def reconstruct(self, normal: Tensor) -> Tensor:
        """Reconstruction FP32 [T,25] of normalised FP32 [T,25], T >= 1."""

    def judge(
        self, normal: Tensor, finite: Tensor, reconstruction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of `forward`.

        Args:
            normal: FP32 [T,25], from the normaliser.
            finite: BOOL [T], from the normaliser.
            reconstruction: FP32 [T,25], normalised.
        """
        score = self.scorer(normal, reconstruction, finite)
        raw = self.normaliser.inverse(reconstruction)
        return raw, score, self.scorer.detect(score, finite)

    def forward(self, input_data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score one window of telemetry.

        Args:
            input_data: FP32 [T,25], raw units; an empty window gets an empty answer.

        Returns:
            reconstruction: FP32 [T,25], raw units.
            anomaly_score: FP32 [T].
            anomaly_detected: BOOL [T].
        """
        # ONNX Runtime's GRU ends the whole process when T is 0. With one more row, which is cut
        # off again, no network ever sees an empty sequence.
        spare_row = input_data.new_zeros(1, input_data.shape[1])
        normal, finite = self.normaliser(torch.cat((input_data, spare_row)))
        reconstruction = self.reconstruct(self.normaliser.for_network(normal))
        raw, score, detected = self.judge(normal, finite, reconstruction)
        return raw[:-1], score[:-1], detected[:-1]

"""OmniAnomaly: a GRU variational autoencoder over one channel's telemetry.

The network is the PyTorch form of Su et al., "Robust Anomaly Detection for Multivariate Time
Series through Stochastic Recurrent Neural Network" (KDD 2019), that is commonly compared with
TranAD: two GRU layers, a dense encoder to mean and log-variance of the latent z, and a dense
decoder. Unlike that form, the GRU keeps its memory along the window and inference is
deterministic: z is its mean, sampling happens only while training.
"""

from typing import cast

import torch
from torch import Tensor, nn

from builder.families.anomaly.channels import FEATURES, TELEMETRY_COLUMN
from builder.families.anomaly.networks.detector import Detector

HIDDEN = 32
LATENT = 8
BETA = 1e-3
"""Weight of the divergence. The published 0.01 lets it dominate: z then ignores the input."""


class OmniAnomaly(Detector):
    """Detector of one channel.

    The output at t depends on the samples 0..t of the window (causal), so scoring a longer
    window gives the same answers for the samples that a shorter one already had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, HIDDEN, num_layers=2)
        self.encoder = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN),
            nn.PReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.PReLU(),
            nn.Linear(HIDDEN, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN),
            nn.PReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.PReLU(),
            nn.Linear(HIDDEN, FEATURES),
            nn.Sigmoid(),
        )

    def posterior(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, FP32 [T,B,8] each, from normalised FP32 [T,B,25]."""
        hidden, _ = self.gru(normal)
        encoded = self.encoder(hidden)
        return encoded[..., :LATENT], encoded[..., LATENT:]

    def reconstruct(self, normal: Tensor) -> Tensor:
        """Deterministic reconstruction FP32 [T,25] of normalised FP32 [T,25]."""
        if torch.compiler.is_exporting():
            return self._reconstruct_folded(normal)
        mean, _ = self.posterior(normal.unsqueeze(1))
        reconstruction: Tensor = self.decoder(mean)
        return reconstruction.squeeze(1)

    def _reconstruct_folded(self, normal: Tensor) -> Tensor:
        """`reconstruct` with z's mean folded away: no activation is before or after it.

        The dense layers get two dims, not three: ONNX Runtime adds their biases for free then.
        """
        hidden = self.gru(normal.unsqueeze(1))[0].squeeze(1)
        into, out_of = cast(nn.Linear, self.encoder[-1]), cast(nn.Linear, self.decoder[0])
        weight = out_of.weight @ into.weight[:LATENT]
        bias = out_of.weight @ into.bias[:LATENT] + out_of.bias
        dense = nn.functional.linear(self.encoder[:-1](hidden), weight, bias)
        reconstruction: Tensor = self.decoder[1:](dense)
        return reconstruction

    def training_loss(self, normal: Tensor) -> Tensor:
        """The loss of FP32 [T,B,25]: reconstruction error + `BETA` * divergence from N(0, 1).

        The error is that of all columns plus, once more, that of the telemetry value alone, which
        would otherwise be one of 25.
        """
        mean, log_variance = self.posterior(normal)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        error = (self.decoder(z) - normal).square()
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        loss: Tensor = error.mean() + error[..., TELEMETRY_COLUMN].mean()
        return loss + BETA * divergence.mean()

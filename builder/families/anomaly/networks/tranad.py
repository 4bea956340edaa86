"""TranAD: a transformer that reconstructs the last sample of a window in two phases.

After Tuli et al., "TranAD: Deep Transformer Networks for Anomaly Detection in Multivariate Time
Series Data" (VLDB 2022). The parameters carry the names of the authors' implementation, so that
its checkpoints load. Two quirks of that implementation stay because its weights were trained
with them: the activation is LeakyReLU with slope 1, which is the identity, and there is no layer
normalisation. One does not stay: a window here ends with the sample that it scores, whereas
there it ended one sample earlier, which shifted every score by one.
"""

import math

import torch
from torch import Tensor, nn

from builder.families.anomaly.channels import FEATURES
from builder.families.anomaly.networks.detector import Detector
from builder.families.anomaly.networks.folded_tranad import folded_reconstruction

WINDOW = 10
D_MODEL = 2 * FEATURES
HEADS = FEATURES
HEAD_DIM = D_MODEL // HEADS
FEED_FORWARD = 16
DROPOUT = 0.1


class Attention(nn.Module):
    """Multi-head attention with the parameter names of nn.MultiheadAttention.

    Written out, since nn.MultiheadAttention exports the traced batch size as a constant.
    """

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * D_MODEL, D_MODEL))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * D_MODEL))
        self.out_proj = nn.Linear(D_MODEL, D_MODEL)
        self.dropout = nn.Dropout(DROPOUT)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Attend from FP32 [P,B,50] to FP32 [S,B,50]; the result is FP32 [P,B,50]."""
        weight_q, weight_k, weight_v = self.in_proj_weight.chunk(3)
        bias_q, bias_k, bias_v = self.in_proj_bias.chunk(3)
        q = _split_heads(nn.functional.linear(queries, weight_q, bias_q))
        k = _split_heads(nn.functional.linear(memory, weight_k, bias_k))
        v = _split_heads(nn.functional.linear(memory, weight_v, bias_v))
        logits = q @ k.transpose(-1, -2) / math.sqrt(HEAD_DIM)  # [B,heads,P,S]
        weights = self.dropout(logits.softmax(dim=-1))
        attended = (weights @ v).permute(2, 0, 1, 3).flatten(-2)
        output: Tensor = self.out_proj(attended)
        return output


def _split_heads(x: Tensor) -> Tensor:
    """FP32 [S,B,50] to [B,25,S,2]."""
    return torch.unflatten(x, -1, (HEADS, HEAD_DIM)).permute(1, 2, 0, 3)


class FeedForward(nn.Module):
    """The dense part of a layer; a base class so that the parameter names stay flat."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(D_MODEL, FEED_FORWARD)
        self.linear2 = nn.Linear(FEED_FORWARD, D_MODEL)
        self.dropout = nn.Dropout(DROPOUT)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Two dense layers with the identity between them (see the module's docstring)."""
        output: Tensor = x + self.dropout(self.linear2(self.dropout(self.linear1(x))))
        return output


class EncoderLayer(FeedForward):
    """Self-attention over the 10 samples of a window."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()

    def forward(self, x: Tensor) -> Tensor:
        """FP32 [10,B,50] to the same shape."""
        return self.feed_forward(x + self.dropout(self.self_attn(x, x)))


class DecoderLayer(FeedForward):
    """Attention from the window's last sample to the encoded window."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.multihead_attn = Attention()

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        """FP32 [1,B,50], given the encoded window FP32 [10,B,50]."""
        x = target + self.dropout(self.self_attn(target, target))
        return self.feed_forward(x + self.dropout(self.multihead_attn(x, memory)))


class Stack(nn.Module):
    """One layer below the name `layers.0`, as nn.TransformerEncoder names it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the layer."""
        output: Tensor = self.layers[0](*inputs)
        return output


class PositionalEncoding(nn.Module):
    """Adds sine plus cosine of the position; the sum is the upstream implementation's choice."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        position = torch.arange(WINDOW, dtype=torch.float32).unsqueeze(1)
        rate = torch.exp(torch.arange(D_MODEL) * (-math.log(10000.0) / D_MODEL))
        angle = position * rate
        self.register_buffer("pe", (angle.sin() + angle.cos()).unsqueeze(1))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """FP32 [10,B,50] to the same shape."""
        output: Tensor = self.dropout(x + self.pe)
        return output


class TranAD(Detector):
    """Detector over windows of 10 samples.

    The output at t depends on the samples t-9..t (causal); before the first sample the window is
    filled with copies of it.

    All windows are scored at once. Memory grows with T: about 33 kB per sample.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pos_encoder = PositionalEncoding()
        self.transformer_encoder = Stack(EncoderLayer())
        self.transformer_decoder1 = Stack(DecoderLayer())
        self.transformer_decoder2 = Stack(DecoderLayer())
        self.fcn = nn.Sequential(nn.Linear(D_MODEL, FEATURES), nn.Sigmoid())

    def encode(self, windows: Tensor, focus: Tensor) -> Tensor:
        """Encode windows FP32 [10,B,25] with their focus scores of the same shape."""
        source = torch.cat((windows, focus), dim=2) * math.sqrt(FEATURES)
        memory: Tensor = self.transformer_encoder(self.pos_encoder(source))
        return memory

    def phases(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Both reconstructions FP32 [1,B,25] of the last samples of FP32 [10,B,25]."""
        target = windows[-1:].repeat(1, 1, 2)
        memory = self.encode(windows, torch.zeros_like(windows))
        first: Tensor = self.fcn(self.transformer_decoder1(target, memory))
        memory = self.encode(windows, (first - windows).square())
        second: Tensor = self.fcn(self.transformer_decoder2(target, memory))
        return first, second

    def windows(self, normal: Tensor) -> Tensor:
        """The window that ends at each sample: FP32 [10,T,25] from FP32 [T,25]."""
        padded = torch.cat((normal[:1].repeat(WINDOW - 1, 1), normal))
        slices = [padded[i : i + 1 - WINDOW] for i in range(WINDOW - 1)]
        return torch.stack([*slices, padded[WINDOW - 1 :]])

    def reconstruct(self, normal: Tensor) -> Tensor:
        """Second reconstruction FP32 [T,25] of normalised FP32 [T,25]."""
        if torch.compiler.is_exporting():
            return folded_reconstruction(self, normal)
        _, second = self.phases(self.windows(normal))
        return second.squeeze(0)

    def training_loss(self, windows: Tensor, epoch: int) -> Tensor:
        """(1/n) L1 + (1 - 1/n) L2 with n = epoch + 1, for FP32 [10,B,25], epoch from 0."""
        first, second = self.phases(windows)
        share = 1.0 / (epoch + 1)
        target = windows[-1:]
        mse = nn.functional.mse_loss
        return share * mse(first, target) + (1 - share) * mse(second, target)

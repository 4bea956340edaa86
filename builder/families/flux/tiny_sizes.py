"""How large the random checkpoints are; see `tiny`.

`tiny` runs in milliseconds, so that serving it shows what serving costs. In `small`, the
transformer takes most of the time, as in FLUX.1, and the proportions of the blocks are similar.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Size:
    """Widths and depths of the networks.

    Attributes:
        clip: Width of CLIP, and of its pooled embedding.
        t5: Width of T5, and of its embeddings.
        t5_query: Factor of T5's queries. T5 does not scale its attention; its own initialisation
            makes up for it with 1/sqrt(width of a head). Without, wide heads are so sharp that
            PyTorch in FP32 is further from FP64 than the parity of a stage may be.
        heads: Attention heads of the transformer.
        axes: Channels of a head per axis of the rotary embedding; all are even.
        double_blocks: Blocks of the transformer in which text and image have weights of their own.
        single_blocks: Blocks in which they share them.
        vae: Channels of the VAE's blocks, from the pixels to the latents; multiples of 4.
    """

    clip: int
    clip_layers: int
    clip_heads: int
    t5: int
    t5_layers: int
    t5_heads: int
    t5_query: float
    heads: int
    axes: tuple[int, int, int]
    double_blocks: int
    single_blocks: int
    vae: tuple[int, int, int, int]


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "tiny": Size(
            clip=32, clip_layers=2, clip_heads=4, t5=32, t5_layers=2, t5_heads=4, t5_query=1.0,
            heads=2, axes=(4, 6, 6), double_blocks=2, single_blocks=2, vae=(8, 8, 16, 16),
        ),
        "small": Size(
            clip=128, clip_layers=4, clip_heads=4, t5=256, t5_layers=4, t5_heads=8,
            t5_query=32**-0.5, heads=4, axes=(8, 28, 28), double_blocks=4, single_blocks=10,
            vae=(16, 16, 32, 32),
        ),
    }
)  # fmt: skip

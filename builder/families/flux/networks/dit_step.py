"""One denoising step: the FLUX transformer and everything the pipeline does around it.

Packing, position ids, time steps and the Euler update are inside, so a step takes and returns
spatial latents and a counter per sample. Samples at different steps can then share a batch, and
a pipeline of any number of steps is the same model named that many times.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import nn

from builder.families.flux.networks.attention import RotaryAttention

TRAIN_TIMESTEPS = 1000.0
"""`num_train_timesteps` of FLUX's scheduler; sigma 1 is time step 1000."""


class RotaryTables(nn.Module):
    """The rotary embedding as tables, in place of diffusers' `FluxPosEmbed`.

    The angles are computed in FP64 as there, once and for all; looking them up gives the very
    same FP32 values, and needs no FP64 in the graph. Every other sine is negative: that is the
    sign of the rotation, for `RotaryAttention`.

    Args:
        theta: Base of the frequencies.
        axes: Channels per axis.
        positions: Number of positions per axis.
    """

    def __init__(self, theta: int, axes: tuple[int, ...], positions: int):
        super().__init__()
        self.axes = tuple(axes)
        for i, channels in enumerate(self.axes):
            cos, sin = get_1d_rotary_pos_embed(
                channels,
                np.arange(positions),
                theta=theta,
                repeat_interleave_real=True,
                use_real=True,
                freqs_dtype=torch.float64,
            )
            self.register_buffer(f"cos_{i}", cos.float())
            sin[:, ::2] *= -1
            self.register_buffer(f"sin_{i}", sin.float())

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Look the positions up.

        Args:
            ids: INT64 [tokens,axes].

        Returns:
            Cosines and signed sines, FP32 [tokens,channels of all axes] each.
        """
        axes = range(len(self.axes))
        cos = [getattr(self, f"cos_{i}").index_select(0, ids[:, i]) for i in axes]
        sin = [getattr(self, f"sin_{i}").index_select(0, ids[:, i]) for i in axes]
        return torch.cat(cos, dim=-1), torch.cat(sin, dim=-1)


class Sinusoids(nn.Module):
    """The embedding of time steps and guidance, in place of diffusers' `Timesteps`.

    The frequencies are computed once, by PyTorch: angles go up to thousands, so the last bit of
    a frequency that another library computes would be seen in the embedding.

    Args:
        channels: Width of the embedding; cosines come first.
    """

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", torch.exp(exponent))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """FP32 [B] to FP32 [B,channels]."""
        angles = values[:, None].float() * self.get_buffer("frequencies")
        return torch.cat((angles.cos(), angles.sin()), dim=-1)


class DitStep(nn.Module):
    """The transformer with one Euler step around it.

    Args:
        transformer: A diffusers `FluxTransformer2DModel`; its position and time embeddings and
            how it attends are replaced.
        positions: Largest number of patches (16 pixels each) along a side of an image.
    """

    def __init__(self, transformer: Any, positions: int):
        super().__init__()
        embed = transformer.pos_embed
        axes = tuple(transformer.config.axes_dims_rope)
        transformer.pos_embed = RotaryTables(embed.theta, axes, positions)
        transformer.set_attn_processor(RotaryAttention(transformer.config.attention_head_dim))
        times = transformer.time_text_embed
        times.time_proj = Sinusoids(times.time_proj.num_channels)
        self.transformer = transformer
        self.guided = bool(transformer.config.guidance_embeds)

    def forward(
        self,
        latents: torch.Tensor,
        step: torch.Tensor,
        sigmas: torch.Tensor,
        prompt_embeds: torch.Tensor,
        pooled_prompt_embeds: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one step.

        Args:
            latents: FP32 [B,C,h,w], h and w even.
            step: INT64 [B,1], from 0; the step that each sample is at.
            sigmas: FP32 [B,N+1], falling to 0.
            prompt_embeds: FP32 [B,S,width].
            pooled_prompt_embeds: FP32 [B,width].
            guidance: FP32 [B,1]; only a guidance-distilled transformer takes it.

        Returns:
            The latents after the step, FP32 [B,C,h,w], and step + 1, INT64 [B,1].
        """
        dtype = self.transformer.x_embedder.weight.dtype
        batch, channels = latents.shape[:2]
        rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
        sigma = sigmas.gather(1, step)
        sigma_next = sigmas.gather(1, step + 1)
        # The detour over the scheduler's time step is the pipeline's, and rounds as it does.
        timestep = (sigma * TRAIN_TIMESTEPS).to(dtype).flatten() / TRAIN_TIMESTEPS
        velocity = self.transformer(
            hidden_states=pack(latents).to(dtype),
            encoder_hidden_states=prompt_embeds.to(dtype),
            pooled_projections=pooled_prompt_embeds.to(dtype),
            timestep=timestep,
            guidance=None if guidance is None else guidance.flatten(),
            txt_ids=prompt_embeds.new_zeros(prompt_embeds.shape[1], 3, dtype=torch.int64),
            img_ids=image_ids(rows, columns),
            return_dict=False,
        )[0].float()
        velocity = velocity.reshape(batch, rows, columns, channels, 2, 2)
        velocity = velocity.permute(0, 3, 1, 4, 2, 5).reshape(latents.shape)
        return latents + (sigma_next - sigma)[:, :, None, None] * velocity, step + 1


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Spatial latents [B,C,h,w] to tokens [B,h/2*w/2,4C], one per patch of 2 by 2."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    patches = patches.permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def image_ids(rows: int, columns: int) -> torch.Tensor:
    """The position of each token of an image: INT64 [rows*columns,3], (0, row, column)."""
    row = torch.arange(rows)[:, None].expand(rows, columns)
    column = torch.arange(columns)[None, :].expand(rows, columns)
    return torch.stack((torch.zeros_like(row), row, column), dim=-1).reshape(rows * columns, 3)

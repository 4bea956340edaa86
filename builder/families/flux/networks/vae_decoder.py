"""The VAE's decoder, from latents to an image that needs no further processing."""

from typing import Any

import torch
from torch import nn


class VaeDecoder(nn.Module):
    """Decoding, and what diffusers' `VaeImageProcessor` does behind it.

    Args:
        vae: A diffusers `AutoencoderKL`.
    """

    def __init__(self, vae: Any):
        super().__init__()
        self.decoder = vae.decoder
        self.post_quant_conv = vae.post_quant_conv
        self.scaling_factor = float(vae.config.scaling_factor)
        self.shift_factor = float(vae.config.shift_factor or 0.0)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents.

        Args:
            latents: FP32 [B,C,h,w], as the last denoising step leaves them.

        Returns:
            UINT8 [B,H,W,3].
        """
        z = latents / self.scaling_factor + self.shift_factor
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        image: torch.Tensor = self.decoder(z).float()
        image = (image * 0.5 + 0.5).clamp(0.0, 1.0).permute(0, 2, 3, 1)
        return (image * 255.0).round().to(torch.uint8)

"""The VAE's encoder, from an image to the latents that image-to-image starts with."""

from typing import Any

import torch
from torch import nn


class VaeEncoder(nn.Module):
    """What diffusers' `VaeImageProcessor` does before it, encoding, and the scaling behind it.

    The posterior's mean is taken, which diffusers calls `sample_mode="argmax"`. Its pipeline draws
    from the posterior; the noise that follows is far larger than that spread, and an image then
    depends on the seed by one way only.

    Args:
        vae: A diffusers `AutoencoderKL`.
    """

    def __init__(self, vae: Any):
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = vae.quant_conv
        self.scaling_factor = float(vae.config.scaling_factor)
        self.shift_factor = float(vae.config.shift_factor or 0.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode an image.

        Args:
            image: UINT8 [B,H,W,3].

        Returns:
            FP32 [B,C,h,w], scaled as the transformer takes it.
        """
        # Cast first: TensorRT moves UINT8 in and out, and does nothing else with it.
        pixels = image.float().permute(0, 3, 1, 2) / 255.0 * 2.0 - 1.0
        moments = self.encoder(pixels.to(self.encoder.conv_in.weight.dtype))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean = moments.chunk(2, dim=1)[0].float()
        latents: torch.Tensor = (mean - self.shift_factor) * self.scaling_factor
        return latents

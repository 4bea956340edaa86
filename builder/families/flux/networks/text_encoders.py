"""The two text encoders: CLIP's pooled embedding and T5's sequence of embeddings."""

from typing import Any

import torch
from torch import nn


class ClipEncoder(nn.Module):
    """CLIP's text model, of which FLUX only uses the pooled output.

    Args:
        text_model: A transformers `CLIPTextModel`.
    """

    def __init__(self, text_model: Any):
        super().__init__()
        self.text_model = text_model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Pool a prompt.

        Args:
            input_ids: INT64 [B,77], padded.

        Returns:
            FP32 [B,width]: the embedding at the end-of-text token.
        """
        pooled: torch.Tensor = self.text_model(input_ids=input_ids).pooler_output
        return pooled.float()


class T5Encoder(nn.Module):
    """T5's encoder; FLUX gives it no mask, so padding is part of the prompt.

    Args:
        encoder: A transformers `T5EncoderModel`.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed a prompt.

        Args:
            input_ids: INT64 [B,S], padded.

        Returns:
            FP32 [B,S,width].
        """
        embeds: torch.Tensor = self.encoder(input_ids=input_ids).last_hidden_state
        return embeds.float()

"""FLUX's attention with a rotary embedding that takes few operations in a graph.

diffusers rotates pairs of channels by taking them apart and stacking them again: nine operations.
Here neighbours change places by one gather, and the sign moves into the table of sines; each
product and sum is the very same.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class RotaryAttention(nn.Module):
    """What diffusers' `FluxAttnProcessor` computes, for its `FluxAttention`.

    Args:
        channels: Channels of a head.
    """

    def __init__(self, channels: int):
        super().__init__()
        neighbour = torch.arange(channels).reshape(-1, 2).flip(1).flatten()
        self.register_buffer("neighbour", neighbour, persistent=False)

    def __call__(  # not forward: FluxAttention looks at this signature for what to pass on
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            attn: The layer, which has the projections and the norms.
            hidden_states: [B,tokens,width].
            encoder_hidden_states: [B,S,width] of the text, where it is kept apart.
            attention_mask: Not used by FLUX.
            image_rotary_emb: Cosines and signed sines from `RotaryTables`.

        Returns:
            Of the shape of `hidden_states`; with a text, both.
        """
        if image_rotary_emb is None or attention_mask is not None:
            raise AssertionError("FLUX attends with a rotary embedding and without a mask")
        heads = (-1, attn.head_dim)
        query = attn.norm_q(attn.to_q(hidden_states).unflatten(-1, heads))
        key = attn.norm_k(attn.to_k(hidden_states).unflatten(-1, heads))
        value = attn.to_v(hidden_states).unflatten(-1, heads)
        if encoder_hidden_states is not None:
            text = encoder_hidden_states
            text_query = attn.norm_added_q(attn.add_q_proj(text).unflatten(-1, heads))
            text_key = attn.norm_added_k(attn.add_k_proj(text).unflatten(-1, heads))
            text_value = attn.add_v_proj(text).unflatten(-1, heads)
            query = torch.cat((text_query, query), dim=1)
            key = torch.cat((text_key, key), dim=1)
            value = torch.cat((text_value, value), dim=1)
        seen = functional.scaled_dot_product_attention(
            self._rotate(query, *image_rotary_emb).transpose(1, 2),
            self._rotate(key, *image_rotary_emb).transpose(1, 2),
            value.transpose(1, 2),
        )
        seen = seen.transpose(1, 2).flatten(2, 3)
        if encoder_hidden_states is None:
            return seen
        length = encoder_hidden_states.shape[1]
        image = attn.to_out[1](attn.to_out[0](seen[:, length:]))
        return image, attn.to_add_out(seen[:, :length])

    def _rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[B,tokens,heads,channels], in FP32 whatever the data type."""
        swapped = x.index_select(-1, self.get_buffer("neighbour")).float()
        rotated = x.float() * cos[:, None, :] + swapped * sin[:, None, :]
        return rotated.to(x.dtype)

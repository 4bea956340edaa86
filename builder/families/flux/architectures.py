"""The architecture of FLUX.1 as it was released: what its configuration files say.

Source: config.json of each component of black-forest-labs/FLUX.1-schnell and FLUX.1-dev, without
what decides nothing here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

DEPTHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "text_encoder": ("num_hidden_layers",),
        "text_encoder_2": ("num_layers",),
        "transformer": ("num_layers", "num_single_layers"),
        "vae": (),
    }
)
"""Component -> the settings that say how many blocks it has, per kind of block."""


def released(variant: str) -> dict[str, dict[str, Any]]:
    """The configuration of each network of FLUX.1 schnell or dev."""
    return {
        "text_encoder": {
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
            "projection_dim": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        },
        "text_encoder_2": {
            "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
            "num_heads": 64, "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        },
        "transformer": {
            "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
            "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
            "pooled_projection_dim": 768, "guidance_embeds": variant == "dev", "patch_size": 1,
            "axes_dims_rope": [16, 56, 56],
        },
        "vae": {
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
            "latent_channels": 16, "norm_num_groups": 32, "sample_size": 1024,
            "scaling_factor": 0.3611, "shift_factor": 0.1159,
            "use_quant_conv": False, "use_post_quant_conv": False,
        },
    }  # fmt: skip


def with_depth(config: Mapping[str, Any], component: str, depth: int) -> dict[str, Any]:
    """A configuration with at most so many blocks of each kind."""
    shorter = {key: min(depth, int(config[key])) for key in DEPTHS[component]}
    return {**config, **shorter}

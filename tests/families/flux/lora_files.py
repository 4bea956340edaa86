"""LoRA files in the layouts that people share, made from random numbers."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

QKV = ("to_q", "to_k", "to_v")


def save(path: Path, tensors: Mapping[str, torch.Tensor], **metadata: str) -> Path:
    """Write a file; tensors that share memory are copied."""
    own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(own, path, metadata=metadata or None)
    return path


class Maker:
    """Random pairs by seed.

    Args:
        size: Standard deviation of the values.
    """

    def __init__(self, seed: int = 0, size: float = 0.3):
        self.generator = torch.Generator().manual_seed(seed)
        self.size = size

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * self.size

    def pair(self, out: int, into: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`down` [rank,in] and `up` [out,rank]."""
        return self(rank, into), self(out, rank)


def diffusers_style(width: int = 32, *, rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """`transformer.<path>.lora_A.weight`, of some layers of the tiny transformer."""
    make = Maker(seed)
    tensors = {}
    for path, out, into in (
        *((f"transformer_blocks.0.attn.{name}", width, width) for name in QKV),
        ("transformer_blocks.1.ff.net.0.proj", 4 * width, width),
        ("single_transformer_blocks.1.proj_out", width, 5 * width),
        ("single_transformer_blocks.0.norm.linear", 3 * width, width),
    ):
        down, up = make.pair(out, into, rank)
        tensors[f"transformer.{path}.lora_A.weight"] = down
        tensors[f"transformer.{path}.lora_B.weight"] = up
    return tensors


def kohya_style(
    width: int = 32,
    *,
    double: int = 2,
    single: int = 2,
    rank: int = 4,
    alpha: float | None = 2.0,
    seed: int = 0,
    linear1: bool = True,
    outer: bool = False,
) -> dict[str, torch.Tensor]:
    """`lora_unet_<original name>.lora_down.weight`, of every layer of the blocks."""
    make = Maker(seed)
    tensors = {}

    def add(name: str, out: int, into: int) -> None:
        down, up = make.pair(out, into, rank)
        tensors[f"lora_unet_{name}.lora_down.weight"] = down
        tensors[f"lora_unet_{name}.lora_up.weight"] = up
        if alpha is not None:
            tensors[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)

    for i in range(double):
        for side in ("img", "txt"):
            start = f"double_blocks_{i}_{side}"
            add(f"{start}_attn_qkv", 3 * width, width)
            add(f"{start}_attn_proj", width, width)
            add(f"{start}_mlp_0", 4 * width, width)
            add(f"{start}_mlp_2", width, 4 * width)
            add(f"{start}_mod_lin", 6 * width, width)
    for i in range(single):
        if linear1:
            add(f"single_blocks_{i}_linear1", 7 * width, width)
        add(f"single_blocks_{i}_linear2", width, 5 * width)
        add(f"single_blocks_{i}_modulation_lin", 3 * width, width)
    if outer:
        add("img_in", width, 64)
        add("txt_in", width, 32)
        add("time_in_in_layer", width, 256)
        add("time_in_out_layer", width, width)
        add("vector_in_in_layer", width, 32)
        add("vector_in_out_layer", width, width)
    return tensors


def xlabs_style(width: int = 32, *, rank: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """`double_blocks.0.processor.qkv_lora1.down.weight`."""
    make = Maker(seed)
    tensors = {}
    for name, out, into in (
        ("double_blocks.0.processor.qkv_lora1", 3 * width, width),
        ("double_blocks.0.processor.proj_lora1", width, width),
        ("double_blocks.1.processor.qkv_lora2", 3 * width, width),
        ("double_blocks.1.processor.proj_lora2", width, width),
        ("single_blocks.1.processor.qkv_lora", 3 * width, width),
        ("single_blocks.1.processor.proj_lora", width, 5 * width),
    ):
        down, up = make.pair(out, into, rank)
        tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = down, up
    return tensors


def clip_kohya_style(width: int = 32, *, rank: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    """`lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight`."""
    make = Maker(seed)
    tensors = {}
    for layer, out, into in (
        ("self_attn_q_proj", width, width),
        ("self_attn_out_proj", width, width),
        ("mlp_fc1", 2 * width, width),
    ):
        name = f"lora_te1_text_model_encoder_layers_1_{layer}"
        down, up = make.pair(out, into, rank)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = torch.tensor(1.5)
    return tensors

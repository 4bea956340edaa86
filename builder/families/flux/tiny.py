"""A random FLUX.1 checkpoint in the layout of diffusers, made by seed.

It has every file and every kind of layer of a real checkpoint, so that everything runs offline
and, if it is the tiny one, in seconds. Its pictures are coloured noise. Weights are far from the
usual initialisation: norms scale and biases shift, or a comparison could not tell two
implementations apart.
"""

import fcntl
import hashlib
import importlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.digest import code_digest, sha256_value, versions_of
from builder.errors import UsageError, from_os_error
from builder.families.flux.tiny_sizes import SIZES, Size
from builder.families.flux.tiny_tokenizers import (
    CLIP_TOKENS,
    T5_TOKENS,
    write_clip_tokenizer,
    write_t5_tokenizer,
)
from builder.files import replace_folder

if TYPE_CHECKING:
    import torch

VARIANTS = ("schnell", "dev")

CODE = tuple(
    f"builder.families.flux.{name}"
    for name in ("tiny", "tiny_sizes", "tiny_tokenizers", "corpus", "tokenizer_graph")
)
"""The modules that decide what is in the checkpoint."""

_MARK = "tiny.json"
"""Says what a random checkpoint was made from; a real checkpoint has no such file."""


def ensure_tiny(folder: Path, variant: str, seed: int = 0, size: str = "tiny") -> Path:
    """Make the random checkpoint in `folder`, unless it is there already.

    Equal arguments give equal bytes. The folder is replaced in one step; a killed run leaves no
    half of one, and processes that want the same one at the same time make it once.

    Args:
        variant: `schnell` or `dev`; the two differ in the transformer and the scheduler.
        size: A key of `tiny_sizes.SIZES`.

    Returns:
        `folder`.

    Raises:
        UsageError: The variant or the size is unknown.
        BuilderError: The folder cannot be written.
    """
    if variant not in VARIANTS:
        raise UsageError(f"unknown FLUX variant {variant!r}", hint=f"use {' or '.join(VARIANTS)}")
    if size not in SIZES:
        raise UsageError(f"unknown size {size!r}", hint=f"use {' or '.join(SIZES)}")
    mark = json.dumps(_recipe(variant, seed, size), indent=1, sort_keys=True)
    if _is_made(folder, mark):
        return folder
    with _alone(folder):
        if not _is_made(folder, mark):
            with replace_folder(folder) as staged:
                write_clip_tokenizer(staged / "tokenizer")
                write_t5_tokenizer(staged / "tokenizer_2")
                _write_networks(staged, variant, seed, SIZES[size])
                for file in staged.rglob("*.safetensors"):
                    file.chmod(0o644)  # written for their owner only
                (staged / _MARK).write_text(mark, encoding="utf-8")
    return folder


def _is_made(folder: Path, mark: str) -> bool:
    existing = folder / _MARK
    return existing.is_file() and existing.read_text(encoding="utf-8") == mark


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is making this folder."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.with_name(f".{folder.name}.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise from_os_error(error, "writing", folder) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the system releases it if the process is killed
        yield
    finally:
        os.close(descriptor)


def is_tiny(folder: Path) -> bool:
    """Whether `ensure_tiny` made this checkpoint."""
    return (folder / _MARK).is_file()


def _recipe(variant: str, seed: int, size: str) -> dict[str, Any]:
    return {
        "variant": variant,
        "seed": seed,
        "size": size,
        "made_from": sha256_value(
            [
                code_digest(*CODE),
                versions_of("torch", "diffusers", "transformers", "tokenizers", "sentencepiece"),
            ]
        ),
    }


def _write_networks(folder: Path, variant: str, seed: int, size: Size) -> None:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
    from transformers.utils import logging

    diffusers: Any = importlib.import_module("diffusers")  # with too few annotations
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dev = variant == "dev"
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=CLIP_TOKENS,
            hidden_size=size.clip,
            intermediate_size=2 * size.clip,
            projection_dim=size.clip,
            num_hidden_layers=size.clip_layers,
            num_attention_heads=size.clip_heads,
            max_position_embeddings=77,
            bos_token_id=CLIP_TOKENS - 2,
            eos_token_id=CLIP_TOKENS - 1,
            pad_token_id=CLIP_TOKENS - 1,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=T5_TOKENS,
            d_model=size.t5,
            d_kv=size.t5 // size.t5_heads,
            d_ff=2 * size.t5,
            num_layers=size.t5_layers,
            num_heads=size.t5_heads,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            feed_forward_proj="gated-gelu",
        )
    )
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=size.double_blocks,
        num_single_layers=size.single_blocks,
        attention_head_dim=sum(size.axes),
        num_attention_heads=size.heads,
        joint_attention_dim=size.t5,
        pooled_projection_dim=size.clip,
        guidance_embeds=dev,
        axes_dims_rope=size.axes,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=size.vae,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=1024,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0 if dev else 1.0, use_dynamic_shifting=dev, base_shift=0.5, max_shift=1.15,
        base_image_seq_len=256, max_image_seq_len=4096,
    )  # fmt: skip
    networks: dict[str, Any] = {
        "text_encoder": clip,
        "text_encoder_2": t5,
        "transformer": transformer,
        "vae": vae,
    }
    with torch.no_grad():
        for name, network in networks.items():
            for parameter_name, parameter in network.named_parameters():
                _fill(parameter, f"{seed}/{name}/{parameter_name}")
                if name == "text_encoder_2" and parameter_name.endswith(".q.weight"):
                    parameter.mul_(size.t5_query)
            network.eval()
            network.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "FluxPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    _write_json(folder / "model_index.json", index)


def _fill(parameter: "torch.nn.Parameter", key: str) -> None:
    """Random values by name and seed: whatever else changes, this tensor stays as it is."""
    import torch

    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    )
    values = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim >= 2:
        fan_in = parameter[0].numel()
        scale = 0.5 if "embed" in key and "embedder" not in key else 1.0 / math.sqrt(fan_in)
        parameter.copy_(values * scale)
    elif "norm" in key and key.endswith("weight"):
        parameter.copy_(1.0 + 0.25 * values)
    else:
        parameter.copy_(0.1 * values)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

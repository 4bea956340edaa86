"""A tiny random FLUX.1 checkpoint in the layout of diffusers, made by seed.

It has every file and every kind of layer of a real checkpoint, so that everything runs offline
and in seconds. Its pictures are coloured noise. Weights are far from the usual initialisation:
norms scale and biases shift, or a comparison could not tell two implementations apart.
"""

import hashlib
import importlib
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.digest import code_digest, sha256_value, versions_of
from builder.errors import UsageError
from builder.families.flux.corpus import captions
from builder.families.flux.tokenizer_graph import byte_symbols
from builder.files import replace_folder

if TYPE_CHECKING:
    import torch

VARIANTS = ("schnell", "dev")

_MARK = "tiny.json"
"""Says what a tiny checkpoint was made from; a real checkpoint has no such file."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_CLIP_MERGES = 320
_T5_PIECES = 240
_T5_EXTRA_IDS = 100


def ensure_tiny(folder: Path, variant: str, seed: int = 0) -> Path:
    """Make the tiny checkpoint in `folder`, unless it is there already.

    Equal arguments give equal bytes. The folder is replaced in one step; a killed run leaves no
    half of one.

    Args:
        variant: `schnell` or `dev`; the two differ in the transformer and the scheduler.

    Returns:
        `folder`.

    Raises:
        UsageError: The variant is unknown.
        BuilderError: The folder cannot be written.
    """
    if variant not in VARIANTS:
        raise UsageError(f"unknown FLUX variant {variant!r}", hint=f"use {' or '.join(VARIANTS)}")
    mark = json.dumps(_recipe(variant, seed), indent=1, sort_keys=True)
    existing = folder / _MARK
    if existing.is_file() and existing.read_text(encoding="utf-8") == mark:
        return folder
    with replace_folder(folder) as staged:
        _write_clip_tokenizer(staged / "tokenizer")
        _write_t5_tokenizer(staged / "tokenizer_2")
        _write_networks(staged, variant, seed)
        for file in staged.rglob("*.safetensors"):
            file.chmod(0o644)  # written for their owner only
        (staged / _MARK).write_text(mark, encoding="utf-8")
    return folder


def is_tiny(folder: Path) -> bool:
    """Whether `ensure_tiny` made this checkpoint."""
    return (folder / _MARK).is_file()


def _recipe(variant: str, seed: int) -> dict[str, Any]:
    return {
        "variant": variant,
        "seed": seed,
        "made_from": sha256_value(
            [
                code_digest(__name__, "builder.families.flux.corpus"),
                versions_of("torch", "diffusers", "transformers", "tokenizers", "sentencepiece"),
            ]
        ),
    }


def _write_networks(folder: Path, variant: str, seed: int) -> None:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
    from transformers.utils import logging

    diffusers: Any = importlib.import_module("diffusers")  # with too few annotations
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dev = variant == "dev"
    clip_size = 2 * 256 + _CLIP_MERGES + 2
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=clip_size,
            hidden_size=32,
            intermediate_size=64,
            projection_dim=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=clip_size - 2,
            eos_token_id=clip_size - 1,
            pad_token_id=clip_size - 1,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=_T5_PIECES + _T5_EXTRA_IDS + 12,  # the embedding has spare rows, as in T5
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            feed_forward_proj="gated-gelu",
        )
    )
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=dev,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
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


def _write_clip_tokenizer(folder: Path) -> None:
    """The byte-level BPE of CLIP: 256 bytes, 256 bytes that end a word, merges, two marks."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    symbols = byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        initial_alphabet=symbols,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions(), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]["merges"]
    merges = [tuple(merge) for merge in learnt[:_CLIP_MERGES]]
    if len(merges) != _CLIP_MERGES:
        raise AssertionError(f"the corpus gives only {len(merges)} merges")
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), _START, _END]
    folder.mkdir()
    _write_json(folder / "vocab.json", {piece: number for number, piece in enumerate(pieces)})
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    marks = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    _write_json(folder / "special_tokens_map.json", marks)
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks},
    )


def _write_t5_tokenizer(folder: Path) -> None:
    """The SentencePiece unigram model of T5, and the same for the `tokenizers` library."""
    import sentencepiece
    from transformers import T5Tokenizer

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions()),
        model_writer=written,
        model_type="unigram",
        vocab_size=_T5_PIECES,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    model = written.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    numbers = range(processor.GetPieceSize())
    vocabulary = [(processor.IdToPiece(i), processor.GetScore(i)) for i in numbers]
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(_T5_EXTRA_IDS))]
    tokenizer = T5Tokenizer(
        vocab=[*vocabulary, *extra],
        _spm_precompiled_charsmap=_charsmap(model),
        extra_ids=_T5_EXTRA_IDS,
        model_max_length=512,
    )
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(model)


def _charsmap(spiece_model: bytes) -> bytes:
    """`normalizer_spec.precompiled_charsmap` of a SentencePiece model.

    The module that sentencepiece generated for its messages needs a newer protobuf than Triton's
    client allows, so the two messages are described here; other fields are skipped as unknown.
    Field numbers: sentencepiece_model.proto.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="spiece.proto", package="spiece")
    file.message_type.add(name="Normalizer").field.add(
        name="charsmap", number=2, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL
    )
    file.message_type.add(name="Model").field.add(
        name="normalizer",
        number=3,
        type=field.TYPE_MESSAGE,
        type_name=".spiece.Normalizer",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("spiece.Model"))
    parsed: Any = message.FromString(spiece_model)
    return bytes(parsed.normalizer.charsmap)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

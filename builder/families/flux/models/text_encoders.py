"""`clip_encoder` and `t5_encoder`: token ids to embeddings. Every variant has the same two."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.config import Config
from builder.families.flux.lora import Lora, lora_ingredients
from builder.families.flux.models.specs import specs
from builder.families.flux.models.variants import LIBRARIES, Variant, variants
from builder.families.flux.options import MOST_TEXT
from builder.families.flux.stored import stored_weights
from builder.stage import Arrays, Range, Shape, Stage, Tensor, Tolerance, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import torch

CLIP_NAME = "clip_encoder"
T5_NAME = "t5_encoder"
CLIP_LENGTH = 77
"""Tokens that CLIP takes: `model_max_length` of its tokenizer."""

_NETWORKS = "builder.families.flux.networks.text_encoders"
_CLIP_TOLERANCE = Tolerance(atol=5e-6)
_T5_TOLERANCE = Tolerance(atol=2e-5)
"""T5's attention is not scaled, and sharp: PyTorch itself is 1.4e-5 from FP64 here."""

_SERVING = {"response_cache": True}
"""A repeated prompt costs a look-up in place of a run of the encoder."""


def stages(config: Config) -> Iterable[Stage]:
    """Both encoders, of the first variant: they are the same in all of them.

    A pipeline whose LoRA files change CLIP has a CLIP of its own.
    """
    variant = variants(config)[0]
    fused = [
        clip_encoder(spec.variant, spec.clip_encoder, spec.loras)
        for spec in specs(config)
        if spec.clip
    ]
    return (clip_encoder(variant), t5_encoder(variant), *fused)


def clip_encoder(variant: Variant, name: str = CLIP_NAME, loras: tuple[Lora, ...] = ()) -> Stage:
    """CLIP; it gives the whole prompt one embedding.

    Args:
        loras: Files that are fused into it.
    """
    lora_files, lora_code, lora_settings = lora_ingredients(loras)

    def wrap(text_model: Any) -> "torch.nn.Module":
        from builder.families.flux.networks.text_encoders import ClipEncoder

        return ClipEncoder(text_model)

    def load() -> "torch.nn.Module":
        return wrap(variant.component("text_encoder", loras))

    return Stage(
        name=name,
        family="flux",
        inputs=(Tensor("input_ids", "INT64", ("B", CLIP_LENGTH)),),
        outputs=(Tensor("pooled_prompt_embeds", "FP32", ("B", variant.widths.clip)),),
        source=TorchSource(
            load=load,
            stored=stored_weights(variant.folder, "text_encoder", wrap, loras),
            files=(*variant.files("text_encoder"), *lora_files),
            code=(*variant.code(_NETWORKS), *lora_code),
            libraries=LIBRARIES,
            settings=variant.settings(**lora_settings),
        ),
        example=partial(clip_example, variant.widths.clip_vocabulary),
        shapes=({"B": 2}, {"B": 1}, {"B": 4}),
        tolerance=_CLIP_TOLERANCE,
        profile={"B": Range(1, 1, 8)},
        max_batch_size=8,
        serving=_SERVING,
        metadata=lora_settings,
    )


def t5_encoder(variant: Variant) -> Stage:
    """T5; it gives each token an embedding."""

    def wrap(encoder: Any) -> "torch.nn.Module":
        from builder.families.flux.networks.text_encoders import T5Encoder

        return T5Encoder(encoder)

    def load() -> "torch.nn.Module":
        return wrap(variant.component("text_encoder_2"))

    return Stage(
        name=T5_NAME,
        family="flux",
        inputs=(Tensor("input_ids", "INT64", ("B", "S")),),
        outputs=(Tensor("prompt_embeds", "FP32", ("B", "S", variant.widths.t5)),),
        source=TorchSource(
            load=load,
            stored=stored_weights(variant.folder, "text_encoder_2", wrap),
            files=variant.files("text_encoder_2"),
            code=variant.code(_NETWORKS),
            libraries=LIBRARIES,
            settings=variant.settings(),
        ),
        example=partial(t5_example, variant.widths.t5_vocabulary),
        shapes=({"B": 2, "S": 16}, {"B": 1, "S": variant.text_length}, {"B": 4, "S": 7}),
        tolerance=_T5_TOLERANCE,
        profile={"B": Range(1, 1, 8), "S": Range(1, variant.text_length, MOST_TEXT)},
        max_batch_size=8,
        serving=_SERVING,
    )


def clip_example(vocabulary: int, shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Random tokens, then padding with the token that ends a text, as CLIP's tokenizer does."""
    import numpy as np

    ids = rng.integers(0, vocabulary - 1, (shape["B"], CLIP_LENGTH))
    lengths = rng.integers(1, CLIP_LENGTH, (shape["B"], 1))
    return {"input_ids": np.where(np.arange(CLIP_LENGTH) < lengths, ids, vocabulary - 1)}


def t5_example(vocabulary: int, shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Random tokens."""
    return {"input_ids": rng.integers(0, vocabulary, (shape["B"], shape["S"]))}

"""The names that LoRA files give to the layers of FLUX.1, and which layers of diffusers' they mean.

There are two sets of names for the transformer, those of diffusers and those of Black Forest Labs;
each occurs with dots (diffusers, PEFT, ComfyUI, XLabs) and with underscores (kohya's sd-scripts,
OneTrainer), behind prefixes of several kinds. Names are compared with underscores throughout.

Source: `diffusers.loaders.lora_conversion_utils`, whose converters are the judge of the tests.
Those name the blocks and widths of the full-size network only and leave out what they do not know;
this follows the network at hand and has an answer for every key.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TRANSFORMER, CLIP, T5 = "transformer", "text_encoder", "text_encoder_2"
"""The components of a checkpoint that a LoRA can be for."""

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    T5: ("text_encoder_2.", "lora_te2_", "lora_te3_", "text_encoders.t5xxl.transformer."),
    CLIP: ("text_encoder.", "lora_te1_", "lora_te_", "text_encoders.clip_l.transformer."),
    TRANSFORMER: (
        *("transformer.", "lora_transformer_", "lora_unet_"),
        *("model.diffusion_model.", "diffusion_model.", "base_model.model."),
    ),
}

_PARTS = (
    (re.compile(r"\.lora_A(\.[^.]+)?\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.[^.]+)?\.weight$"), "up"),
    (re.compile(r"\.(lora_|lora\.|lora_linear_layer\.)down\.weight$"), "down"),
    (re.compile(r"\.(lora_|lora\.|lora_linear_layer\.)up\.weight$"), "up"),
    (re.compile(r"(?<=_lora|lora1|lora2)\.down\.weight$"), "down"),  # XLabs numbers its layers
    (re.compile(r"(?<=_lora|lora1|lora2)\.up\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)

_OTHER_KINDS = (
    (re.compile(r"\.dora_scale$|lora_magnitude_vector"), "DoRA"),
    (re.compile(r"\.hada_w|\.hada_t"), "LoHa"),
    (re.compile(r"\.lokr_"), "LoKr"),
    (re.compile(r"\.(diff|diff_b)$"), "a full difference"),
    (re.compile(r"\.lora_B(\.[^.]+)?\.bias$|\.lora_up\.bias$"), "a LoRA of a bias"),
    (re.compile(r"\.lora_mid\."), "LoCon"),
)

_STABLE_DIFFUSION = re.compile(
    r"^(lora_unet_|unet\.|diffusion_model\.)(down_blocks|up_blocks|mid_block|input_blocks|"
    r"output_blocks|middle_block)|^lora_te2_text_model_"
)
"""Layers of the U-Net of Stable Diffusion 1, 2 and XL, and of the second CLIP of XL."""


@dataclass(frozen=True, slots=True)
class Target:
    """The layers that one low-rank product changes.

    Attributes:
        layers: Their paths; the rows of the product are theirs, one layer after the other.
        swapped: Whether the halves of the rows are the other way round: the last modulation is
            (shift, scale) in the original network and (scale, shift) in diffusers'.
    """

    layers: tuple[str, ...]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """What the name of a tensor says.

    Attributes:
        component: `transformer`, `text_encoder` (CLIP) or `text_encoder_2` (T5).
        layer: Name of the layer, without prefix and with underscores.
        part: `down` [rank,in], `up` [out,rank] or `alpha`; None if it is none of these.
    """

    component: str
    layer: str
    part: str | None


def read_key(name: str) -> Key:
    """What the name of a tensor says; any name has an answer."""
    component, rest = _component(name)
    part = None
    for pattern, kind in _PARTS:
        if found := pattern.search(rest):
            part, rest = kind, rest[: found.start()]
            break
    layer = rest.replace(".", "_")
    if component == CLIP:  # part of a larger module before transformers 5
        layer = layer.removeprefix("text_model_")
    return Key(component, layer, part)


def _component(name: str) -> tuple[str, str]:
    for component, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                # PEFT puts its own prefix before that of the pipeline.
                return _component(rest) if prefix == "base_model.model." else (component, rest)
    return TRANSFORMER, name


def other_kind(name: str) -> str | None:
    """The kind of adapter that a tensor belongs to, if it is not a plain LoRA."""
    return next((kind for pattern, kind in _OTHER_KINDS if pattern.search(name)), None)


def is_stable_diffusion(names: Iterable[str]) -> bool:
    """Whether these are names of layers of Stable Diffusion 1, 2 or XL."""
    return any(_STABLE_DIFFUSION.search(name) for name in names)


def targets(component: str, layers: Iterable[str]) -> Mapping[str, Target]:
    """Every name that a file can give to the layers of a component, with underscores.

    Args:
        component: `transformer` or `text_encoder`.
        layers: Paths of the linear layers of the module of diffusers or transformers.
    """
    known = set(layers)
    found = {path.replace(".", "_"): Target((path,)) for path in known}
    if component == TRANSFORMER:
        original = _original_names(known)
        found |= {name: t for name, t in original if known.issuperset(t.layers)}
    if component == CLIP:
        for old, new in _OLD_CLIP.items():
            found |= {
                path.replace(".", "_").removesuffix(new) + old: Target((path,))
                for path in known
                if path.endswith(f"self_attn.{new}")
            }
    return found


def _original_names(known: set[str]) -> Iterable[tuple[str, Target]]:
    """The names of Black Forest Labs, and those of XLabs' adapters."""
    for kind, blocks, table in (
        ("transformer_blocks", "double_blocks", _DOUBLE),
        ("single_transformer_blocks", "single_blocks", _SINGLE),
    ):
        numbers = {path.split(".")[1] for path in known if path.startswith(f"{kind}.")}
        for number in numbers:
            for name, layers in table.items():
                paths = tuple(f"{kind}.{number}.{layer}" for layer in layers)
                yield f"{blocks}_{number}_{name}", Target(paths)
    for name, layer in _OUTER.items():
        yield name, Target((layer,))
    yield "final_layer_adaLN_modulation_1", Target(("norm_out.linear",), swapped=True)


_OLD_CLIP: Mapping[str, str] = {
    "to_q_lora": "q_proj", "to_k_lora": "k_proj", "to_v_lora": "v_proj", "to_out_lora": "out_proj",
}  # fmt: skip
"""The layers of CLIP's attention as diffusers called them before it used PEFT."""

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

_DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_attn_qkv": _QKV,
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": _TEXT_QKV,
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
    "processor_qkv_lora1": _QKV,
    "processor_proj_lora1": ("attn.to_out.0",),
    "processor_qkv_lora2": _TEXT_QKV,
    "processor_proj_lora2": ("attn.to_add_out",),
}

_SINGLE: Mapping[str, tuple[str, ...]] = {
    "linear1": (*_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
    "processor_qkv_lora": _QKV,
    "processor_proj_lora": ("proj_out",),
}

_OUTER: Mapping[str, str] = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in_in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in_out_layer": "time_text_embed.text_embedder.linear_2",
    "final_layer_linear": "proj_out",
}

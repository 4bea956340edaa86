"""`dit_step` and `dit_step_dev`: one denoising step, at whatever step each sample is."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from builder.config import Config
from builder.families.flux.lora import Lora, lora_ingredients
from builder.families.flux.models.specs import specs
from builder.families.flux.models.variants import LIBRARIES, Variant, variants
from builder.families.flux.options import MOST_TEXT, PIXELS_PER_PATCH, STEPS
from builder.families.flux.stored import stored_weights
from builder.stage import Arrays, Range, Shape, Stage, Tensor, Tolerance, TorchSource

if TYPE_CHECKING:
    import numpy as np
    import torch

_NETWORKS = (
    "builder.families.flux.networks.dit_step",
    "builder.families.flux.networks.attention",
)

_SHAPES: tuple[Shape, ...] = (
    {"B": 2, "h": 8, "w": 12, "N": 5, "S": 16},
    {"B": 1, "h": 16, "w": 16, "N": 29, "S": 64},
    {"B": 4, "h": 12, "w": 4, "N": 5, "S": 9},
    {"B": 3, "h": 2, "w": 2, "N": 2, "S": 1},
)

_PRECISION = {"cpu": "fp32", "sm75": "fp16"} | dict.fromkeys(
    ("sm80", "sm86", "sm87", "sm89", "sm90", "sm100", "sm103", "sm120", "sm121"), "bf16"
)


def stages(config: Config) -> Iterable[Stage]:
    """One per variant, and one per pipeline that has LoRA files."""
    fused = [stage(spec.variant, spec.dit_step, spec.loras) for spec in specs(config) if spec.loras]
    return (*(stage(variant) for variant in variants(config)), *fused)


def name_of(variant: Variant) -> str:
    """Name of the stage of a variant."""
    return f"dit_step{variant.suffix}"


def stage(variant: Variant, name: str | None = None, loras: tuple[Lora, ...] = ()) -> Stage:
    """The transformer of a variant with an Euler step around it.

    `N` is one more than the number of steps, `h` and `w` are even.

    Args:
        name: Name of the stage; by default that of the variant.
        loras: Files that are fused into the transformer. All such stages of a variant have one
            graph, which a build traces once. The plain one is apart: the exporter folds constants
            where no weights are to be swapped.
    """
    widths, options = variant.widths, variant.options
    positions = options.max_size // PIXELS_PER_PATCH

    def wrap(transformer: Any) -> "torch.nn.Module":
        from builder.families.flux.networks.dit_step import DitStep

        return DitStep(transformer, positions)

    def load() -> "torch.nn.Module":
        return wrap(variant.component("transformer", loras))

    lora_files, lora_code, lora_settings = lora_ingredients(loras)

    inputs = [
        Tensor("latents", "FP32", ("B", widths.channels, "h", "w")),
        Tensor("step", "INT64", ("B", 1)),
        Tensor("sigmas", "FP32", ("B", "N")),
        Tensor("prompt_embeds", "FP32", ("B", "S", widths.t5)),
        Tensor("pooled_prompt_embeds", "FP32", ("B", widths.clip)),
    ]
    if variant.guided:
        inputs.append(Tensor("guidance", "FP32", ("B", 1)))
    usual, most = options.default_size // widths.latent, options.max_size // widths.latent
    side = Range(2, usual, most)
    return Stage(
        name=name or name_of(variant),
        family="flux",
        inputs=tuple(inputs),
        outputs=(
            Tensor("next_latents", "FP32", ("B", widths.channels, "h", "w")),
            Tensor("next_step", "INT64", ("B", 1)),
        ),
        source=TorchSource(
            load=load,
            graph=f"{name_of(variant)}_lora" if loras else None,
            stored=stored_weights(variant.folder, "transformer", wrap, loras),
            files=(*variant.files("transformer"), *lora_files),
            code=(*variant.code(*_NETWORKS), *lora_code),
            libraries=LIBRARIES,
            settings=variant.settings(variant=variant.name, positions=positions, **lora_settings),
        ),
        example=partial(example, variant),
        shapes=_SHAPES,
        tolerance=Tolerance(atol=5e-6),
        profile={
            "B": Range(1, 1, 8),
            "h": side,
            "w": side,
            "N": Range(2, STEPS[variant.name] + 1, 101),
            "S": Range(1, variant.text_length, MOST_TEXT),
        },
        precision=_PRECISION,
        max_batch_size=8,
        metadata={"max_size": str(options.max_size), **lora_settings},
    )


def example(variant: Variant, shape: Shape, rng: "np.random.Generator") -> Arrays:
    """Samples of one resolution, each at a step of its own."""
    import numpy as np

    widths, batch = variant.widths, shape["B"]
    sigmas = np.sort(rng.uniform(0.01, 1.0, (batch, shape["N"])).astype(np.float32))[:, ::-1]
    sigmas[:, -1] = 0.0
    arrays: Arrays = {
        "latents": _normal(rng, batch, widths.channels, shape["h"], shape["w"]),
        "step": rng.integers(0, shape["N"] - 1, (batch, 1)),
        "sigmas": np.ascontiguousarray(sigmas),
        "prompt_embeds": _normal(rng, batch, shape["S"], widths.t5),
        "pooled_prompt_embeds": _normal(rng, batch, widths.clip),
    }
    if variant.guided:
        arrays["guidance"] = rng.uniform(1.0, 7.0, (batch, 1)).astype(np.float32)
    return arrays


def _normal(
    rng: "np.random.Generator", *shape: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    import numpy as np

    return rng.standard_normal(shape, dtype=np.float32)

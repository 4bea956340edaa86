"""The pipelines: one generator for any number of denoising steps, from noise or from an image."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from builder.config import Config
from builder.families.flux.models import (
    image,
    prepare,
    text_encoders,
    tokenizer,
    vae_decoder,
    vae_encoder,
)
from builder.families.flux.models.specs import PipelineSpec, specs
from builder.pipeline import Pipeline, Step
from builder.stage import Arrays, Tensor

if TYPE_CHECKING:
    import numpy as np

MAX_BATCH_SIZE = 4
"""Images of one request; they share their size."""

_EXAMPLE_PROMPT = "a lighthouse on a rocky shore at dusk"
_EXAMPLE_SIZE = (64, 96)


def pipelines(config: Config) -> Iterable[Pipeline]:
    """`flux_schnell`, `flux_img2img`, those of dev, and what `builder pipeline flux` added."""
    return tuple(pipeline(spec) for spec in specs(config))


def pipeline(spec: PipelineSpec) -> Pipeline:
    """Prompt, seed and size in, image out; or prompt, seed, image and strength in.

    The loop over the steps is unrolled: each turn is the same model, whose state travels in
    tensors, so requests that are at different steps share its batches.
    """
    inputs = [Tensor("prompt", "BYTES", (1,))]
    if spec.image:
        inputs.append(Tensor(image.INPUT, "UINT8", ("H", "W", 3)))
        inputs += [Tensor("seed", "INT64", (1,)), Tensor("strength", "FP32", (1,))]
    else:
        inputs += [Tensor(name, "INT64", (1,)) for name in ("seed", "height", "width")]
    if spec.variant.guided:
        inputs.append(Tensor("guidance", "FP32", (1,)))
    start = "prompt and image" if spec.image else "prompt"
    metadata = {"variant": spec.variant.name, "steps": str(spec.steps)}
    if spec.loras:
        metadata["loras"] = ", ".join(map(str, spec.loras))
    return Pipeline(
        name=spec.name,
        family="flux",
        inputs=tuple(inputs),
        outputs=(Tensor("image", "UINT8", ("H", "W", 3)),),
        steps=tuple(_steps(spec)),
        example=partial(example, spec),
        reference=partial(reference, spec),
        levels=1,
        max_batch_size=MAX_BATCH_SIZE,
        description=f"{start} -> image in {spec.steps} steps of FLUX.1 {spec.variant.name}"
        + (f" with {metadata['loras']}" if spec.loras else ""),
        metadata=metadata,
    )


def _steps(spec: PipelineSpec) -> Iterator[Step]:
    variant = spec.variant
    yield Step(
        tokenizer.name_of(variant),
        {"prompt": "prompt"},
        {"clip_ids": "clip_ids", "t5_ids": "t5_ids"},
    )
    yield Step(
        spec.clip_encoder,
        {"input_ids": "clip_ids"},
        {"pooled_prompt_embeds": "pooled_prompt_embeds"},
    )
    yield Step(text_encoders.T5_NAME, {"input_ids": "t5_ids"}, {"prompt_embeds": "prompt_embeds"})
    guidance = {"guidance": "checked_guidance"} if variant.guided else {}
    given = ["seed", "height", "width"]
    if spec.image:
        given = ["seed", "strength", "image_latents"]
        yield Step(
            image.NAME,
            {name: name for name in (image.INPUT, prepare.AFTER)},
            {"checked_image": "checked_image"},
        )
        yield Step(vae_encoder.NAME, {"image": "checked_image"}, {"image_latents": "image_latents"})
    yield Step(
        spec.prepare,
        {name: name for name in (*given, *guidance, prepare.AFTER)},
        {"latents": "latents_0", "sigmas": "sigmas", "step": "step_0"}
        | {name: name for name in guidance.values()},
    )
    for i in range(spec.steps):
        outputs = {"next_latents": f"latents_{i + 1}", "next_step": f"step_{i + 1}"}
        if i == spec.steps - 1:
            del outputs["next_step"]  # Triton wants every tensor of an ensemble to be used
        yield Step(
            spec.dit_step,
            {
                "latents": f"latents_{i}",
                "step": f"step_{i}",
                "sigmas": "sigmas",
                "prompt_embeds": "prompt_embeds",
                "pooled_prompt_embeds": "pooled_prompt_embeds",
                **guidance,
            },
            outputs,
        )
    yield Step(vae_decoder.NAME, {"latents": f"latents_{spec.steps}"}, {"image": "image"})


def example(spec: PipelineSpec, generator: "np.random.Generator") -> Arrays:
    """A small image that is not square."""
    import numpy as np

    height, width = _EXAMPLE_SIZE
    prompts, seeds = [_EXAMPLE_PROMPT], [int(generator.integers(2**32))]
    if spec.image:
        start = image.example_image(1, height, width, generator)
        return image_request(spec, prompts, seeds, start, 0.6, np.float32(3.5))
    return request(spec, prompts, seeds, height, width, np.float32(3.5))


def request(
    spec: PipelineSpec,
    prompts: list[str],
    seeds: list[int],
    height: int,
    width: int,
    guidance: "float | np.float32",
) -> Arrays:
    """The inputs for images of one size, one per prompt and seed."""
    import numpy as np

    count = len(prompts)
    return _common(spec, prompts, seeds, guidance) | {
        "height": np.full((count, 1), height, np.int64),
        "width": np.full((count, 1), width, np.int64),
    }


def image_request(
    spec: PipelineSpec,
    prompts: list[str],
    seeds: list[int],
    images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
    strength: float,
    guidance: "float | np.float32",
) -> Arrays:
    """The inputs for images that start with others, UINT8 [B,H,W,3], one per prompt and seed."""
    import numpy as np

    return _common(spec, prompts, seeds, guidance) | {
        image.INPUT: images,
        "strength": np.full((len(prompts), 1), strength, np.float32),
    }


def _common(
    spec: PipelineSpec, prompts: list[str], seeds: list[int], guidance: "float | np.float32"
) -> Arrays:
    import numpy as np

    arrays: Arrays = {
        "prompt": np.array([[prompt.encode()] for prompt in prompts], dtype=object),
        "seed": np.array([[seed] for seed in seeds], dtype=np.int64),
    }
    if spec.variant.guided:
        arrays["guidance"] = np.full((len(prompts), 1), guidance, np.float32)
    return arrays


def reference(spec: PipelineSpec, arrays: Arrays) -> Arrays:
    """The pipeline in PyTorch, without any export or engine."""
    from builder.families.flux.flux_pipeline import FluxReference

    variant = spec.variant
    judge = FluxReference(
        variant.folder(),
        max_sequence_length=variant.text_length,
        max_size=variant.options.max_size,
        loras=spec.loras,
    )
    prompts = [prompt.decode() for prompt in arrays["prompt"][:, 0]]
    seeds = arrays["seed"][:, 0].tolist()
    guidance = arrays["guidance"][:, 0].tolist() if variant.guided else None
    if spec.image:
        strength = arrays["strength"][:, 0].tolist()
        made = judge.generate_from(
            arrays[image.INPUT], strength, prompts, seeds, spec.steps, guidance
        )
    else:
        height, width = int(arrays["height"][0, 0]), int(arrays["width"][0, 0])
        made = judge.generate(prompts, seeds, height, width, spec.steps, guidance)
    return {"image": made}

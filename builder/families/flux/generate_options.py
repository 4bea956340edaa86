"""What `builder generate` is asked for, checked before a server is."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from builder.config import Config
from builder.errors import UsageError
from builder.families.flux.models.specs import PipelineSpec, specs
from builder.families.flux.options import size_problem
from builder.families.flux.pictures import read_picture

if TYPE_CHECKING:
    from builder.families.flux.pictures import Picture

MOST_PROMPT = 100_000
"""Characters; what is beyond the tokens of the encoders is cut anyway."""

DEFAULT_STRENGTH = 0.6


def choose(
    config: Config, pipeline: str | None, steps: int | None, *, image: bool = False
) -> PipelineSpec:
    """The pipeline of that name, or the first one that has so many steps.

    Args:
        image: Whether it is to start with an image.

    Raises:
        UsageError: There is none.
    """
    known = specs(config)
    named = next((spec for spec in known if spec.name == pipeline), None)
    if named is not None and named.image != image:
        if image:
            raise UsageError(f"{pipeline} takes no image", where="--image", hint="leave it out")
        raise UsageError(
            f"{pipeline} starts with an image", where="--pipeline", hint="add --image photo.png"
        )
    fitting = [spec for spec in known if spec.image == image]
    found = [
        spec for spec in fitting if pipeline in (None, spec.name) and steps in (None, spec.steps)
    ]
    if found:
        return found[0]
    there = ", ".join(f"{spec.name} ({spec.steps} steps)" for spec in fitting)
    if pipeline is not None and named is None:
        raise UsageError(f"no pipeline {pipeline!r}", where="--pipeline", hint=f"there is {there}")
    more = f"--img2img --name flux_img2img_{steps}" if image else f"--name flux_{steps}"
    raise UsageError(
        f"no pipeline with {steps} steps",
        where="--steps",
        hint=f"there is {there}; add one: builder pipeline flux --steps {steps} {more}",
    )


def read_start(path: Path, size: str | None, spec: PipelineSpec) -> "Picture":
    """The image to start with, UINT8 [H,W,3].

    Raises:
        UsageError: Its size, or the one that it is to be scaled to, is none that can be made.
        DataError: It is no picture.
    """
    if size is not None:
        return read_picture(path, read_size(size, spec))
    picture = read_picture(path)
    height, width = picture.shape[:2]
    if problem := size_problem(height, width, spec.variant.options.max_size):
        near = "x".join(str(max(16, min(n // 16 * 16, 1024))) for n in (height, width))
        raise UsageError(problem, where=path, hint=f"scale it, for example with --size {near}")
    return picture


def check_strength(strength: float | None, spec: PipelineSpec) -> float:
    """The strength, or the default one.

    Raises:
        UsageError: It is none, or there is no image.
    """
    if strength is None:
        return DEFAULT_STRENGTH
    if not spec.image:
        raise UsageError("is for --image only", where="--strength")
    if not 0 < strength <= 1:
        raise UsageError(
            f"{strength} is no strength", where="--strength", hint="above 0, and not above 1"
        )
    return strength


def read_size(text: str | None, spec: PipelineSpec) -> tuple[int, int]:
    """Height and width.

    Raises:
        UsageError: The text is no size, or not one that the pipeline takes.
    """
    options = spec.variant.options
    if text is None:
        return options.default_size, options.default_size
    first, cross, second = text.lower().partition("x")
    try:
        height = int(first)
        width = int(second) if cross else height
    except ValueError:
        raise UsageError(
            f"{text!r} is no size", where="--size", hint="write 768x1024 (height x width) or 512"
        ) from None
    if problem := size_problem(height, width, options.max_size):
        raise UsageError(
            problem, where="--size", hint="sizes are multiples of 16, up to [flux] max_size"
        )
    return height, width


def check_guidance(guidance: float | None, spec: PipelineSpec) -> float:
    """The guidance scale, or the default one.

    Raises:
        UsageError: It is no number, or the pipeline takes none.
    """
    if guidance is None:
        return spec.variant.options.default_guidance
    if not spec.variant.guided:
        raise UsageError(
            f"{spec.name} takes no guidance",
            where="--guidance",
            hint="only FLUX.1 dev does; leave it out, or add --pipeline flux_dev",
        )
    if not math.isfinite(guidance):
        raise UsageError(f"{guidance} is no guidance", where="--guidance", hint="3.5 is usual")
    return guidance


def check_prompt(prompt: str) -> None:
    """Refuse what no tokenizer can take.

    Raises:
        UsageError: The prompt is no UTF-8 text, holds NUL, or is absurdly long.
    """
    if "\0" in prompt or any("\ud800" <= c <= "\udfff" for c in prompt):
        raise UsageError("is no UTF-8 text without NUL characters", where="PROMPT")
    if len(prompt) > MOST_PROMPT:
        raise UsageError(
            f"has {len(prompt)} characters, the limit is {MOST_PROMPT}",
            where="PROMPT",
            hint="the encoders see the first hundreds of words at most",
        )


def check_seed(seed: int) -> int:
    """The seed.

    Raises:
        UsageError: It does not fit into 64 bits.
    """
    if not -(2**63) <= seed < 2**63:
        raise UsageError(f"{seed} does not fit into 64 bits", where="--seed")
    return seed

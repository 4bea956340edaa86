"""The `[flux]` section of builder.toml, and the limits on what a request may ask for."""

from dataclasses import dataclass, replace
from pathlib import Path

from builder.config import Config, setting
from builder.errors import ConfigError
from builder.families.flux.tiny_sizes import SIZES

PIXELS_PER_PATCH = 16
"""Height and width of an image are multiples of this: 8 pixels a latent, 2 latents a patch."""

STEPS = {"schnell": 4, "dev": 28}
"""Denoising steps of the two pipelines."""

TEXT_LENGTH = {"schnell": 256, "dev": 512}
"""T5 tokens that the two variants were trained with; the encoder gets no mask."""

MOST_STEPS = 1000
"""The scheduler has this many training timesteps; more steps than that repeat some."""

MOST_TEXT = 512
"""Longest `max_sequence_length` that FLUX.1 takes."""


@dataclass(frozen=True, slots=True)
class FluxOptions:
    """What the FLUX family is built from."""

    checkpoint: Path | None = setting(
        None, "FLUX.1 folder in the layout of diffusers; unset makes a tiny random one"
    )
    second_checkpoint: Path | None = setting(
        None, "FLUX.1 folder of the other kind (dev beside schnell), to build both at once"
    )
    seed: int = setting(0, "seed of the random checkpoint")
    random_size: str = setting(
        "tiny", "random checkpoint: tiny, or small, with 20 M parameters in the transformer"
    )
    max_sequence_length: int | None = setting(
        None, "T5 tokens per prompt; unset means 256 for schnell and 512 for dev"
    )
    steps: int | None = setting(
        None, "denoising steps of the pipeline; unset means 4 for schnell and 28 for dev"
    )
    max_size: int = setting(2048, "largest height and width of an image, in pixels")
    default_size: int = setting(1024, "height and width that a client asks for by default")
    default_guidance: float = setting(3.5, "guidance that a client asks for by default (dev)")

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The configured folders; none means random ones."""
        both = (self.checkpoint, self.second_checkpoint)
        return tuple(path for path in both if path is not None)

    def text_length(self, variant: str) -> int:
        """T5 tokens per prompt."""
        given = self.max_sequence_length
        return TEXT_LENGTH[variant] if given is None else given

    def step_count(self, variant: str) -> int:
        """Denoising steps of the pipeline."""
        return STEPS[variant] if self.steps is None else self.steps


def flux_options(config: Config) -> FluxOptions:
    """The section, checked; a relative checkpoint starts at the folder of builder.toml.

    Raises:
        ConfigError: A setting is unknown, of the wrong type or out of range.
    """
    options = config.section("flux", FluxOptions)
    for name in ("checkpoint", "second_checkpoint"):
        if (path := getattr(options, name)) is not None:  # the root goes away before absolute ones
            options = replace(options, **{name: config.root / path})
    if options.second_checkpoint is not None and options.checkpoint is None:
        raise ConfigError(
            "second_checkpoint is set, and checkpoint is not", where="builder.toml [flux]"
        )
    if options.seed < 0:
        raise ConfigError("seed is negative", where="builder.toml [flux]")
    if options.random_size not in SIZES:
        raise ConfigError(
            f"random_size is {options.random_size!r}",
            where="builder.toml [flux]",
            hint=f"use {' or '.join(SIZES)}",
        )
    check_steps(STEPS["dev"] if options.steps is None else options.steps)
    length = options.max_sequence_length
    if length is not None and not 1 <= length <= MOST_TEXT:
        raise ConfigError(
            f"max_sequence_length is {length}",
            where="builder.toml [flux]",
            hint=f"FLUX.1 takes 1 to {MOST_TEXT} tokens",
        )
    for name in ("max_size", "default_size"):
        size = getattr(options, name)
        if size < PIXELS_PER_PATCH or size % PIXELS_PER_PATCH:
            raise ConfigError(
                f"{name} is {size}",
                where="builder.toml [flux]",
                hint=f"use a positive multiple of {PIXELS_PER_PATCH}",
            )
    if options.default_size > options.max_size:
        raise ConfigError(
            f"default_size {options.default_size} is above max_size {options.max_size}",
            where="builder.toml [flux]",
        )
    return options


def check_steps(steps: int, where: str = "builder.toml [flux] steps") -> int:
    """`steps`, if a schedule of that many steps exists.

    Raises:
        ConfigError: It is out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ConfigError(f"{steps} steps", where=where, hint=f"use 1 to {MOST_STEPS}")
    return steps


def size_problem(height: int, width: int, max_size: int) -> str | None:
    """What is wrong with an image size, or None."""
    for name, size in (("height", height), ("width", width)):
        if size < PIXELS_PER_PATCH or size % PIXELS_PER_PATCH:
            return f"{name} is {size}, which is no positive multiple of {PIXELS_PER_PATCH}"
        if size > max_size:
            return f"{name} is {size}, the limit is {max_size}"
    return None

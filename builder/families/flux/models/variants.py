"""The FLUX.1 checkpoints that are built, and what their configurations say; weights stay unread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.config import Config
from builder.errors import CheckpointError, ConfigError
from builder.families.flux.checkpoint import checkpoint_files, component_config, variant_of
from builder.families.flux.lora import Lora
from builder.families.flux.options import FluxOptions, flux_options
from builder.families.flux.tiny_sizes import SIZES

if TYPE_CHECKING:
    import torch

VARIANTS = ("schnell", "dev")
LIBRARIES = ("diffusers", "transformers")

_CODE = tuple(f"builder.families.flux.{name}" for name in ("checkpoint", "shards", "stored"))
"""The modules that read a checkpoint."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Sizes that the signatures of the stages are made of.

    Attributes:
        clip: Width of CLIP's pooled embedding.
        t5: Width of T5's embeddings.
        channels: Channels of the latents.
        latent: Pixels per latent, along a side.
        clip_vocabulary: Number of CLIP's tokens; the last one ends a text.
        t5_vocabulary: Number of T5's tokens.
    """

    clip: int
    t5: int
    channels: int
    latent: int
    clip_vocabulary: int
    t5_vocabulary: int


TINY_WIDTHS = Widths(clip=32, t5=32, channels=16, latent=8, clip_vocabulary=834, t5_vocabulary=352)
"""Of `builder.families.flux.tiny`, so that a declaration need not make that checkpoint first."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One checkpoint and what is built from it.

    Attributes:
        name: `schnell`, or `dev`: distilled with guidance, which is then an input.
        tiny: Whether it is a random one, which is made when it is first needed.
    """

    name: str
    checkpoint: Path
    tiny: bool
    widths: Widths
    options: FluxOptions

    @property
    def guided(self) -> bool:
        """Whether the transformer takes a guidance scale."""
        return self.name == "dev"

    @property
    def suffix(self) -> str:
        """What is added to the names of the stages that belong to this variant alone."""
        return "_dev" if self.guided else ""

    @property
    def text_length(self) -> int:
        """T5 tokens per prompt."""
        return self.options.text_length(self.name)

    def folder(self) -> Path:
        """Folder of the checkpoint; a tiny one is made if it is not there."""
        if self.tiny:
            from builder.families.flux.tiny import ensure_tiny

            return ensure_tiny(
                self.checkpoint, self.name, self.options.seed, self.options.random_size
            )
        return self.checkpoint

    def component(self, name: str, loras: Sequence[Lora] = ()) -> "torch.nn.Module":
        """A network of the checkpoint (`transformer`, `vae`, ...), in eval mode.

        Args:
            loras: Files that are fused into it.
        """
        from builder.families.flux.lora_fuse import fused_component

        return fused_component(self.folder(), name, loras)

    def files(self, *names: str) -> tuple[Path, ...]:
        """Files of components; a tiny checkpoint follows from code and settings alone."""
        if self.tiny:
            return ()
        return tuple(f for name in names for f in checkpoint_files(self.checkpoint, name))

    def code(self, *modules: str) -> tuple[str, ...]:
        """Modules that decide what is exported: the given ones, and those of the checkpoint."""
        from builder.families.flux import tiny

        return (*modules, *_CODE, *(tiny.CODE if self.tiny else ()))

    def settings(self, **values: object) -> Mapping[str, str]:
        """Settings that decide what is exported: the given ones, and those of the checkpoint."""
        settings = {key: str(value) for key, value in values.items()}
        if self.tiny:
            settings["tiny_seed"] = str(self.options.seed)
            settings["random_size"] = self.options.random_size
        return settings


def variants(config: Config) -> tuple[Variant, ...]:
    """The configured checkpoints, or a tiny one of each kind; schnell comes first.

    Raises:
        ConfigError: The `[flux]` section is invalid, or names two checkpoints of one kind.
        CheckpointError: A checkpoint is not there, no FLUX.1, or does not go with the other one.
    """
    options = flux_options(config)
    if options.checkpoints:
        found = [_real(folder, options) for folder in options.checkpoints]
        _check_pair(found)
        return tuple(sorted(found, key=lambda variant: VARIANTS.index(variant.name)))
    size = SIZES[options.random_size]
    widths = replace(TINY_WIDTHS, clip=size.clip, t5=size.t5)
    folder = config.build_dir / "checkpoints"
    return tuple(
        Variant(name, folder / f"flux-{options.random_size}-{name}", True, widths, options)
        for name in VARIANTS
    )


def _check_pair(found: list[Variant]) -> None:
    """Check that two checkpoints are of different kinds, and have text encoders and VAEs alike.

    Those are the same in FLUX.1 schnell and dev, so one engine of each serves both. Their weights
    are not compared here: a pipeline is compared with PyTorch running its own checkpoint, and is
    not published where they differ.
    """
    names = [variant.name for variant in found]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"checkpoint and second_checkpoint are both FLUX.1 {names[0]}",
            where="builder.toml [flux]",
            hint="one is to be schnell, the other dev",
        )
    first = found[0]
    for other in found[1:]:
        if other.widths != first.widths or _scaling(other.checkpoint) != _scaling(first.checkpoint):
            raise CheckpointError(
                f"has other text encoders or another VAE than {first.checkpoint}",
                where=other.checkpoint,
                hint="build them apart, each with a builder.toml of its own",
            )


def _scaling(folder: Path) -> tuple[object, ...]:
    vae = component_config(folder, "vae")
    return vae.get("scaling_factor"), vae.get("shift_factor")


def widths_of(configs: Mapping[str, Mapping[str, Any]]) -> Widths:
    """The sizes of a model's signatures.

    Raises:
        KeyError: A configuration lacks a setting.
    """
    clip, t5, transformer, vae = (
        configs[name] for name in ("text_encoder", "text_encoder_2", "transformer", "vae")
    )
    return Widths(
        clip=int(clip["hidden_size"]),
        t5=int(t5["d_model"]),
        channels=int(transformer["in_channels"]) // 4,
        latent=2 ** (len(vae["block_out_channels"]) - 1),
        clip_vocabulary=int(clip["vocab_size"]),
        t5_vocabulary=int(t5["vocab_size"]),
    )


def _real(folder: Path, options: FluxOptions) -> Variant:
    name = variant_of(folder)
    parts = ("text_encoder", "text_encoder_2", "transformer", "vae")
    configs = {part: component_config(folder, part) for part in parts}
    try:
        widths = widths_of(configs)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"is no FLUX.1 checkpoint: a configuration lacks {error}",
            where=folder,
            hint="use a FLUX.1 folder in the layout of diffusers",
        ) from error
    return Variant(name, folder, False, widths, options)

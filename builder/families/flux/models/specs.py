"""Which pipelines there are: a variant, a number of denoising steps, and what else each has.

The variants' own pipelines follow from builder.toml. `builder pipeline flux` adds others; they
are kept in `exports/flux/pipelines.json`, so that every later build and server knows them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.config import Config
from builder.errors import ConfigError
from builder.families.flux.lora import Lora
from builder.families.flux.models.variants import Variant, variants
from builder.families.flux.options import check_steps
from builder.files import write_atomic
from builder.repository.names import check_name


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """One pipeline.

    Attributes:
        name: Name of the ensemble.
        prepare: Name of its `flux_prepare`, the only stage that knows the number of steps.
        image: Whether it starts with an image, and not with noise alone.
        loras: LoRA files that are fused into its own `dit_step`.
        clip: Whether they change CLIP as well, of which it then has its own, too.
    """

    name: str
    variant: Variant
    steps: int
    prepare: str
    image: bool = False
    loras: tuple[Lora, ...] = ()
    clip: bool = False

    @property
    def dit_step(self) -> str:
        """Name of its `dit_step`."""
        return f"{self.name}_dit_step" if self.loras else f"dit_step{self.variant.suffix}"

    @property
    def clip_encoder(self) -> str:
        """Name of its `clip_encoder`."""
        return f"{self.name}_clip_encoder" if self.clip else "clip_encoder"


@dataclass(frozen=True, slots=True)
class Added:
    """What `builder pipeline flux` adds: a pipeline without its name, see `PipelineSpec`.

    Attributes:
        variant: Name of the checkpoint.
    """

    variant: str
    steps: int
    image: bool = False
    loras: tuple[Lora, ...] = ()
    clip: bool = False


def specs(config: Config) -> tuple[PipelineSpec, ...]:
    """Every pipeline of every configured variant: text to image first, then image to image.

    Raises:
        ConfigError: `pipelines.json` is damaged.
    """
    by_name = {variant.name: variant for variant in variants(config)}
    own = [_own(variant, image) for image in (False, True) for variant in by_name.values()]
    added = [
        _added(name, by_name[entry.variant], entry)
        for name, entry in read_added(config).items()
        if entry.variant in by_name
    ]
    return (*own, *added)


def _own(variant: Variant, image: bool) -> PipelineSpec:
    """A variant's pipeline with the configured number of steps."""
    steps = variant.options.step_count(variant.name)
    if not image:
        return PipelineSpec(f"flux_{variant.name}", variant, steps, f"flux_prepare{variant.suffix}")
    name = f"flux_img2img{variant.suffix}"
    return PipelineSpec(name, variant, steps, f"{name}_prepare", image=True)


def _added(name: str, variant: Variant, entry: Added) -> PipelineSpec:
    """It shares the `flux_prepare` of the variant's own pipeline if that has as many steps."""
    own = _own(variant, entry.image)
    prepare = own.prepare if own.steps == entry.steps else f"{name}_prepare"
    return PipelineSpec(name, variant, entry.steps, prepare, entry.image, entry.loras, entry.clip)


def added_file(config: Config) -> Path:
    """Where added pipelines are kept."""
    return config.exports / "flux" / "pipelines.json"


def read_added(config: Config) -> Mapping[str, Added]:
    """Added pipelines by name.

    Raises:
        ConfigError: The file is damaged.
    """
    path = added_file(config)
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {check_name(n, "pipeline name"): _from_json(entry) for n, entry in entries.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"the list of added pipelines cannot be read: {error}",
            where=path,
            hint="remove the file and add the pipelines again",
        ) from error


def write_added(config: Config, added: Mapping[str, Added]) -> None:
    """Keep the added pipelines."""
    entries = {name: _to_json(entry) for name, entry in added.items()}
    path = added_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())


def _to_json(entry: Added) -> dict[str, Any]:
    return {
        "variant": entry.variant,
        "steps": entry.steps,
        "image": entry.image,
        "loras": [{"file": str(lora.file), "scale": lora.scale} for lora in entry.loras],
        "clip": entry.clip,
    }


def _from_json(entry: Mapping[str, Any]) -> Added:
    """Lists of older versions hold the variant and the steps only."""
    return Added(
        variant=str(entry["variant"]),
        steps=check_steps(int(entry["steps"])),
        image=bool(entry.get("image", False)),
        loras=tuple(
            Lora(Path(str(lora["file"])), float(lora["scale"])) for lora in entry.get("loras", ())
        ),
        clip=bool(entry.get("clip", False)),
    )

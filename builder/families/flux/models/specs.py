"""Which pipelines there are: a variant and a number of denoising steps each.

The variants' own pipelines follow from builder.toml. `builder pipeline flux` adds others; they
are kept in `exports/flux/pipelines.json`, so that every later build and server knows them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.config import Config
from builder.errors import ConfigError
from builder.families.flux.models.variants import Variant, variants
from builder.families.flux.options import check_steps
from builder.files import write_atomic
from builder.repository.names import check_name


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """One text-to-image pipeline.

    Attributes:
        name: Name of the ensemble.
        prepare: Name of its `flux_prepare`, the only stage that knows the number of steps.
    """

    name: str
    variant: Variant
    steps: int
    prepare: str


def specs(config: Config) -> tuple[PipelineSpec, ...]:
    """Every pipeline of every configured variant.

    Raises:
        ConfigError: `pipelines.json` is damaged.
    """
    by_name = {variant.name: variant for variant in variants(config)}
    own = [
        PipelineSpec(f"flux_{v.name}", v, v.options.step_count(v.name), f"flux_prepare{v.suffix}")
        for v in by_name.values()
    ]
    added = [
        PipelineSpec(name, by_name[variant], steps, f"{name}_prepare")
        for name, (variant, steps) in read_added(config).items()
        if variant in by_name
    ]
    return (*own, *added)


def added_file(config: Config) -> Path:
    """Where added pipelines are kept."""
    return config.exports / "flux" / "pipelines.json"


def read_added(config: Config) -> Mapping[str, tuple[str, int]]:
    """Added pipelines: name -> variant and steps.

    Raises:
        ConfigError: The file is damaged.
    """
    path = added_file(config)
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            check_name(name, "pipeline name"): (
                str(entry["variant"]),
                check_steps(int(entry["steps"])),
            )
            for name, entry in entries.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"the list of added pipelines cannot be read: {error}",
            where=path,
            hint="remove the file and add the pipelines again",
        ) from error


def write_added(config: Config, added: Mapping[str, tuple[str, int]]) -> None:
    """Keep the added pipelines."""
    entries = {name: {"variant": v, "steps": n} for name, (v, n) in added.items()}
    path = added_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(entries, indent=1, sort_keys=True) + "\n").encode())

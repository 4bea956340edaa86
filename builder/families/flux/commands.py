"""`builder pipeline flux`: more pipelines, of other steps, with LoRA files, or from an image."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from builder.config import Config
from builder.errors import UsageError
from builder.families.flux.lora import Lora, parse_lora
from builder.families.flux.models.specs import Added, read_added, write_added
from builder.families.flux.models.variants import VARIANTS, Variant, variants
from builder.families.flux.options import check_steps
from builder.repository.names import check_name

if TYPE_CHECKING:
    from builder.stage import Stage


@click.command("flux")
@click.option("--name", required=True, help="Name of the pipeline.")
@click.option("--steps", type=int, help="Denoising steps.  [default with --lora: the usual number]")
@click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Checkpoint that it uses.  [default: the first configured one, or schnell]",
)
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:SCALE]",
    help="Fuse a LoRA file (.safetensors) into the weights, so much of it; repeatable.",
)
@click.option("--img2img", "image", is_flag=True, help="Start with an image, not with noise alone.")
@click.option("--remove", is_flag=True, help="Take an added pipeline away again.")
@click.pass_context
def pipeline_command(
    ctx: click.Context,
    name: str,
    steps: int | None,
    variant: str | None,
    loras: tuple[str, ...],
    image: bool,
    remove: bool,
) -> None:
    """Add a FLUX pipeline, proven like all others.

    It shares every stage that it can: with another number of steps all but the smallest, with
    LoRA files all but `dit_step` (and CLIP, if they change it). Later builds keep it up to date,
    with the LoRA files as well, which stay where they are.

    \b
    builder pipeline flux --steps 8 --name flux_8
    builder pipeline flux --lora style.safetensors:0.8 --steps 8 --name flux_style
    builder pipeline flux --remove --name flux_8
    """
    config: Config = ctx.obj
    if remove:
        _remove(config, name)
        click.echo(f"removed {name}")
        return
    _add(config, name, steps, variant, tuple(parse_lora(text) for text in loras), image)
    from builder.cli.build import command as build

    ctx.invoke(build, models=(name,))


def _add(
    config: Config,
    name: str,
    steps: int | None,
    variant: str | None,
    loras: tuple[Lora, ...],
    image: bool,
) -> None:
    """Declare a pipeline.

    Raises:
        UsageError: The name is taken or unsafe, or there is no such checkpoint.
        ConfigError: The number of steps is out of range.
        CheckpointError: A LoRA file cannot be used.
    """
    check_name(name, "pipeline name")
    known = {v.name: v for v in variants(config)}
    chosen = _choose(known, variant)
    if steps is None and loras:
        steps = chosen.options.step_count(chosen.name)
    if steps is None:
        raise UsageError("how many steps?", where="builder pipeline flux", hint="add --steps 8")
    check_steps(steps, where="--steps")
    before = read_added(config)
    known_names = _models(config)
    if name not in before and name in known_names:
        raise UsageError("there is a model of that name already", where=f"--name {name}")
    clip = _changes_clip(chosen, loras)
    entry = Added(chosen.name, steps, image, loras, clip)
    write_added(config, {**before, name: entry})
    try:
        now = _models(config)
    except BaseException:  # a stage of it has the name of another model
        write_added(config, before)
        raise
    _take_away(config, known_names, now)


def _choose(known: Mapping[str, Variant], variant: str | None) -> Variant:
    if variant is None:
        return next(iter(known.values()))
    if variant not in known:
        raise UsageError(
            f"the configured checkpoint is FLUX.1 {', '.join(known)}",
            where=f"--variant {variant}",
            hint="set [flux] checkpoint in builder.toml",
        )
    return known[variant]


def _changes_clip(variant: Variant, loras: tuple[Lora, ...]) -> bool:
    """Whether LoRA files change CLIP, too.

    Raises:
        CheckpointError: One cannot be used.
    """
    if not loras:
        return False
    from builder.families.flux.lora_file import read_lora
    from builder.families.flux.lora_fuse import architecture
    from builder.families.flux.lora_names import CLIP

    layers = architecture(variant.folder())
    found = [read_lora(lora, layers) for lora in loras]  # every file is checked
    return any(CLIP in changes for changes in found)


def _remove(config: Config, name: str) -> None:
    """Take a pipeline, and the stages that were its own, out of the repository.

    Raises:
        UsageError: It was not added by this command.
    """
    added = dict(read_added(config))
    if name not in added:
        raise UsageError(
            "was not added with `builder pipeline flux`",
            where=f"--name {name}",
            hint=f"added are: {', '.join(sorted(added)) or 'none'}",
        )
    before = _models(config)
    del added[name]
    write_added(config, added)
    # With the checkpoint that it used gone, it was no model any more, but may still be there.
    _take_away(config, {**before, name: before.get(name)}, _models(config))


def _models(config: Config) -> "Mapping[str, Stage | None]":
    """The stages by name, and the names of the pipelines."""
    from builder.family import Registry

    registry = Registry.load(config)
    return {**registry.stages, **dict.fromkeys(registry.pipelines)}


def _take_away(
    config: Config, before: "Mapping[str, Stage | None]", now: "Mapping[str, Stage | None]"
) -> None:
    """Remove what is no model any more: exports, engines, ensembles."""
    import shutil

    from builder.engines.engine import engine_kind
    from builder.repository.publish import unpublish

    for name, stage in before.items():
        if name in now:
            continue
        places = [("ensemble", name)]
        if stage is not None:
            kinds = [engine_kind(kind) for kind in stage.engines]
            places = [(kind.group, kind.model_name(stage)) for kind in kinds]
            shutil.rmtree(config.exports / "flux" / name, ignore_errors=True)
        for group, model in places:
            if (config.repository / group / model).is_dir():
                unpublish(config.repository, group, model)

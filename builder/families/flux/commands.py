"""`builder pipeline flux`: a pipeline of any number of denoising steps."""

import click

from builder.config import Config
from builder.errors import UsageError
from builder.families.flux.models.specs import read_added, specs, write_added
from builder.families.flux.models.variants import VARIANTS, variants
from builder.families.flux.options import check_steps
from builder.repository.names import check_name


@click.command("flux")
@click.option("--name", required=True, help="Name of the pipeline.")
@click.option("--steps", type=int, help="Denoising steps.")
@click.option(
    "--variant",
    type=click.Choice(VARIANTS),
    help="Checkpoint that it uses.  [default: the configured one, or schnell]",
)
@click.option("--remove", is_flag=True, help="Take an added pipeline away again.")
@click.pass_context
def pipeline_command(
    ctx: click.Context, name: str, steps: int | None, variant: str | None, remove: bool
) -> None:
    """Add a FLUX pipeline with so many denoising steps, proven like all others.

    It shares every stage but the smallest with the others. Later builds keep it up to date.

    \b
    builder pipeline flux --steps 8 --name flux_8
    builder pipeline flux --remove --name flux_8
    """
    config: Config = ctx.obj
    if remove:
        _remove(config, name)
        click.echo(f"removed {name}")
        return
    _add(config, name, steps, variant)
    from builder.cli.build import command as build

    ctx.invoke(build, models=(name,))


def _add(config: Config, name: str, steps: int | None, variant: str | None) -> None:
    """Declare a pipeline.

    Raises:
        UsageError: The name is taken or unsafe, or there is no such checkpoint.
        ConfigError: The number of steps is out of range.
    """
    from builder.family import Registry

    check_name(name, "pipeline name")
    if steps is None:
        raise UsageError("how many steps?", where="builder pipeline flux", hint="add --steps 8")
    check_steps(steps, where="--steps")
    known = [v.name for v in variants(config)]
    if variant is not None and variant not in known:
        raise UsageError(
            f"the configured checkpoint is FLUX.1 {known[0]}",
            where=f"--variant {variant}",
            hint="set [flux] checkpoint in builder.toml",
        )
    chosen = variant or known[0]
    added = dict(read_added(config))
    registry = Registry.load(config)
    if name not in added and (name in registry.stages or name in registry.pipelines):
        raise UsageError("there is a model of that name already", where=f"--name {name}")
    write_added(config, added | {name: (chosen, steps)})


def _remove(config: Config, name: str) -> None:
    """Take a pipeline and its `flux_prepare` out of the repository.

    Raises:
        UsageError: It was not added by this command.
    """
    import shutil

    from builder.repository.publish import unpublish

    added = dict(read_added(config))
    if name not in added:
        raise UsageError(
            "was not added with `builder pipeline flux`",
            where=f"--name {name}",
            hint=f"added are: {', '.join(sorted(added)) or 'none'}",
        )
    prepare = next((spec.prepare for spec in specs(config) if spec.name == name), None)
    del added[name]
    write_added(config, added)
    for group, model in (("ensemble", name), ("onnx", prepare)):
        if model is not None and (config.repository / group / model).is_dir():
            unpublish(config.repository, group, model)
    if prepare is not None:
        shutil.rmtree(config.exports / "flux" / prepare, ignore_errors=True)

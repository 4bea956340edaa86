"""`builder export flux`: its stages, or the graphs of the full-size architectures."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from builder.config import Config
from builder.errors import UsageError
from builder.families.flux.models.variants import VARIANTS

COMPONENTS = ("text_encoder", "vae", "text_encoder_2", "transformer")
WEIGHTS = ("bf16", "fp16", "fp32")


@click.command("flux")
@click.option("--skeleton", is_flag=True, help="Export full-size graphs without weights.")
@click.option(
    "--component",
    "components",
    type=click.Choice(COMPONENTS),
    multiple=True,
    help="Only this one; repeatable.",
)
@click.option("--depth", type=click.IntRange(min=1), help="Blocks of each kind.  [default: all]")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with config.json files.  [default: FLUX.1 as it was released]",
)
@click.option("--variant", type=click.Choice(VARIANTS), help="schnell or dev.")
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="bf16",
    show_default=True,
    help="Data type that the weights have; the graph computes in FP32.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def export_command(
    ctx: click.Context,
    skeleton: bool,
    components: tuple[str, ...],
    depth: int | None,
    checkpoint: Path | None,
    variant: str | None,
    weights: str,
    as_json: bool,
) -> None:
    """Export FLUX's stages, or with --skeleton the graphs of the full-size architectures.

    A skeleton has the full depth and no weights, which are inputs of the graph. It needs
    configuration files only, passes the ONNX checker and strict shape inference, and goes to
    exports/flux/skeleton/.

    \b
    builder export flux --skeleton
    builder export flux --skeleton --component transformer --variant dev --depth 2
    """
    config: Config = ctx.obj
    if not skeleton:
        if components or depth or checkpoint or variant:
            raise UsageError(
                "--component, --depth, --checkpoint and --variant are for skeletons",
                where="builder export flux",
                hint="add --skeleton, or set [flux] checkpoint in builder.toml",
            )
        from builder.cli.export import command
        from builder.family import Registry

        names = [s.name for s in Registry.load(config).stages.values() if s.family == "flux"]
        ctx.invoke(command, models=tuple(names), force=False, as_json=as_json)
        return
    _skeletons(config, components or COMPONENTS, depth, checkpoint, variant, weights, as_json)


def _skeletons(
    config: Config,
    components: tuple[str, ...],
    depth: int | None,
    checkpoint: Path | None,
    variant: str | None,
    weights: str,
    as_json: bool,
) -> None:
    from rich.console import Console

    from builder.cli._progress import progress_bar
    from builder.families.flux.options import flux_options
    from builder.families.flux.skeleton import export_skeleton, read_configs

    options = flux_options(config)
    chosen, configs = read_configs(checkpoint, variant)
    reports = []
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("skeletons", total=len(components))
        for component in COMPONENTS:
            if component not in components:
                continue
            progress.update(task, description=f"skeleton of the {component}")
            folder = config.exports / "flux" / "skeleton" / component
            report = export_skeleton(
                component, configs, folder, variant=chosen, weights=weights, depth=depth,
                options=options,
            )  # fmt: skip
            reports.append(report)
            progress.advance(task)
    if as_json:
        click.echo(json.dumps([asdict(report) for report in reports], indent=1))
        return
    for report in reports:
        blocks = f"{'+'.join(map(str, report.blocks))} blocks, " if report.blocks else ""
        click.echo(
            f"{report.component}: {blocks}{report.parameters / 1e9:.3f} B parameters "
            f"({report.weights}), {report.nodes} nodes, {report.seconds:.1f} s, "
            f"peak RSS {report.peak_rss_gib:.2f} GiB\n  {report.file}"
        )

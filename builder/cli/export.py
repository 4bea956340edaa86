"""`builder export`: only the ONNX files, without engines and repository."""

import click
from rich.console import Console

from builder.build.execute import exclusive
from builder.build.plan import make_context, make_plan
from builder.cli._execute import execute_shown
from builder.cli._report import print_exports
from builder.config import Config
from builder.family import Registry


@click.command()
@click.argument("models", nargs=-1)
@click.option("--force", is_flag=True, help="Export even what is up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(config: Config, models: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Export MODELS (names or patterns; all by default) to ONNX and compare them with PyTorch.

    Only what is out of date is exported again.
    """
    context = make_context(config, Registry.load(config))
    plan = [action for action in make_plan(context, models) if action.artefact == "export"]
    with exclusive(config.build_dir):
        outcomes = execute_shown(plan, context, force=force, console=Console(stderr=True))
    print_exports(outcomes, as_json=as_json)
    if not all(outcome.ok for outcome in outcomes.values()):
        raise click.exceptions.Exit(1)

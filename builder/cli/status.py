"""`builder status`: what is out of date, and why."""

import json

import click
from rich.console import Console
from rich.table import Table

from builder.build.action import evaluate
from builder.build.plan import make_context, make_plan
from builder.config import Config
from builder.family import Registry


@click.command()
@click.argument("models", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also list what is up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def command(config: Config, models: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Say which artefacts of MODELS (all by default) are out of date, and why.

    The exit code is 0 whether or not something is out of date.
    """
    context = make_context(config, Registry.load(config))
    states = evaluate(make_plan(context, models), context.digests)
    context.digests.save()
    if as_json:
        rows = [
            {
                "artefact": action.artefact,
                "model": action.model,
                "folder": str(action.folder),
                "current": state.current,
                "reasons": list(state.reasons),
            }
            for action, state in states.items()
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    stale = sum(not state.current for state in states.values())
    console = Console()
    if stale or everything:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("model", no_wrap=True)
        table.add_column("artefact", no_wrap=True)
        table.add_column("why")
        for action, state in states.items():
            if everything or not state.current:
                why = "; ".join(state.reasons) or "up to date"
                table.add_row(action.model, action.artefact, why)
        console.print(table)
    console.print(
        f"{stale} of {len(states)} artefacts are out of date: run `builder build`"
        if stale
        else f"all {len(states)} artefacts are up to date",
        highlight=False,
    )

"""`builder doctor`: what is here, and what is missing for what."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from builder.config import Config, load_config
from builder.serving.doctor import Check, Surroundings, passed, run_checks

_MARKS = {
    "ok": "[green]ok[/]",
    "missing": "[red]missing[/]",
    "warning": "[yellow]warning[/]",
    "absent": "[dim]absent[/]",
}


@click.command("doctor")
@click.option(
    "--repository",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Compare the TensorRT plans of a model repository (by default the configured one) with "
    "the server and the GPUs at hand, instead.",
)
@click.option("--release", metavar="26.07", help="Compare with this container release.")
@click.option("--gpu", "gpus", multiple=True, metavar="9.0", help="Compare with this GPU.")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def command(
    context: click.Context,
    repository: str | None,
    release: str | None,
    gpus: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say what is here, and what is missing for what.

    Exits with 1 if something is missing that the default build and serve need, or if a plan of
    the repository would not be served as it was built.
    """
    config = context.find_object(Config) or load_config()
    if repository is not None:
        _inspect(context, config, repository, release, gpus, as_json)
        return
    if release or gpus:
        raise click.UsageError("--release and --gpu go with --repository.", context)
    checks = run_checks(Surroundings(config))
    good = passed(checks)
    if as_json:
        document = {"ok": good, "checks": [check.to_json() for check in checks]}
        click.echo(json.dumps(document, indent=2))
    else:
        _print(checks)
    if not good:
        context.exit(1)


def _inspect(
    context: click.Context,
    config: Config,
    repository: str,
    release: str | None,
    gpus: tuple[str, ...],
    as_json: bool,
) -> None:
    from builder.preflight.inspect import inspect

    path = Path(repository) if repository else None
    found = inspect(config, path, release=release, gpus=gpus)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        version = found.server.tensorrt or "an unknown version"
        click.echo(f"{len(found.models)} models with plans in {found.repository}")
        click.echo(f"server: TensorRT {version} ({found.server.source})")
        click.echo(f"GPU: {', '.join(map(str, found.gpus or ())) or 'none'}")
        for note in found.notes:
            click.echo(f"note: {note}")
        for refusal in found.refusals:
            click.echo(f"refused: {refusal}")
        if found.ok and found.models:
            click.echo("nothing speaks against serving these plans")
    if not found.ok:
        context.exit(1)


def _print(checks: list[Check]) -> None:
    out = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("check", "", "found", "needed for"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = _MARKS[check.status]
        table.add_row(check.name, mark, _plain(check.found), f"[dim]{check.needed_for}[/]")
    out.print(table)
    todo = [check for check in checks if check.hint and check.status != "ok"]
    if todo:
        out.print("\nWhat to do", style="bold")
    for check in todo:
        line = f"  {_MARKS[check.status]} {check.name}: {_plain(check.hint)}"
        out.print(line, highlight=False, soft_wrap=True)
    if passed(checks):
        out.print("\nEverything is here that building for the configured targets takes.")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")

"""`builder doctor`: what is here, and what is missing for what."""

import json

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
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Say what is here, and what is missing for what.

    Exits with 1 if something is missing that the default build and serve need.
    """
    checks = run_checks(Surroundings(context.find_object(Config) or load_config()))
    good = passed(checks)
    if as_json:
        document = {"ok": good, "checks": [check.to_json() for check in checks]}
        click.echo(json.dumps(document, indent=2))
    else:
        _print(checks)
    if not good:
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

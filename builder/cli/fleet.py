"""`builder fleet`: the plans of every model for every kind of GPU."""

import json

import click
from rich.console import Console
from rich.table import Table

from builder.config import Config, load_config
from builder.family import Registry
from builder.preflight.fleet import Entry, State, counts, fleet, fleet_targets
from builder.target import parse_target

_MARKS: dict[State, str] = {
    "built": "[green]built[/]",
    "stale": "[yellow]stale[/]",
    "missing": "[dim]missing[/]",
    "failed": "[red]failed[/]",
}


@click.group("fleet")
def command() -> None:
    """Look after the plans for all GPUs together."""


@command.command("status")
@click.option("--target", "targets", multiple=True, help="Only this target; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def status(context: click.Context, targets: tuple[str, ...], as_json: bool) -> None:
    """Say which plan is built, stale, missing or failed, model by model and GPU by GPU.

    Asked about are the configured targets and those that the repository holds plans for. Needs
    neither a GPU nor TensorRT. The exit code is 0 whatever the state.
    """
    config = context.find_object(Config) or load_config()
    words = [word for value in targets for word in value.split(",") if word]
    chosen = tuple(map(parse_target, words)) or fleet_targets(config)
    entries = fleet(config, Registry.load(config), chosen)
    names = [target.name for target in chosen if target.is_gpu]
    if as_json:
        document = {
            "targets": names,
            "counts": counts(entries),
            "plans": [entry.to_json() for entry in entries],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        _print(entries, names)


def _print(entries: list[Entry], targets: list[str]) -> None:
    console = Console()
    if not targets:
        console.print(
            "no GPU target is configured, and the repository holds no plan: set targets in "
            "builder.toml [build], or name one with --target sm90",
            highlight=False,
            markup=False,
        )
        return
    if not entries:
        console.print("no stage is built for TensorRT: see `builder list`", highlight=False)
        return
    by_model: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        by_model.setdefault(entry.model, {})[entry.target] = entry
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for target in targets:
        table.add_column(target, no_wrap=True)
    for model, cells in by_model.items():
        table.add_row(model, *(_MARKS[cells[target].state] for target in targets))
    console.print(table)
    for entry in entries:
        if entry.state in ("stale", "failed"):
            line = f"{entry.model} {entry.target}: {entry.why}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    summary = [f"{count} {state}" for state, count in counts(entries).items() if count]
    todo = (
        ""
        if len(summary) == 1 and entries[0].state == "built"
        else (": run `builder build --missing` on a machine with such a GPU")
    )
    console.print(", ".join(summary) + todo, highlight=False)

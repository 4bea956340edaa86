"""The tables that `builder build` and `builder status` print."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from builder.build.action import Action
from builder.build.execute import Outcome
from builder.build.verify import Verification
from builder.export.exporter import MODEL
from builder.record import Record
from builder.repository.plans import PublishedPlan


def wide_console() -> Console:
    """Standard output; a file or a pipe gets whole lines, however long the names are."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def print_report(
    plan: Sequence[Action],
    outcomes: Mapping[Action, Outcome],
    findings: Sequence[Any],
    verification: Verification | None,
    seconds: float,
) -> None:
    """Print what was built, what failed and how to mend it."""
    console = wide_console()
    served = verification.models if verification else {}
    made = [a for a in plan if outcomes[a].status == "made"]
    failed = [a for a in plan if not outcomes[a].ok]
    if made or failed or any(s.error for s in served.values()):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("model", "engine", "status"):
            table.add_column(column, no_wrap=True)
        for column in ("size", "parity", "load", "request"):
            table.add_column(column, justify="right", no_wrap=True)
        for action in plan:
            if action.artefact == "export":
                continue
            outcome, answer = outcomes[action], served.get(action.model)
            table.add_row(
                action.model,
                f"{action.artefact} {action.target}".strip(),
                "not right" if answer and answer.error else outcome.status,
                size_text(outcome.record),
                parity_text(action, outcomes),
                f"{answer.load_ms:.0f} ms" if answer and not answer.error else "",
                f"{answer.latency_ms:.2f} ms" if answer and not answer.error else "",
            )
        console.print(table)
    by_error: dict[str, list[str]] = {}
    for action in failed:
        error = outcomes[action].error
        if error is not None:
            by_error.setdefault(str(error), []).append(str(action))
    for text, names in by_error.items():  # one GPU that is missing fails every plan alike
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"\n[red]failed[/red] {names[0]}{more}", highlight=False)
        console.print(text, markup=False, highlight=False)
    for finding in findings:
        console.print(f"[red]lint[/red] {finding}", highlight=False)
    for answer in served.values():
        if answer.error:
            console.print(f"[red]served wrongly[/red] {answer.model}: ", end="", highlight=False)
            console.print(answer.error, markup=False, highlight=False)
    console.print(_summary(plan, outcomes, verification, seconds), highlight=False)


def _summary(
    plan: Sequence[Action],
    outcomes: Mapping[Action, Outcome],
    verification: Verification | None,
    seconds: float,
) -> str:
    counts = {s: sum(outcomes[a].status == s for a in plan) for s in ("made", "failed", "skipped")}
    if not any(counts.values()):
        text = f"nothing to do: {len(plan)} artefacts are up to date"
    else:
        parts = [f"{count} {status}" for status, count in counts.items() if count]
        text = ", ".join(parts) + f", {len(plan) - sum(counts.values())} up to date"
    if verification is not None and verification.ok:
        text += f"; {len(verification.models)} models answered as proven ({verification.server})"
    return f"{text}; {seconds:.1f} s"


def size_text(record: Record | None) -> str:
    """Size of an artefact's files."""
    size = sum(int(facts["size"]) for facts in record.files.values()) if record else 0
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size //= 1024
    return f"{size} GiB"


def parity_text(action: Action, outcomes: Mapping[Action, Outcome]) -> str:
    """Largest measured difference from the source: that of the export and of the engine."""
    links = [action, *(need for need in action.needs if need.artefact == "export")]
    records = [outcomes[link].record for link in links]
    if any(record is None for record in records):
        return ""
    worst = sum(record.measured["parity"]["worst"] for record in records if record is not None)
    return "exact" if worst == 0 else f"{worst:.1e}"


def print_stale_plans(plans: Sequence[PublishedPlan]) -> None:
    """Print which plans of other GPUs were made from an export that is not today's."""
    if not plans:
        return
    names = [f"{plan.model} {plan.path.name}" for plan in plans]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    Console().print(
        f"[yellow]stale[/yellow] {shown}: made from an older export, and still served; run "
        "`builder build` on such a GPU",
        highlight=False,
    )


def print_exports(outcomes: Mapping[Action, Outcome], *, as_json: bool) -> None:
    """Print what was exported and how far it is from its source."""
    rows = [
        {
            "model": action.model,
            "status": outcome.status,
            "file": str(action.folder / MODEL),
            "parity": outcome.record.measured["parity"]["worst"] if outcome.record else None,
            "seconds": outcome.record.measured["seconds"] if outcome.record else None,
            "error": str(outcome.error) if outcome.error else None,
        }
        for action, outcome in outcomes.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    console = wide_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "status", "parity", "seconds"):
        table.add_column(column, no_wrap=True, justify="left" if column[0] in "m" else "right")
    for row in rows:
        parity = "" if row["parity"] is None else f"{row['parity']:.1e}"
        table.add_row(str(row["model"]), str(row["status"]), parity, str(row["seconds"]))
    console.print(table)
    for row in rows:
        if row["error"]:
            console.print(f"\n[red]failed[/red] {row['model']}", highlight=False)
            console.print(str(row["error"]), markup=False, highlight=False)

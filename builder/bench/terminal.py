"""The report as `builder bench` prints it: a table per case, then what went wrong."""

import io
from collections import Counter
from collections.abc import Callable

import click
from rich import markup
from rich.console import Console
from rich.table import Table

from builder.bench import summary
from builder.bench.compare import Comparison, Figure, compare, counts
from builder.bench.results import FLOOR, PYTHON, CaseInfo, Report
from builder.bench.summary_text import mapping_text, number, range_text, times_text

_WIDE = 160
"""Columns where the output goes into a file or a pipe: wide enough for every row."""

_COLOURS = {"better": "green", "worse": "red"}


def shown(text: str) -> str:
    """Text of models, programs and machines: neither markup nor control characters."""
    return markup.escape(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def print_report(report: Report, against: Report | None = None) -> None:
    """Print medians, ranges and ratios, and changes against an older report.

    Lines are never broken or cut where the output is not a terminal.
    """
    print_whole(lambda console: _print(console, report, against))


def print_whole(write: Callable[[Console], None]) -> None:
    """Call `write` with a console that, where there is no terminal, neither cuts nor pads lines."""
    console = Console(highlight=False)
    if console.is_terminal:
        write(console)
        return
    text = io.StringIO()
    write(Console(highlight=False, width=_WIDE, file=text))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]  # tables pad their rows
    click.echo("\n".join(lines))


def _print(console: Console, report: Report, against: Report | None) -> None:
    comparison = None if against is None else compare(report, against)
    for case in report.cases:
        _print_case(console, report, case, comparison)
    if comparison is not None:
        _print_comparison(console, comparison)
    for problem in report.problems:
        console.print(f"[yellow]problem[/] {shown(problem.where)}: {shown(problem.what)}")
        if problem.hint:
            console.print(f"  -> {shown(problem.hint)}")
    unstable = sum(not run.stable for run in report.runs)
    if unstable:
        console.print(
            f"[yellow]unsteady[/] {unstable} of {len(report.runs)} runs (marked ~): no steady "
            "state was seen; their figures count all the same"
        )
    console.print(f"machine: {shown(mapping_text(report.machine) or 'not named')}", soft_wrap=True)


def _print_case(
    console: Console, report: Report, case: CaseInfo, comparison: Comparison | None
) -> None:
    title = f"[bold]{shown(case.name)}[/] {shown(case.title)} (one request: {shown(case.unit)})"
    console.print(title, soft_wrap=True)
    found = summary.cells(report, case.name)
    if not found:
        console.print("  nothing was measured\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("at", "per s", "range", "p50 ms", "p99 ms", "cores", "vs python"):
        table.add_column(column, justify="right", no_wrap=True)
        if column == "at":
            table.add_column("variant", no_wrap=True)
    if comparison is not None:
        table.add_column("change")
    before = None
    for cell in found:
        against_python = None
        if cell.variant not in (PYTHON, FLOOR):
            against_python = summary.ratio(
                report, case.name, cell.concurrency, cell.variant, PYTHON
            )
        row = [
            "" if cell.concurrency == before else str(cell.concurrency),
            shown(cell.variant),
            number(cell.per_second.median) + ("~" if cell.unstable else ""),
            range_text(cell.per_second),
            number(cell.p50_ms.median),
            number(cell.p99_ms.median),
            number(summary.cost(cell).serving_cores),
            times_text(against_python) if against_python else "",
        ]
        if comparison is not None:
            row.append(_change(comparison, cell))
        table.add_row(*row)
        before = cell.concurrency
    console.print(table)
    console.print()


def _change(comparison: Comparison, cell: summary.Cell) -> str:
    texts = []
    figures: tuple[tuple[Figure, str], ...] = (("throughput", ""), ("p99", "p99 "))
    for figure, label in figures:
        change = comparison.find(cell.case, cell.variant, cell.concurrency, figure)
        if change is None:
            continue
        text = f"{label}{100 * change.relative:+.0f} %"
        colour = _COLOURS.get(change.verdict)
        if colour:
            texts.append(f"[{colour}]{text} {change.verdict}[/]")
        elif change.verdict == "unclear":
            texts.append(f"[dim]{text}?[/]")
    return ", ".join(texts) or "[dim]within noise[/]"


def _print_comparison(console: Console, comparison: Comparison) -> None:
    console.print(f"[bold]against the report of {shown(comparison.created)}[/]")
    if not comparison.same_machine:
        console.print(
            "[yellow]another machine[/]: only ratios to python can be compared", soft_wrap=True
        )
    for name, (old, new) in comparison.differences.items():
        console.print(f"  {shown(name)}: {shown(old)} -> {shown(new)}", soft_wrap=True)
    verdicts = Counter(change.verdict for change in comparison.changes)
    console.print(
        f"  of {len(comparison.changes)} figures {verdicts['better']} better, {verdicts['worse']} "
        f"worse, {verdicts['same']} within noise, {verdicts['unclear']} of too few rounds to tell"
    )
    for change in comparison.changes:
        if counts(change, comparison):
            console.print(f"  [red]regression[/] {shown(str(change))}", soft_wrap=True)
    for label, names in (
        ("only in the older report", comparison.only_before),
        ("only in this report", comparison.only_after),
    ):
        if names:
            console.print(f"  {label}: {shown('; '.join(names))}", soft_wrap=True)
    console.print()

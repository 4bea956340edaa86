"""The tables of the report's page."""

from collections.abc import Mapping, Sequence

from builder.bench import summary
from builder.bench.compare import Comparison, Figure, counts
from builder.bench.plots import colour
from builder.bench.plots_svg import text_of
from builder.bench.results import FLOOR, PYTHON, CaseInfo, Report
from builder.bench.summary import P99, Cell
from builder.bench.summary_text import NOTHING, mib_text, number, range_text, times_text

_FEW = 12
"""Rows that are shown without being asked for."""


def figures_table(report: Report, case: CaseInfo, comparison: Comparison | None) -> str:
    """Throughput, latency and ratios of every cell."""
    variants = summary.variants(report, case.name)
    header = [
        "In flight", "Variant", f"{case.unit}s/s", "range", "p50 ms", "p99 ms",
        "throughput / python", "p99 / python",
    ]  # fmt: skip
    has_floor = FLOOR in variants
    header += ["throughput / floor"] if has_floor else []
    header += ["change"] if comparison is not None else []
    rows, before = [], None
    for cell in summary.cells(report, case.name):
        ours = cell.variant not in (PYTHON, FLOOR)
        times = _ratio(report, cell, PYTHON) if ours else None
        tail = summary.ratio(
            report, case.name, cell.concurrency, cell.variant, PYTHON, P99
        ) if ours else None  # fmt: skip
        row = [
            "" if cell.concurrency == before else str(cell.concurrency),
            _swatch(cell.variant, colour(cell.variant, variants)),
            number(cell.per_second.median) + ("~" if cell.unstable else ""),
            range_text(cell.per_second),
            number(cell.p50_ms.median),
            number(cell.p99_ms.median),
            times_text(times) if ours else "",
            times_text(tail) if ours else "",
        ]
        if has_floor:
            row.append("" if cell.variant == FLOOR else times_text(_ratio(report, cell, FLOOR)))
        if comparison is not None:
            row.append(_cell_changes(comparison, cell))
        first = cell.concurrency != before
        before = cell.concurrency
        rows.append((row, first))
    return _table(header, rows, text_columns={1})


def cost_table(report: Report, case: CaseInfo) -> str:
    """Processor, memory and GPU of every cell."""
    variants = summary.variants(report, case.name)
    costs = [(cell, summary.cost(cell)) for cell in summary.cells(report, case.name)]
    header = [
        "In flight", "Variant", "server cores", "python stub cores", "client cores",
        f"{case.unit}s per core second", "server memory", "python stub memory",
    ]  # fmt: skip
    has_gpu = any(c.gpu_percent is not None or c.gpu_mib is not None for _, c in costs)
    header += ["GPU", "GPU memory"] if has_gpu else []
    rows, before = [], None
    for cell, used in costs:
        cores = used.serving_cores
        row = [
            "" if cell.concurrency == before else str(cell.concurrency),
            _swatch(cell.variant, colour(cell.variant, variants)),
            number(used.server_cores),
            number(used.stub_cores),
            number(used.client_cores),
            number(cell.per_second.median / cores) if cores else NOTHING,
            mib_text(used.server_mib),
            # All variants of a case are loaded: stubs that do nothing belong to another one.
            mib_text(used.stub_mib) if used.stub_cores else NOTHING,
        ]
        if has_gpu:
            percent = NOTHING if used.gpu_percent is None else f"{used.gpu_percent:.0f} %"
            row += [percent, mib_text(used.gpu_mib)]
        rows.append((row, cell.concurrency != before))
        before = cell.concurrency
    note = (
        '<p class="soft">Medians. All variants of a case are loaded while one is measured, so the '
        "server's memory is that of all; stubs are shown where they worked.</p>"
    )
    return "<h3>What it costs</h3>" + note + _table(header, rows, text_columns={1})


def stages_table(report: Report, case: CaseInfo) -> str:
    """Time by model of every cell; empty without server statistics."""
    header = [
        "In flight", "Variant", "Model", "visits", "cached", "queue ms", "input ms", "compute ms",
        "output ms", "mean batch",
    ]  # fmt: skip
    rows = []
    for cell in summary.cells(report, case.name):
        found = summary.breakdown(cell)
        if found is None:
            continue
        start = [str(cell.concurrency), text_of(cell.variant)]
        for index, stage in enumerate(found.stages):
            times = (stage.queue_ms, stage.input_ms, stage.compute_ms, stage.output_ms)
            figures = [
                number(stage.visits),
                number(stage.cached),
                *map(number, times),
                number(stage.batch),
            ]
            rows.append(([*start, text_of(stage.model), *figures], index == 0))
        rest = "stages ran side by side" if found.overlapped else f"{number(found.rest_ms)} ms"
        rows.append(([*start, f"outside of the models: {rest}", *[""] * 7], False))
    return _table(header, rows, text_columns={1, 2}) if rows else ""


def changes_table(comparison: Comparison) -> str:
    """What differs between the reports, and what changed beyond noise."""
    parts = []
    if comparison.differences:
        rows = [
            ([text_of(name), text_of(old), text_of(new)], False)
            for name, (old, new) in comparison.differences.items()
        ]
        parts.append(_table(["What differs", "before", "now"], rows, text_columns={0, 1, 2}))
    marked = [c for c in comparison.changes if c.verdict in ("better", "worse")]
    if not marked:
        parts.append("<p>Nothing changed beyond noise.</p>")
    # Regressions first; what became better is folded away if there is much of it.
    for title, ours in (("Regressions", True), ("Other changes beyond noise", False)):
        rows = [
            (
                [
                    text_of(c.case), text_of(c.variant), str(c.concurrency), text_of(c.figure),
                    number(c.before), number(c.after), f"{100 * c.relative:+.1f} %",
                    f'<span class="{c.verdict}">{c.verdict}</span>',
                ],
                False,
            )
            for c in marked
            if counts(c, comparison) == ours
        ]  # fmt: skip
        if not rows:
            continue
        header = ["Case", "Variant", "In flight", "Figure", "before", "now", "change", ""]
        table = _table(header, rows, text_columns={0, 1, 3})
        opened = " open" if ours or len(rows) <= _FEW else ""
        parts.append(f"<details{opened}><summary>{title}: {len(rows)}</summary>{table}</details>")
    return "".join(parts)


def pairs_table(caption: str, pairs: Mapping[str, str]) -> str:
    """Names and values."""
    rows = "".join(
        f'<tr><td class="t soft">{text_of(name)}</td><td class="t long">{text_of(value)}</td></tr>'
        for name, value in pairs.items()
    )
    return f"<table><caption>{text_of(caption)}</caption>{rows}</table>" if rows else ""


def _ratio(report: Report, cell: Cell, bottom: str) -> summary.Spread | None:
    return summary.ratio(report, cell.case, cell.concurrency, cell.variant, bottom)


def _cell_changes(comparison: Comparison, cell: Cell) -> str:
    figures: tuple[tuple[Figure, str], ...] = (("throughput", ""), ("p99", "p99 "))
    found = [
        (label, comparison.find(cell.case, cell.variant, cell.concurrency, figure))
        for figure, label in figures
    ]
    texts = [
        f'<span class="{c.verdict}">{label}{100 * c.relative:+.0f} %</span>'
        for label, c in found
        if c is not None and c.verdict in ("better", "worse")
    ]
    return ", ".join(texts) or '<span class="soft">within noise</span>'


def _swatch(variant: str, tone: str) -> str:
    return f'<span class="swatch" style="--c: var(--{tone})"></span>{text_of(variant)}'


def _table(
    header: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]], *, text_columns: set[int]
) -> str:
    """A table of cells that are escaped already; rows marked True begin a group."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=t' if index in text_columns else ''}>{value}</{tag}>"
            for index, value in enumerate(values)
        )

    lines = [f"<tr>{cells('th', [text_of(name) for name in header])}</tr>"]
    lines += [
        f"<tr{' class=first' if first else ''}>{cells('td', row)}</tr>" for row, first in rows
    ]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'

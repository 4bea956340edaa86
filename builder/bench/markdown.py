"""The report as Markdown, for the README."""

import re

from builder.bench import summary
from builder.bench.compare import Comparison
from builder.bench.results import FLOOR, NATIVE, PYTHON, TRT, Report
from builder.bench.summary_text import NOTHING, mapping_text, number, times_text

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~])")


def markdown(report: Report, comparison: Comparison | None = None) -> str:
    """Tables, how to reproduce them, and on which machine they were measured."""
    parts = [_table(report), _how(report)]
    if report.problems:
        parts.append(
            "Not measured:\n\n"
            + "\n".join(f"- {plain(p.where)}: {plain(p.what)}" for p in report.problems)
        )
    if comparison is not None:
        parts.append(_changes(comparison))
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """`text` so that Markdown shows it as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _table(report: Report) -> str:
    rows = []
    has = {run.variant for run in report.runs}
    tuned = TRT in has
    for case in report.cases:
        for step in summary.concurrencies(report, case.name):
            found = {
                c.variant: c for c in summary.cells(report, case.name) if c.concurrency == step
            }
            if not {NATIVE, PYTHON, TRT} & found.keys():
                continue
            native, python = found.get(NATIVE), found.get(PYTHON)
            row = [f"`{case.name}`" if _is_name(case.name) else plain(case.name), str(step)]
            row.append(number(native.per_second.median) if native else NOTHING)
            if tuned:
                trt = found.get(TRT)
                row.append(number(trt.per_second.median) if trt else NOTHING)
            row.append(number(python.per_second.median) if python else NOTHING)
            row.append(times_text(summary.ratio(report, case.name, step, NATIVE, PYTHON)))
            row.append(number(native.p99_ms.median) if native else NOTHING)
            row.append(number(python.p99_ms.median) if python else NOTHING)
            if FLOOR in has:
                share = summary.ratio(report, case.name, step, NATIVE, FLOOR)
                row.append(number(share.median) if share else NOTHING)
            rows.append(row)
    if not rows:
        return "Nothing was measured."
    header = ["Requests to", "In flight", "Native /s"]
    header += ["TensorRT /s"] if tuned else []
    header += ["Python /s", "Native / python (range)", "p99 native, ms", "p99 python, ms"]
    header += ["Native / floor"] if FLOOR in has else []
    line = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, line, *rows])


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+", text) is not None


def _how(report: Report) -> str:
    text = "Medians over the rounds; ratios are paired within each round."
    if any(run.variant == FLOOR for run in report.runs):
        text += " The floor is the same ONNX model in an in-process ONNX Runtime loop."
    lines = [text, "", "```bash", "make bench  # or: builder bench", "```", ""]
    lines.append(f"Measured {plain(report.created)} on {plain(mapping_text(report.machine))}.")
    lines.append(f"Versions: {plain(mapping_text(report.versions))}.")
    lines.append(f"Settings: {plain(mapping_text(report.settings))}.")
    return "\n".join(lines)


def _changes(comparison: Comparison) -> str:
    lines = [f"Against the report of {plain(comparison.created)}:", ""]
    for name, (old, new) in comparison.differences.items():
        lines.append(f"- {plain(name)}: {plain(old)} before, {plain(new)} now")
    if not comparison.same_machine:
        lines.append("- another machine: only ratios to python can be compared")
    marked = [change for change in comparison.changes if change.verdict in ("better", "worse")]
    lines += [f"- {change.verdict}: {plain(str(change))}" for change in marked]
    if not marked:
        lines.append("- nothing changed beyond noise")
    lines += [f"- only in the older report: {plain(name)}" for name in comparison.only_before]
    lines += [f"- only in the newer report: {plain(name)}" for name in comparison.only_after]
    return "\n".join(lines)

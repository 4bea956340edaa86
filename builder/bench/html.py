"""The report as one HTML page that needs nothing else: no network, no script, no other file.

Pictures are inline SVG, the raw data is in the page as a download. The page's own policy forbids
scripts and every request. All text of the report is escaped: names, versions and problems come
from models, programs and machines.
"""

import base64
import re

from builder.bench import plots, summary
from builder.bench.compare import Comparison
from builder.bench.html_style import STYLE
from builder.bench.html_tables import (
    changes_table,
    cost_table,
    figures_table,
    pairs_table,
    stages_table,
)
from builder.bench.plots_overview import overview
from builder.bench.plots_svg import text_of
from builder.bench.results import NATIVE, PYTHON, CaseInfo, Report
from builder.bench.summary_text import mapping_text, range_text, times_text

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(report: Report, comparison: Comparison | None = None) -> str:
    """The whole page."""
    body = [
        _header(report),
        _cards(report),
        f'<div class="wide">{overview(report, standalone=False)}</div>',
        _problems(report),
        "" if comparison is None else _comparison(comparison),
        *(_case(report, case, comparison) for case in report.cases),
        _about(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Benchmark of {text_of(report.created)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body>\n"
        "</html>\n"
    )


def _header(report: Report) -> str:
    machine = mapping_text(report.machine) or "a machine that is not named"
    links = "".join(
        f'<a href="#{_anchor(index)}">{text_of(case.name)}</a>'
        for index, case in enumerate(report.cases)
    )
    return (
        "<header><h1>Native pipelines against the Python backend</h1>"
        f'<p class="soft">Measured {text_of(report.created)} on {text_of(machine)}. '
        "Medians over the rounds, ratios paired within each round.</p>"
        f"<nav>{links}<a href='#about'>machine and versions</a></nav></header>"
    )


def _cards(report: Report) -> str:
    cards = []
    for case in report.cases:
        # The highest concurrency at which both were measured: where a server earns its keep.
        for step in reversed(summary.concurrencies(report, case.name)):
            times = summary.ratio(report, case.name, step, NATIVE, PYTHON)
            if times is None:
                continue
            rounds = f"{range_text(times)}, {times.rounds} rounds" if times.rounds > 1 else ""
            cards.append(
                f"<li><span>{text_of(case.name)}</span>"
                f"<b>{times_text(times, with_range=False)}</b>"
                f"<span>python's throughput at {step} in flight</span><span>{rounds}</span></li>"
            )
            break
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else ""


def _problems(report: Report) -> str:
    notes = [
        f"<p><b>{text_of(p.where)}</b>: {text_of(p.what)}"
        + (f'<br><span class="soft">{text_of(p.hint)}</span>' if p.hint else "")
        + "</p>"
        for p in report.problems
    ]
    unstable = sum(not run.stable for run in report.runs)
    if unstable:
        notes.append(
            f"<p><b>unsteady</b>: in {unstable} of {len(report.runs)} runs the load generator saw "
            "no steady state. They are marked ~ and count all the same.</p>"
        )
    if not report.runs:
        notes.append("<p><b>nothing was measured</b></p>")
    return f'<section class="note">{"".join(notes)}</section>' if notes else ""


def _comparison(comparison: Comparison) -> str:
    parts = [f"<h2>Against the report of {text_of(comparison.created)}</h2>"]
    if not comparison.same_machine:
        parts.append(
            '<div class="note"><p>Measured on another machine: only ratios to python can be '
            "compared.</p></div>"
        )
    parts.append(changes_table(comparison))
    for label, names in (
        ("Only in the older report", comparison.only_before),
        ("Only in this report", comparison.only_after),
    ):
        if names:
            parts.append(f"<p>{label}: {text_of('; '.join(names))}</p>")
    return "<section>" + "".join(parts) + "</section>"


def _case(report: Report, case: CaseInfo, comparison: Comparison | None) -> str:
    index = report.cases.index(case)
    parts = [f'<section id="{_anchor(index)}"><h2>{text_of(case.name)}</h2>']
    parts.append(f"<p>{text_of(case.title)}<br>")
    parts.append(f'<span class="soft">One request: {text_of(case.request)}</span></p>')
    found = summary.cells(report, case.name)
    if not found:
        return "".join([*parts, '<p class="note">Nothing was measured.</p></section>'])
    parts.append('<div class="charts">')
    parts += [plots.throughput(report, case), plots.latency(report, case), "</div>"]
    parts.append(figures_table(report, case, comparison))
    time = plots.where_time_goes(report, case)
    if time:
        parts.append(f'<div class="charts">{time}</div>')
    last = {cell.variant: cell for cell in found}  # by rising concurrency: the highest stays
    by_model = [plots.stage_times(case, cell) for cell in last.values()]
    parts += [f'<div class="charts">{picture}</div>' for picture in by_model if picture]
    histogram = plots.batch_histogram(report, case)
    if histogram:
        parts.append(f'<div class="charts">{histogram}</div>')
    parts.append(cost_table(report, case))
    stages = stages_table(report, case)
    if stages:
        parts.append(f"<details><summary>Time by model, as a table</summary>{stages}</details>")
    return "".join(parts) + "</section>"


def _about(report: Report) -> str:
    data = base64.b64encode(report.to_json().encode()).decode()
    name = "report-" + re.sub(r"[^0-9A-Za-z]+", "-", report.created).strip("-") + ".json"
    return (
        '<section id="about"><h2>Machine, versions, settings</h2><div class="charts">'
        + pairs_table("Machine", report.machine)
        + pairs_table("Versions", report.versions)
        + pairs_table("Settings", report.settings)
        + "</div><h3>Raw data</h3>"
        f'<p><a download="{name}" href="data:application/json;base64,{data}">{name}</a>: every '
        "run of every round; <code>builder bench --against</code> reads it.</p></section>"
    )


def _anchor(index: int) -> str:
    return f"case-{index + 1}"

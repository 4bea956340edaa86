"""The pictures of a benchmark report, each as SVG text."""

from collections.abc import Callable, Mapping, Sequence

from builder.bench import summary
from builder.bench.plots_svg import Axis, Drawing, fit, text_width
from builder.bench.results import FLOOR, NATIVE, PYTHON, TRT, CaseInfo, Report
from builder.bench.summary import Cell, Spread, StageTime
from builder.bench.summary_text import number, range_text, tick_text

_WIDTH, _HEIGHT = 470.0, 280.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 14.0, 44.0, 44.0
_LOG_FROM = 12.0
"""Ratio of the largest to the smallest value from which an axis of latencies is logarithmic."""
_OTHERS = 3
_MOST_STAGES = 14
_EDGE = 0.02
"""Parts of a visit that are not worth a word: requests at the edge of the measured window."""

PARTS = ("queue", "input", "compute", "output", "rest")
"""Parts of a request's time, in the order in which they pass."""


def colour(variant: str, variants: Sequence[str]) -> str:
    """Name of the colour of a variant; the same in every picture of a case."""
    if variant in (NATIVE, PYTHON, TRT, FLOOR):
        return variant
    others = [v for v in variants if v not in (NATIVE, PYTHON, TRT, FLOOR)]
    return f"other-{others.index(variant) % _OTHERS if variant in others else 0}"


def throughput(report: Report, case: CaseInfo) -> str:
    """Requests per second against concurrency, with the range over the rounds as a band."""
    drawing = Drawing(
        _WIDTH,
        _HEIGHT,
        f"{case.name}: throughput",
        "Median requests per second against concurrency; bands are the range over the rounds.",
    )
    drawing.text(0, 14, f"Throughput, {case.unit}s per second", style="title")
    curves = [(lambda cell: cell.per_second, "curve", "")]
    _curves(drawing, report, case, curves, unit="/s", log=False)
    return drawing.svg()


def latency(report: Report, case: CaseInfo) -> str:
    """p50 and p99 against concurrency, with the range over the rounds as a band."""
    values = [
        value
        for cell in summary.cells(report, case.name)
        for one in (cell.p50_ms, cell.p99_ms)
        for value in (one.low, one.high)
        if value > 0
    ]
    log = bool(values) and max(values) > _LOG_FROM * min(values)
    drawing = Drawing(
        _WIDTH,
        _HEIGHT,
        f"{case.name}: latency",
        "Median and 99th percentile of the latency against concurrency; bands are the range "
        "over the rounds.",
    )
    scale = ", logarithmic" if log else ""
    drawing.text(0, 14, f"Latency, ms{scale}: p50 solid, p99 dashed", style="title")
    curves = [
        (lambda cell: cell.p50_ms, "curve", "p50 "),
        (lambda cell: cell.p99_ms, "curve dashed", "p99 "),
    ]
    _curves(drawing, report, case, curves, unit=" ms", log=log)
    return drawing.svg()


def _curves(
    drawing: Drawing,
    report: Report,
    case: CaseInfo,
    curves: Sequence[tuple[Callable[[Cell], Spread], str, str]],
    *,
    unit: str,
    log: bool,
) -> None:
    found = summary.cells(report, case.name)
    steps = summary.concurrencies(report, case.name)
    variants = summary.variants(report, case.name)
    spreads = [figure(cell) for cell in found for figure, _, _ in curves]
    values = [value for one in spreads for value in (one.low, one.high)]
    drawing.legend(2, 34, [(v, colour(v, variants), "fill") for v in variants])
    axis = Axis(values, _HEIGHT - _BOTTOM, _TOP, log=log)
    _grid(drawing, axis)
    room = _WIDTH - _LEFT - _RIGHT
    places = {c: _LEFT + room * (i + 0.5) / len(steps) for i, c in enumerate(steps)}
    for step, x in places.items():
        drawing.text(x, _HEIGHT - _BOTTOM + 18, str(step), anchor="middle")
    drawing.text(
        _LEFT + room / 2, _HEIGHT - 8, "requests in flight (concurrency)", style="soft",
        anchor="middle",
    )  # fmt: skip
    for variant in variants:
        tone = colour(variant, variants)
        cells = [cell for cell in found if cell.variant == variant]
        for figure, style, label in curves:
            points = [(places[cell.concurrency], figure(cell)) for cell in cells]
            upper = [(x, axis.at(one.high)) for x, one in points]
            lower = [(x, axis.at(one.low)) for x, one in reversed(points)]
            if len(points) > 1:
                drawing.path(upper + lower, style="band", colour=tone, close=True)
                middle = [(x, axis.at(one.median)) for x, one in points]
                drawing.path(middle, style=style, colour=tone)
            for cell, (x, one) in zip(cells, points, strict=True):
                drawing.line(x, axis.at(one.low), x, axis.at(one.high), style="whisker")
                tip = f"{variant}, concurrency {cell.concurrency}: {label}{value_text(one, unit)}"
                drawing.dot(x, axis.at(one.median), colour=tone, tip=tip)


def where_time_goes(report: Report, case: CaseInfo) -> str | None:
    """Mean time of a request by part, one bar per variant and concurrency."""
    rows: list[tuple[str, str, Mapping[str, float]]] = []
    for cell in summary.cells(report, case.name):
        found = summary.breakdown(cell)
        if found is not None:
            parts = {
                "queue": sum(s.queue_ms for s in found.stages),
                "input": sum(s.input_ms for s in found.stages),
                "compute": sum(s.compute_ms for s in found.stages),
                "output": sum(s.output_ms for s in found.stages),
                "rest": found.rest_ms,
            }
            rows.append((f"{cell.variant} at {cell.concurrency}", "", parts))
    if not rows:
        return None
    return _stacked(
        f"{case.name}: where the time of a request goes",
        "Where the time of a mean request goes, ms",
        rows,
    )


def stage_times(case: CaseInfo, cell: Cell) -> str | None:
    """Mean time of a request by model; None where it meets one model."""
    found = summary.breakdown(cell)
    called = {model for run in cell.runs for model in run.models}
    if found is None or len(found.stages) < 2 or called >= {s.model for s in found.stages}:
        return None
    ranked = sorted(found.stages, key=lambda stage: -stage.total_ms)
    kept = ranked[:_MOST_STAGES]
    rows: list[tuple[str, str, Mapping[str, float]]] = []
    for stage in kept:
        note = f"{number(stage.visits)} visits of {stage.model} per request"
        if stage.cached:
            note += f", {number(stage.cached)} of them answered from the response cache"
        if stage.batch:
            note += f", {number(stage.batch)} inferences per execution"
        parts = {
            "queue": stage.queue_ms,
            "input": stage.input_ms,
            "compute": stage.compute_ms,
            "output": stage.output_ms,
        }
        rows.append((stage.model + _visits(stage), note, parts))
    left = ranked[_MOST_STAGES:]
    if left:
        parts = {"compute": sum(s.compute_ms for s in left)}
        parts["queue"] = sum(s.total_ms for s in left) - parts["compute"]
        rows.append((f"{len(left)} others", "queue includes input and output here", parts))
    rows.append(("outside of the models", "network, client, ensemble", {"rest": found.rest_ms}))
    where = f"{cell.variant} at concurrency {cell.concurrency}"
    return _stacked(
        f"{case.name}: time by model, {where}", f"Time of a request by model, ms: {where}", rows
    )


def _visits(stage: StageTime) -> str:
    if stage.cached > (1 - _EDGE) * stage.visits:
        return " (cached)"
    whole = round(stage.visits)
    if whole == 1 and abs(stage.visits - 1) < _EDGE:
        return ""
    exact = abs(stage.visits - whole) < _EDGE
    return f" {whole if exact else number(stage.visits)}×"  # noqa: RUF001


def _stacked(name: str, title: str, rows: Sequence[tuple[str, str, Mapping[str, float]]]) -> str:
    widest = min(190.0, max(text_width(label, 12) for label, _, _ in rows) + 10)
    width, height = 2 * _WIDTH, 62.0 + 24 * len(rows)
    drawing = Drawing(width, height, name, "Stacked bars: " + ", ".join(PARTS) + ".")
    drawing.text(0, 14, title, style="title")
    labels = {"rest": "rest (network, client, ensemble)"}
    drawing.legend(2, 34, [(labels.get(part, part), part, "fill") for part in PARTS])
    totals = [sum(parts.values()) for _, _, parts in rows]
    axis = Axis(totals, widest, width - 64)
    for tick in axis.ticks:
        drawing.line(axis.at(tick), 44, axis.at(tick), height - 18, style="grid")
        drawing.text(axis.at(tick), height - 4, tick_text(tick), style="soft", anchor="middle")
    for index, ((label, note, parts), total) in enumerate(zip(rows, totals, strict=True)):
        y = 48.0 + 24 * index
        drawing.text(0, y + 13, fit(label, widest))
        start = 0.0
        for part in PARTS:
            value = parts.get(part, 0.0)
            if value <= 0:
                continue
            x = axis.at(start)
            share = f"{100 * value / total:.0f} %"
            tip = f"{label}: {part} {number(value)} ms, {share} of this bar"
            tip += f"; {note}" if note else ""
            drawing.rect(
                x, y, axis.at(start + value) - x, 17, style="fill mark", colour=part, tip=tip
            )
            start += value
        drawing.text(axis.at(start) + 6, y + 13, number(total), style="soft")
    return drawing.svg()


def batch_histogram(report: Report, case: CaseInfo) -> str | None:
    """Share of the executions by batch size, at the highest concurrency of each variant.

    Of a pipeline it shows the model that takes most of the time: the others would hide it.
    """
    variants = summary.variants(report, case.name)
    found: dict[str, tuple[str, dict[int, float]]] = {}
    for cell in summary.cells(report, case.name):
        model = _slowest(cell)
        counts = summary.batch_sizes(cell, model)
        total = sum(counts.values())
        if total:  # cells come by rising concurrency: the last one stays
            label = f"{cell.variant} at {cell.concurrency}" + (f": {model}" if model else "")
            share = {size: 100 * count / total for size, count in counts.items()}
            found[cell.variant] = (label, share)
    shares = dict(found.values())
    tones = {label: colour(variant, variants) for variant, (label, _) in found.items()}
    sizes = sorted({size for share in shares.values() for size in share})
    if not sizes or sizes == [1]:
        return None
    drawing = Drawing(
        _WIDTH,
        _HEIGHT,
        f"{case.name}: batch sizes",
        "Share of the model executions by the number of inferences in them.",
    )
    drawing.text(0, 14, "Batch sizes, % of executions", style="title")
    room = _WIDTH / len(shares) - 34
    drawing.legend(2, 34, [(fit(label, room, 11), tone, "fill") for label, tone in tones.items()])
    axis = Axis([v for share in shares.values() for v in share.values()], _HEIGHT - _BOTTOM, _TOP)
    _grid(drawing, axis)
    room = (_WIDTH - _LEFT - _RIGHT) / len(sizes)
    bar = min(26.0, 0.8 * room / len(shares))
    every = max(1, round(len(sizes) / 16))
    for place, size in enumerate(sizes):
        middle = _LEFT + room * (place + 0.5)
        if place % every == 0:
            drawing.text(middle, _HEIGHT - _BOTTOM + 18, str(size), anchor="middle")
        for index, (label, share) in enumerate(shares.items()):
            value = share.get(size, 0.0)
            x = middle + bar * (index - len(shares) / 2)
            y = axis.at(value)
            tip = f"{label}: {value:.1f} % of executions with {size} inferences"
            drawing.rect(
                x, y, bar - 1, _HEIGHT - _BOTTOM - y, style="fill mark", colour=tones[label],
                tip=tip,
            )  # fmt: skip
    drawing.text(
        _LEFT + (_WIDTH - _LEFT - _RIGHT) / 2, _HEIGHT - 8, "inferences per execution",
        style="soft", anchor="middle",
    )  # fmt: skip
    return drawing.svg()


def _grid(drawing: Drawing, axis: Axis) -> None:
    for tick in axis.ticks:
        drawing.line(_LEFT, axis.at(tick), _WIDTH - _RIGHT, axis.at(tick), style="grid")
        drawing.text(_LEFT - 6, axis.at(tick) + 4, tick_text(tick), style="soft", anchor="end")


def _slowest(cell: Cell) -> str | None:
    """The model that takes most of a request's time; None where a request meets one model."""
    found = summary.breakdown(cell)
    called = {model for run in cell.runs for model in run.models}
    inner = [s for s in found.stages if s.batch and s.model not in called] if found else []
    named = {stage.model for run in cell.runs for stage in run.stages}
    ranked = [stage for stage in inner if stage.model in named]
    return max(ranked, key=lambda stage: stage.total_ms).model if ranked else None


def value_text(one: Spread, unit: str) -> str:
    """Median, range and rounds, for a tooltip."""
    text = f"{number(one.median)}{unit}"
    if one.rounds > 1:
        text += f" ({range_text(one)} in {one.rounds} rounds)"
    return text

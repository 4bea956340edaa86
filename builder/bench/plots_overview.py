"""The picture for the README: every case at a glance."""

from builder.bench import summary
from builder.bench.plots import value_text
from builder.bench.plots_svg import Axis, Drawing, fit
from builder.bench.results import NATIVE, PYTHON, TRT, CaseInfo, Report
from builder.bench.summary_text import short_times_text, tick_text


def overview(report: Report, *, standalone: bool = True) -> str:
    """Native against python, a panel per case: throughput by concurrency, ranges as whiskers.

    Each panel has its own scale, from zero. The figure above a native bar is the median of the
    ratios native/python within the rounds.
    """
    cases = [case for case in report.cases if summary.cells(report, case.name)]
    columns = 2 if len(cases) > 1 else 1
    panel_width, panel_height = 430.0, 236.0
    rows = -(-len(cases) // columns) or 1
    width, height = columns * panel_width, 30 + rows * panel_height
    drawing = Drawing(
        width,
        height,
        "Throughput by case: native against python",
        "Median requests per second; whiskers are the range over the rounds.",
    )
    shown = [v for v in (NATIVE, TRT, PYTHON) if any(r.variant == v for r in report.runs)]
    labels = {NATIVE: "native", TRT: "native, TensorRT", PYTHON: "python backend"}
    drawing.legend(4, 16, [(labels[v], v, "fill") for v in shown])
    if not cases:
        drawing.text(4, 60, "Nothing was measured.")
    for index, case in enumerate(cases):
        x, y = index % columns * panel_width, 30 + index // columns * panel_height
        _panel(drawing, report, case, x, y, panel_width - 16, panel_height - 14)
    return drawing.svg(standalone=standalone)


def _panel(
    drawing: Drawing,
    report: Report,
    case: CaseInfo,
    x: float,
    y: float,
    width: float,
    height: float,
) -> None:
    variants = [v for v in summary.variants(report, case.name) if v in (NATIVE, TRT, PYTHON)]
    found = [cell for cell in summary.cells(report, case.name) if cell.variant in variants]
    steps = sorted({cell.concurrency for cell in found})
    drawing.text(x + 4, y + 18, fit(f"{case.name}, {case.unit}s/s", width, 13), style="title")
    left, bottom = x + 50, y + height - 24
    # Room for the ratios above the bars.
    axis = Axis([cell.per_second.high for cell in found], bottom, y + 46)
    for tick in axis.ticks:
        drawing.line(left, axis.at(tick), x + width, axis.at(tick), style="grid")
        drawing.text(left - 6, axis.at(tick) + 4, tick_text(tick), style="soft", anchor="end")
    if not steps:
        return
    room = (x + width - left) / len(steps)
    bar = min(34.0, 0.84 * room / len(variants))
    for place, step in enumerate(steps):
        middle = left + room * (place + 0.5)
        drawing.text(middle, bottom + 16, f"at {step}", style="soft", anchor="middle")
        for index, variant in enumerate(variants):
            cell = next((c for c in found if (c.variant, c.concurrency) == (variant, step)), None)
            if cell is None:
                continue
            start, one = middle + bar * (index - len(variants) / 2), cell.per_second
            top = axis.at(one.median)
            tip = f"{case.name}, {variant}, concurrency {step}: {value_text(one, '/s')}"
            drawing.rect(
                start, top, bar - 2, bottom - top, style="fill mark", colour=variant, tip=tip
            )
            centre = start + bar / 2 - 1
            drawing.line(centre, axis.at(one.low), centre, axis.at(one.high), style="whisker")
            if variant != PYTHON:
                times = summary.ratio(report, case.name, step, variant, PYTHON)
                if times is not None:
                    label = short_times_text(times)
                    drawing.text(centre, axis.at(one.high) - 5, label, anchor="middle")

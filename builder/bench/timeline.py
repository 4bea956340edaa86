"""One traced request as a picture and as a table."""

from typing import Any

from builder.bench.plots_svg import Axis, Drawing, fit, text_width
from builder.bench.summary_text import number, tick_text
from builder.bench.trace import Span, Trace

_WIDTH, _ROW, _TOP = 960.0, 24.0, 52.0
_MOST_LABEL = 230.0
_PARTS = ("queue", "input", "compute", "output")


def timeline(trace: Trace, *, standalone: bool = True) -> str:
    """The request from left to right, a row per stage, as SVG.

    Grey is time that a stage did not account for: the ensemble's scheduling, and what a model
    waited for that it called itself.
    """
    root = trace.root
    widest = max(text_width(_label(span), 12) for span in trace.spans) + 12
    left = min(_MOST_LABEL, widest)
    height = _TOP + _ROW * len(trace.spans) + 26
    drawing = Drawing(
        _WIDTH,
        height,
        f"Timeline of one request to {root.model}",
        f"{len(trace.stages)} stages in {number(trace.total_ms)} ms, a row per stage.",
    )
    drawing.text(0, 14, f"One request to {root.model}: {number(trace.total_ms)} ms", style="title")
    legend = [(part, part, "fill") for part in _PARTS]
    drawing.legend(2, 34, [*legend, ("between the stages", "rest", "fill")])
    axis = Axis([span.end_ms for span in trace.spans], left, _WIDTH - 64)
    bottom = height - 22
    for tick in axis.ticks:
        drawing.line(axis.at(tick), _TOP - 6, axis.at(tick), bottom, style="grid")
        drawing.text(axis.at(tick), height - 6, tick_text(tick), style="soft", anchor="middle")
    drawing.text(_WIDTH, height - 6, "ms", style="soft", anchor="end")
    for row, span in enumerate(trace.spans):
        _row(drawing, axis, span, _TOP + _ROW * row, left)
    return drawing.svg(standalone=standalone)


def _row(drawing: Drawing, axis: Axis, span: Span, y: float, left: float) -> None:
    drawing.text(0, y + 13, fit(_label(span), left))
    start, end = axis.at(span.start_ms), axis.at(span.end_ms)
    tip = f"{span.model}: {number(span.start_ms)} to {number(span.end_ms)} ms"
    tip += ", from the response cache" if span.cached else ""
    # At least a pixel, so that a stage of microseconds can be found.
    drawing.rect(start, y + 3, max(1.0, end - start), 11, style="fill mark", colour="rest", tip=tip)
    # Parts stand back to back, and end when the stage ends.
    at = span.end_ms - sum(_times(span))
    for part, value in zip(_PARTS, _times(span), strict=True):
        if value > 0:
            place, width = axis.at(at), axis.at(at + value) - axis.at(at)
            note = f"{span.model}: {part} {number(value)} ms"
            drawing.rect(place, y, width, 17, style="fill mark", colour=part, tip=note)
        at += value
    drawing.text(end + 5, y + 13, number(span.end_ms - span.start_ms), style="soft")


def table(trace: Trace) -> list[dict[str, Any]]:
    """Rows for a terminal or for JSON; times in milliseconds."""
    return [
        {
            "stage": span.model,
            "inside": span.parent,
            "depth": span.depth,
            "start_ms": round(span.start_ms, 6),
            "queue_ms": round(span.queue_ms, 6),
            "input_ms": round(span.input_ms, 6),
            "compute_ms": round(span.compute_ms, 6),
            "output_ms": round(span.output_ms, 6),
            "end_ms": round(span.end_ms, 6),
            "cached": span.cached,
        }
        for span in trace.spans
    ]


def _times(span: Span) -> tuple[float, float, float, float]:
    return span.queue_ms, span.input_ms, span.compute_ms, span.output_ms


def _label(span: Span) -> str:
    # Spaces at the start of a text are dropped by SVG.
    return "\N{NO-BREAK SPACE}" * 3 * max(0, span.depth - 1) + span.model

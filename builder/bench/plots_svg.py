"""Drawing SVG by hand: a few shapes, axes and legends, no library.

Text stays text, colours follow the reader's light or dark mode, and every mark tells its figures
when the mouse rests on it. Whatever is written is escaped here, and nowhere else.
"""

import math
import re
from collections.abc import Sequence
from html import escape

_NOT_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

COLOURS = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --soft: #59636e; --grid: #d8dee4; --paper: #ffffff; --raised: #f6f8fa;
  --native: #0072b2; --python: #d98a00; --trt: #00875f; --floor: #8a939c;
  --other-0: #b0578d; --other-1: #6b5bd2; --other-2: #a0522d;
  --queue: #d55e00; --input: #56b4e9; --compute: #0072b2; --output: #00a37a; --rest: #b6bec7; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6edf3; --soft: #9da7b1; --grid: #30363d; --paper: #0d1117; --raised: #161b22;
  --native: #4cb3f0; --python: #f0a93b; --trt: #3fc795; --floor: #7d8792;
  --other-0: #e08cc0; --other-1: #a79bff; --other-2: #d9905f;
  --queue: #f0793b; --input: #9bd6f7; --compute: #3a9bdc; --output: #36c99c; --rest: #545d68; } }
"""
"""Custom properties for both modes; after the palette of Okabe and Ito, told apart by everyone."""

SHAPES = """
svg.plot { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg.plot text { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg.plot text.soft { fill: var(--soft); font-size: 11px; }
svg.plot text.title { font-weight: 600; font-size: 13px; }
svg.plot .grid { stroke: var(--grid); stroke-width: 1; }
svg.plot .whisker { stroke: var(--ink); stroke-width: 1.2; opacity: .75; }
svg.plot .curve { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
svg.plot .dashed { stroke-dasharray: 5 4; }
svg.plot .band { fill: var(--c); opacity: .16; }
svg.plot .fill { fill: var(--c); }
svg.plot .dot { fill: var(--c); stroke: var(--paper); stroke-width: 1.5; }
svg.plot .mark:hover { filter: brightness(1.15); stroke: var(--ink); stroke-width: 1; }
"""


def text_of(value: object) -> str:
    """Escaped for SVG and HTML; characters that XML cannot hold are replaced."""
    return escape(_NOT_XML.sub("\ufffd", str(value)), quote=True)


class Drawing:
    """A picture under construction; the origin is the upper left corner, units are pixels."""

    def __init__(self, width: float, height: float, title: str, description: str = ""):
        self.width, self.height = width, height
        self._title, self._description = title, description
        self._parts: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        style: str,
        colour: str = "",
        tip: str = "",
    ) -> None:
        """A rectangle; `colour` names a custom property, `tip` shows under the mouse."""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'
        self._add(f"rect {place}", style, colour, tip)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, style: str) -> None:
        """A straight line."""
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._add(f"line {place}", style, "", "")

    def dot(self, x: float, y: float, *, colour: str, tip: str = "") -> None:
        """A round marker."""
        self._add(f'circle cx="{x:.1f}" cy="{y:.1f}" r="4"', "dot mark", colour, tip)

    def path(
        self, points: Sequence[tuple[float, float]], *, style: str, colour: str, close: bool = False
    ) -> None:
        """A polyline, or a polygon."""
        steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._add(f'path d="M{steps}{"Z" if close else ""}"', style, colour, "")

    def text(
        self, x: float, y: float, value: str, *, style: str = "", anchor: str = "start"
    ) -> None:
        """One line of text; `anchor` is start, middle or end."""
        kind = f' class="{style}"' if style else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{text_of(value)}</text>'
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str, str]]) -> None:
        """Entries of label, colour and style (`fill`, `curve` or `curve dashed`), side by side."""
        for label, colour, style in entries:
            if style == "fill":
                self.rect(x, y - 9, 11, 11, style="fill", colour=colour)
            else:
                self.path([(x - 2, y - 4), (x + 14, y - 4)], style=style, colour=colour)
            self.text(x + 18, y, label, style="soft")
            x += 18 + text_width(label) + 14

    def svg(self, *, standalone: bool = False) -> str:
        """The picture: to be put into a page, or with its own style as a file."""
        style = f"<style>{COLOURS}{SHAPES}</style>" if standalone else ""
        space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
        title = text_of(self._title)
        about = f"<desc>{text_of(self._description)}</desc>" if self._description else ""
        return (
            f'<svg{space} class="plot" role="img" aria-label="{title}" '
            f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'width="{self.width:.0f}" height="{self.height:.0f}">'
            f"<title>{title}</title>{about}{style}{''.join(self._parts)}</svg>"
        )

    def _add(self, start: str, style: str, colour: str, tip: str) -> None:
        coloured = f' style="--c: var(--{colour})"' if colour else ""
        inside = f"><title>{text_of(tip)}</title></{start.split(' ')[0]}>" if tip else "/>"
        self._parts.append(f'<{start} class="{style}"{coloured}{inside}')


class Axis:
    """Maps values to pixels, linear from zero or logarithmic.

    Args:
        values: What has to fit.
        start: Pixel of the lower end.
        end: Pixel of the upper end.
        log: Logarithmic; values have to be positive.
    """

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool = False):
        self._start, self._end, self._log = start, end, log
        top = max((v for v in values if math.isfinite(v)), default=1.0) or 1.0
        if log:
            least = min((v for v in values if v > 0), default=top)
            # A twentieth of room, so that no mark lies on the frame.
            self.low, self.high = least / 1.2, top * 1.2
            self.ticks = _log_ticks(self.low, self.high)
        else:
            self.low, self.high = 0.0, top * 1.05
            step = nice_step(self.high / 6)
            self.ticks = [step * i for i in range(int(self.high / step) + 1)]

    def at(self, value: float) -> float:
        """The pixel of a value."""
        if self._log:
            value = max(value, self.low)
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self._start + part * (self._end - self._start)


def nice_step(value: float) -> float:
    """The next of 1, 2, 5, 10, … that is not below `value`."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= value * (1 - 1e-9))


def text_width(value: str, size: float = 11.0) -> float:
    """About how wide a text is; the reader's font is not known here."""
    return len(value) * size * 0.56


def fit(value: str, width: float, size: float = 12.0) -> str:
    """`value`, cut where it would be wider than `width`."""
    room = max(1, int(width / (size * 0.56)))
    return value if len(value) <= room else value[: room - 1] + "…"


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = (1,) if len(powers) > 4 else (1, 2, 5)
    return [m * 10.0**p for p in powers for m in few if low <= m * 10.0**p <= high]

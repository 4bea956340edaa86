"""Figures as people read them; the same in the terminal, in Markdown, in HTML and in pictures."""

import math
from collections.abc import Mapping

from builder.bench.summary import Spread

NOTHING = "\N{EN DASH}"
"""Stands where nothing was measured."""


def number(value: float | None) -> str:
    """Three significant digits, thousands separated: 0.0123, 4.56, 78.9, 12,345."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    rounded = round(value, 2 - size)
    if rounded != 0:  # 9.996 has one digit more once it is rounded
        size = math.floor(math.log10(abs(rounded)))
    # Below a thousand all three digits show; above it whole numbers do.
    return f"{value:,.{max(0, 2 - size)}f}"


def tick_text(value: float) -> str:
    """A round number at an axis."""
    return f"{value:,g}" if value < 1e6 else f"{value:.0e}"


def short_times_text(one: Spread) -> str:
    """A ratio where there is little room: `8.3`, `13`, with the multiplication sign."""
    digits = 1 if one.median < 10 else 0
    return f"{one.median:.{digits}f}×"  # noqa: RUF001


def range_text(one: Spread) -> str:
    """Lowest to highest value; one value alone if there was one round."""
    if one.rounds == 1:
        return "one round"
    return f"{number(one.low)} to {number(one.high)}"


def times_text(one: Spread | None, *, with_range: bool = True) -> str:
    """A ratio: `8.31x (7.90 to 8.60)`, with the multiplication sign."""
    if one is None:
        return NOTHING
    text = f"{number(one.median)}×"  # noqa: RUF001
    return f"{text} ({range_text(one)})" if with_range and one.rounds > 1 else text


def mib_text(value: float | None) -> str:
    """Memory, given in MiB."""
    if value is None:
        return NOTHING
    return f"{number(value / 1024)} GiB" if value >= 1024 else f"{value:.0f} MiB"


def mapping_text(items: Mapping[str, str]) -> str:
    """`name value` pairs on one line."""
    return ", ".join(f"{name} {value}" for name, value in items.items())

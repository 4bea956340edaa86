"""Who is better: the goal, the p99 limit, and when a difference counts as proven.

Two candidates are only compared by measurements that were taken one after the other, as a ratio;
a machine that gets slower for a minute then slows both. A challenger replaces the current
settings if, in pairs of fresh measurements, its median ratio is at least `LEAST_GAIN` and it wins

* all of the first 5 pairs, or
* 4 of the first 5, and then all of the next 3.

Two equal candidates pass the second condition in 1/32 + 5/32 x 1/8 = 5.1 % of all cases (a sign
test), and the first one makes it rarer still.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from builder.bench.perf_analyzer import Figures

Goal = Literal["throughput", "latency"]

Turn = Mapping[int, Figures]
"""Figures of one candidate by concurrency, measured one after the other."""

LEAST_GAIN = 1.03
"""Smallest median ratio that is worth a line in builder.toml."""

PAIRS, MORE_PAIRS = 5, 8


@dataclass(frozen=True, slots=True)
class Judge:
    """The user's wish.

    Attributes:
        goal: `throughput` compares requests per second; `latency` the geometric mean of p50 and
            p99, because with a fixed number of clients the mean latency is just the throughput.
        p99_ms: Largest p99 that is accepted, at every concurrency; None accepts any.
    """

    goal: Goal = "throughput"
    p99_ms: float | None = None

    def ratio(self, turn: Turn, base: Turn) -> float:
        """How much better `turn` is than `base`: above 1 is better. All levels count the same."""
        return math.exp(
            statistics.mean(math.log(self._ratio(turn[level], base[level])) for level in base)
        )

    def _ratio(self, figures: Figures, base: Figures) -> float:
        if self.goal == "throughput":
            return _divide(figures.per_second, base.per_second)
        return math.sqrt(
            _divide(base.p50_ms, figures.p50_ms) * _divide(base.p99_ms, figures.p99_ms)
        )

    def over(self, turns: Sequence[Turn]) -> bool:
        """Whether the median p99 of some turns is above the limit."""
        return self.p99_ms is not None and bool(turns) and median_p99(turns) > self.p99_ms


def worst_p99(turn: Turn) -> float:
    """Largest p99 of all levels, in milliseconds."""
    return max(figures.p99_ms for figures in turn.values())


def median_p99(turns: Sequence[Turn]) -> float:
    """Median over the turns of the largest p99 of all levels, in milliseconds."""
    return statistics.median(map(worst_p99, turns))


def p99_ratio(turn: Turn, base: Turn) -> float:
    """How much lower the p99 of `turn` is: above 1 is better."""
    return _divide(worst_p99(base), worst_p99(turn))


def proven(ratios: Sequence[float]) -> bool | None:
    """Whether a challenger with these ratios of pairs beats the current settings.

    Returns:
        None while more pairs are needed.
    """
    losses = sum(ratio <= 1.0 for ratio in ratios)
    if losses > 1:
        return False
    if len(ratios) < PAIRS or (losses == 1 and len(ratios) < MORE_PAIRS):
        return None
    return statistics.median(ratios) >= LEAST_GAIN


def _divide(a: float, b: float) -> float:
    # A level without a single answer is infinitely bad, not an error.
    tiny = 1e-9
    return max(a, tiny) / max(b, tiny)

"""When a difference counts."""

import math
import random

import pytest

from builder.tune.judge import Judge, median_p99, p99_ratio, proven
from tests.tune.fakes import figures


def test_all_levels_count_the_same() -> None:
    base = {1: figures(100), 8: figures(1000)}
    turn = {1: figures(200), 8: figures(500)}
    assert Judge().ratio(turn, base) == pytest.approx(1.0)
    assert Judge().ratio({1: figures(200), 8: figures(2000)}, base) == pytest.approx(2.0)


def test_latency_counts_the_usual_and_the_worst() -> None:
    base = {1: figures(100, p99_ms=20)}
    turn = {1: figures(200, p99_ms=40)}  # half the p50, twice the p99
    assert Judge("latency").ratio(turn, base) == pytest.approx(1.0)
    better = {1: figures(100, p99_ms=5)}
    assert Judge("latency").ratio(better, base) == pytest.approx(2.0)


def test_a_level_without_an_answer_is_bad_and_no_error() -> None:
    base, silent = {1: figures(100)}, {1: figures(1e-30)}
    assert Judge().ratio(silent, base) < 1e-6
    assert math.isfinite(Judge().ratio(base, silent))


def test_the_limit_is_about_the_median_of_the_worst_level() -> None:
    turns = [{1: figures(100, p99_ms=1), 8: figures(100, p99_ms=p)} for p in (5, 9, 100)]
    assert median_p99(turns) == 9
    assert Judge(p99_ms=8).over(turns)
    assert not Judge(p99_ms=10).over(turns)
    assert not Judge().over(turns)
    assert p99_ratio(turns[0], turns[1]) == pytest.approx(9 / 5)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.1] * 4, None),
        ([1.1] * 5, True),
        ([1.01] * 5, False),  # beyond noise, but not worth a line
        ([0.9, 0.9], False),
        ([1.1, 0.9, 1.1, 1.1, 1.1], None),
        ([1.1, 0.9] + [1.1] * 6, True),
        ([1.1, 0.9] + [1.1] * 4 + [0.9], False),
    ],
)
def test_proof_by_pairs(ratios: list[float], verdict: bool | None) -> None:
    assert proven(ratios) is verdict


def test_equal_candidates_are_rarely_proven_different() -> None:
    rng = random.Random(7)
    wins = 0
    for _ in range(4000):
        ratios: list[float] = []
        while proven(ratios) is None:
            ratios.append(math.exp(rng.gauss(0, 0.2)))
        wins += bool(proven(ratios))
    assert wins / 4000 < 0.06

"""Halving and the duel, on a machine whose speeds are known."""

import random
from collections.abc import Callable

import pytest

from builder.tune.judge import Judge, Turn
from builder.tune.search import (
    BudgetError,
    CandidateError,
    Search,
    Trial,
    affordable,
    most_turns,
)
from tests.tune.fakes import figures

Measure = Callable[[int], Turn]


def machine(noise: float = 0.0, drift: float = 0.0, seed: int = 0) -> Measure:
    """A candidate is its own speed; the machine gets slower by `drift` with every turn."""
    rng = random.Random(seed)
    turns = 0

    def measure(candidate: int) -> Turn:
        nonlocal turns
        turns += 1
        speed = candidate * (1 - drift) ** turns
        return {1: figures(speed * (1 + rng.uniform(-noise, noise)))}

    return measure


def search(measure: Measure, *challengers: int, judge: Judge | None = None) -> Search[int]:
    found = Search(judge or Judge(), Trial(100), [Trial(c) for c in challengers], measure)
    found.run()
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_clear_winner_is_found_in_noise_and_drift(seed: int) -> None:
    found = search(machine(0.1, 0.01, seed), 50, 70, 90, 95, 150, 105, 60, 80)
    assert found.winner.candidate == 150
    assert found.winner.verdict.startswith("wins")


def test_equal_candidates_leave_the_current_settings() -> None:
    kept = sum(
        search(machine(0.2, seed=seed), 100, 100, 100, 100).winner.verdict == "current"
        for seed in range(200)
    )
    assert kept >= 190


def test_drift_alone_makes_no_winner() -> None:
    for seed in range(20):
        found = search(machine(0.01, 0.05, seed), 100, 100, 100)
        assert found.winner is found.incumbent


def test_the_incumbent_stays_in_every_round() -> None:
    measured: list[int] = []
    plain = machine()

    def measure(candidate: int) -> Turn:
        measured.append(candidate)
        return plain(candidate)

    found = search(measure, 10, 20, 30, 40)
    assert found.winner is found.incumbent
    assert measured[:5] == [100, 10, 20, 30, 40]
    assert measured[5:] == [30, 40, 100]  # the other way round; then nothing is worth a duel
    verdicts = {trial.candidate: trial.verdict for trial in found.challengers}
    assert verdicts[10] == verdicts[20] == "dropped in round 1"
    assert verdicts[30] == "dropped in round 2"
    assert verdicts[40] == "no gain"


def test_a_candidate_that_fails_is_out_with_its_reason_and_the_rest_goes_on() -> None:
    plain = machine()

    def measure(candidate: int) -> Turn:
        if candidate == 300:
            raise CandidateError("the server died")
        return plain(candidate)

    found = search(measure, 300, 200, 50)
    assert found.winner.candidate == 200
    assert found.challengers[0].verdict == "out: the server died"


def test_a_candidate_may_also_fail_in_the_duel() -> None:
    plain, seen = machine(), 0

    def measure(candidate: int) -> Turn:
        nonlocal seen
        seen += candidate == 200
        if seen > 2:
            raise CandidateError("the server died")
        return plain(candidate)

    found = search(measure, 200)
    assert found.winner is found.incumbent
    assert "died" in found.challengers[0].verdict


def test_without_any_candidate_that_works_the_current_settings_stay() -> None:
    plain = machine()

    def measure(candidate: int) -> Turn:
        if candidate != 100:
            raise CandidateError("does not load")
        return plain(candidate)

    assert search(measure, 1, 2, 3).winner.candidate == 100
    assert search(plain).winner.candidate == 100


def test_the_failure_of_the_current_settings_is_an_error() -> None:
    def measure(candidate: int) -> Turn:
        raise CandidateError("does not load")

    with pytest.raises(CandidateError):
        search(measure, 1)


def test_the_end_of_the_budget_leaves_what_is_proven() -> None:
    plain, turns = machine(), 0

    def measure(candidate: int) -> Turn:
        nonlocal turns
        turns += 1
        if turns > 4:
            raise BudgetError
        return plain(candidate)

    found = search(measure, 200)
    assert found.winner is found.incumbent
    assert found.remark
    assert found.challengers[0].verdict == "measured, not decided"


def by_p99(limits: dict[int, float]) -> Measure:
    return lambda candidate: {1: figures(candidate, p99_ms=limits[candidate])}


def test_the_fastest_is_out_if_its_p99_is_above_the_limit() -> None:
    measure = by_p99({100: 5, 200: 50, 150: 8})
    found = search(measure, 200, 150, judge=Judge(p99_ms=10))
    assert found.winner.candidate == 150
    assert "p99 above the limit" in found.challengers[0].verdict
    alone = search(measure, 200, judge=Judge(p99_ms=10))
    assert alone.winner is alone.incumbent
    assert alone.challengers[0].verdict == "out: p99 above the limit"


def test_a_slower_candidate_wins_if_only_it_keeps_the_limit() -> None:
    found = search(by_p99({100: 50, 80: 8, 300: 40}), 80, 300, judge=Judge(p99_ms=10))
    assert found.winner.candidate == 80


def test_where_none_keeps_the_limit_the_nearest_one_is_known() -> None:
    judge = Judge(p99_ms=10)
    found = search(by_p99({100: 50, 80: 20, 300: 40}), 80, 300, judge=judge)
    assert found.winner.candidate == 80
    assert judge.over(found.winner.turns)


@pytest.mark.parametrize("challengers", range(12))
def test_turns_are_never_more_than_promised(challengers: int) -> None:
    for seed in range(5):
        turns = 0
        plain = machine(0.3, seed=seed)

        def measure(candidate: int) -> Turn:
            nonlocal turns
            turns += 1
            return plain(candidate)  # noqa: B023

        search(measure, *[100 + i for i in range(challengers)])
        assert turns <= most_turns(challengers)


def test_what_a_number_of_turns_suffices_for() -> None:
    assert affordable(8, most_turns(8)) == 8
    assert affordable(8, most_turns(5)) == 5
    assert affordable(8, 3) == 0
    assert affordable(0, 100) == 0

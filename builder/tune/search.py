"""One leg of a search: successive halving, then a duel of the best with the current settings.

Every round measures each candidate that is left, and the current settings (the incumbent) among
them; the order turns round from round to round. The worse half leaves after each round. What is
left meets the incumbent in fresh pairs, by which alone it is judged: the rounds before chose it
because it looked good, so their figures flatter it.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from builder.tune.judge import MORE_PAIRS, Judge, Turn, median_p99, p99_ratio, proven

C = TypeVar("C")

Measure = Callable[[C], Turn]
"""Measures a candidate at every concurrency."""


class CandidateError(Exception):
    """A candidate that cannot be measured; the reason is for people."""


class BudgetError(Exception):
    """The time is up; raised by a measure function instead of measuring."""


@dataclass(slots=True)
class Trial(Generic[C]):
    """A candidate and everything that was measured of it.

    Attributes:
        turns: In the order of measurement.
        ratios: To the incumbent in the same round.
        pairs: Turns of this candidate and of the incumbent in the duel.
        verdict: What became of it, for people.
        out: It failed.
    """

    candidate: C
    turns: list[Turn] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    pairs: list[tuple[Turn, Turn]] = field(default_factory=list)
    verdict: str = "not measured"
    out: bool = False


@dataclass(slots=True)
class Search(Generic[C]):
    """The state of one leg; it can be read at any time, also after an interruption.

    Attributes:
        incumbent: The current settings.
        challengers: The others.
        winner: The incumbent until a challenger is proven better.
        remark: Why the search ended early; empty if it did not.
    """

    judge: Judge
    incumbent: Trial[C]
    challengers: list[Trial[C]]
    measure: Measure[C]
    winner: Trial[C] = field(init=False)
    remark: str = ""

    def __post_init__(self) -> None:
        self.winner = self.incumbent
        self.incumbent.verdict = "current"

    def run(self) -> Trial[C]:
        """Search, and return the winner.

        Raises:
            CandidateError: The incumbent itself cannot be measured.
        """
        try:
            finalist = self._halve()
            if finalist is not None and self._worth_a_duel(finalist):
                self._duel(finalist)
        except BudgetError:
            self.remark = "the budget is used up"
            for trial in self.challengers:
                if not trial.out and trial.verdict in ("not measured", "measured"):
                    trial.verdict += ", not decided"
        return self.winner

    def _turn(self, trial: Trial[C]) -> Turn | None:
        """Measure a challenger; None if it fails, which puts it out."""
        try:
            turn = self.measure(trial.candidate)
        except CandidateError as error:
            trial.out = True
            trial.verdict = f"out: {error}"
            return None
        trial.turns.append(turn)
        return turn

    def _measure_incumbent(self) -> Turn:
        turn = self.measure(self.incumbent.candidate)
        self.incumbent.turns.append(turn)
        return turn

    # -- halving

    def _halve(self) -> Trial[C] | None:
        alive = [trial for trial in self.challengers if not trial.out]
        number = 0
        while len(alive) > 1:
            self._round(alive, backwards=number % 2 == 1)
            number += 1
            ranked = sorted((t for t in alive if not t.out), key=self._rank)
            alive = ranked[: (len(ranked) + 1) // 2]
            for trial in ranked[len(alive) :]:
                trial.verdict = self._dropped(trial, number)
        return alive[0] if alive else None

    def _round(self, alive: Sequence[Trial[C]], *, backwards: bool) -> None:
        measured: list[tuple[Trial[C], Turn]] = []
        order = [None, *alive]
        base: Turn | None = None
        for trial in reversed(order) if backwards else order:
            if trial is None:
                base = self._measure_incumbent()
            elif (turn := self._turn(trial)) is not None:
                trial.verdict = "measured"
                measured.append((trial, turn))
        assert base is not None
        for trial, turn in measured:
            trial.ratios.append(self.judge.ratio(turn, base))

    def _rank(self, trial: Trial[C]) -> tuple[float, float]:
        """Those within the p99 limit first, by their ratio; then the others, by their p99."""
        excess = median_p99(trial.turns) if self.judge.over(trial.turns) else 0.0
        return excess, -statistics.median(trial.ratios)

    def _dropped(self, trial: Trial[C], number: int) -> str:
        where = f"dropped in round {number}"
        if self.judge.over(trial.turns):
            return f"{where}: p99 above the limit"
        return where

    def _worth_a_duel(self, trial: Trial[C]) -> bool:
        """A finalist that did worse than the incumbent in most rounds need not try again."""
        if self.judge.over(self.incumbent.turns):
            return True
        if len(trial.ratios) > 1 and statistics.median(trial.ratios) < 1.0:
            trial.verdict = "no gain"
            return False
        return True

    # -- the duel

    def _duel(self, trial: Trial[C]) -> None:
        trial.verdict = "measured"
        decision = None
        for number in range(MORE_PAIRS):
            # The order changes, so that whoever comes second has no lasting advantage.
            if number % 2 == 0:
                base: Turn = self._measure_incumbent()
                turn = self._turn(trial)
            else:
                turn = self._turn(trial)
                base = self._measure_incumbent() if turn is not None else {}
            if turn is None:
                return
            trial.pairs.append((turn, base))
            decision = proven(self.pair_ratios(trial))
            if decision is not None:
                break
        self._decide(trial, won=decision is True)

    def pair_ratios(self, trial: Trial[C]) -> list[float]:
        """The ratios of a duel. While the incumbent is above the p99 limit, p99 is what counts."""
        ratio = p99_ratio if self.judge.over(self.incumbent.turns) else self.judge.ratio
        return [ratio(turn, base) for turn, base in trial.pairs]

    def _decide(self, trial: Trial[C], *, won: bool) -> None:
        ratios = self.pair_ratios(trial)
        wins = f"better in {sum(r > 1 for r in ratios)} of {len(ratios)} pairs"
        over = self.judge.over(trial.turns)
        if over and not self.judge.over(self.incumbent.turns):
            trial.verdict = "out: p99 above the limit"
        elif not won:
            trial.verdict = f"not proven: {wins}"
        else:
            self.winner = trial
            trial.verdict = f"wins: {wins}" + (", but p99 is above the limit" if over else "")


def most_turns(challengers: int) -> int:
    """Turns that a search with so many challengers takes at most, the incumbent's included."""
    if challengers == 0:
        return 0
    turns = 2 * MORE_PAIRS
    while challengers > 1:
        turns += challengers + 1
        challengers = (challengers + 1) // 2
    return turns


def affordable(challengers: int, turns: float) -> int:
    """The most of so many challengers that a number of turns suffices for."""
    return next((n for n in range(challengers, 0, -1) if most_turns(n) <= turns), 0)

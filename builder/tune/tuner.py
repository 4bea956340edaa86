"""The whole search: stage after stage, leg after leg, within a budget."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from builder.config import StageOptions
from builder.errors import ServerError
from builder.stage import Stage
from builder.tune.judge import Judge, Turn, median_p99
from builder.tune.search import (
    BudgetError,
    CandidateError,
    Search,
    Trial,
    affordable,
    most_turns,
)
from builder.tune.space import legs

SECONDS = (3.0, 2.0, 1.5, 1.0)
"""Lengths of a measurement; the longest that the budget allows is taken."""

_REMEMBERED = 5

LEAST_SHARE = 0.03
"""A stage with less of the time is not searched: removing it altogether would hardly show."""

Settings = dict[str, StageOptions]
Progress = Callable[[str, float], None]
"""Told what is measured now, and how many seconds have passed."""


class Measuring(Protocol):
    """What measures: `builder.tune.arena.Arena`, or a fake."""

    @property
    def shares(self) -> Mapping[str, float]:
        """Stage -> its part of the time, in the last turn."""

    def turn(self, settings: Mapping[str, StageOptions], seconds: float) -> Turn:
        """Measure the settings of all stages."""


@dataclass(slots=True)
class LegResult:
    """One search.

    Attributes:
        seconds: Length of each measurement.
        left_out: Candidates that the budget did not allow.
    """

    stage: str
    leg: str
    seconds: float
    search: Search[StageOptions]
    left_out: tuple[StageOptions, ...] = ()

    @property
    def trials(self) -> list[Trial[StageOptions]]:
        """The incumbent, then the others."""
        return [self.search.incumbent, *self.search.challengers]


@dataclass(slots=True)
class Tuner:
    """Searches the settings of some stages; its results can be read at any time.

    Attributes:
        before: Current settings of every stage that the load goes through.
        settings: The best ones known so far: `before`, until something is proven better.
        budget: Seconds for everything.
        shares: Stage -> its part of the time before anything was changed.
        notes: What was not searched, and why.
    """

    arena: Measuring
    stages: Sequence[Stage]
    before: Settings
    judge: Judge
    cores: int
    budget: float
    progress: Progress = field(default=lambda what, seconds: None)
    clock: Callable[[], float] = time.monotonic
    settings: Settings = field(init=False)
    results: list[LegResult] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    first: list[Turn] = field(default_factory=list)
    _start: float = 0.0
    _costs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = dict(self.before)

    @property
    def spent(self) -> float:
        """Seconds since the search began."""
        return self.clock() - self._start

    @property
    def changed(self) -> dict[str, StageOptions]:
        """The stages whose settings got better."""
        return {n: o for n, o in self.settings.items() if o != self.before[n]}

    @property
    def nearest_p99(self) -> float | None:
        """Median p99 of the settings that were kept, if it is above the limit."""
        turns = self.results[-1].search.winner.turns if self.results else self.first
        return median_p99(turns) if self.judge.over(turns or self.first) else None

    def run(self) -> None:
        """Search everything.

        Raises:
            ServerError: The current settings themselves cannot be measured.
        """
        self._start = self.clock()
        self.progress("current settings", 0.0)
        self._measure()  # the first turn of a server is no measure
        self._costs.clear()
        self.first.append(self._measure())
        self.shares = dict(self.arena.shares)
        order = sorted(self.stages, key=lambda s: -self.shares.get(s.name, 0.0))
        weights = {s.name: self.shares.get(s.name, 0.0) if len(order) > 1 else 1.0 for s in order}
        for stage in order:
            if weights[stage.name] < LEAST_SHARE:
                share = weights[stage.name]
                self.notes.append(f"{stage.name} is not searched: {share:.1%} of the time")
        searched = [stage for stage in order if weights[stage.name] >= LEAST_SHARE]
        for number, stage in enumerate(searched):
            rest = sum(weights[s.name] for s in searched[number:])
            part = (self.budget - self.spent) * weights[stage.name] / rest
            self._stage(stage, self.spent + part)

    def _stage(self, stage: Stage, end: float) -> None:
        """Search the legs of a stage until `end`, in seconds since the search began."""
        names = [
            leg.name for leg in legs(self.settings[stage.name], stage.max_batch_size, self.cores)
        ]
        for number, name in enumerate(names):
            # Made anew: a leg starts from the winner of the one before.
            found = legs(self.settings[stage.name], stage.max_batch_size, self.cores)
            wanted = {leg.name: leg.candidates for leg in found}
            needed = [most_turns(len(wanted.get(later, ()))) for later in names[number:]]
            if not needed[0]:
                continue
            until = self.spent + (end - self.spent) * needed[0] / sum(needed)
            self._leg(stage, name, wanted[name], until)

    def _leg(
        self,
        stage: Stage,
        name: str,
        candidates: Sequence[StageOptions],
        until: float,
    ) -> None:
        room = until - self.spent
        for seconds in SECONDS:
            each = self._cost(seconds)
            count = affordable(len(candidates), room / each)
            if count == len(candidates):
                break
        where = f"{stage.name} {name}"
        if count == 0:
            more = self.budget + most_turns(1) * each - room
            self.notes.append(
                f"{where} is not searched: a turn takes {each:.0f} s; --budget {more:.0f} or more"
            )
            return
        if count < len(candidates):
            self.notes.append(
                f"{where}: {len(candidates) - count} of {len(candidates)} candidates are left "
                "out for lack of time; raise --budget"
            )

        def measure(options: StageOptions) -> Turn:
            if self.spent > until + each:
                raise BudgetError
            self.progress(where, self.spent)
            return self._turn({**self.settings, stage.name: options}, seconds)

        search = Search(
            self.judge,
            Trial(self.settings[stage.name]),
            [Trial(candidate) for candidate in candidates[:count]],
            measure,
        )
        result = LegResult(stage.name, name, seconds, search, tuple(candidates[count:]))
        self.results.append(result)
        try:
            winner = search.run()
        except CandidateError as error:
            raise _lost(error, stage.name) from error
        self.settings[stage.name] = winner.candidate

    def _measure(self) -> Turn:
        """The current settings."""
        try:
            return self._turn(self.settings, SECONDS[-1])
        except CandidateError as error:
            raise _lost(error, ", ".join(self.settings)) from error

    def _turn(self, settings: Settings, seconds: float) -> Turn:
        start = self.clock()
        turn = self.arena.turn(settings, seconds)
        extra = len(turn) * (seconds - SECONDS[-1])
        self._costs.append(max(self.clock() - start - extra, 0.0))
        return turn

    def _cost(self, seconds: float) -> float:
        """Seconds that a turn takes, judging by the last ones."""
        shortest = statistics.median(self._costs[-_REMEMBERED:])
        return shortest + len(self.first[0]) * (seconds - SECONDS[-1])


def _lost(error: CandidateError, where: str) -> ServerError:
    return ServerError(
        f"the current settings cannot be measured: {error}",
        where=where,
        hint="does it serve at all? see builder serve and builder doctor",
    )

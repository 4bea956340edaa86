"""Two reports against each other: what changed by more than noise.

A figure counts as changed when its medians differ by more than `THRESHOLD` and the rounds agree
that it did:

- five rounds or more in both reports: two-sided Mann-Whitney U test, exact, p below `ALPHA`.
  With five rounds each only complete separation reaches that (p = 0.008); with more, some overlap
  may remain. It assumes nothing about the shape of the noise.
- fewer rounds: the ranges must not overlap. No test can say more about three values.
- one round in either: nothing can be said, and nothing is marked.

Absolute figures of different machines do not tell which program is faster. There only the ratios
native/python count, which were measured within each round on one machine.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from builder.bench import summary
from builder.bench.results import FLOOR, PYTHON, Report, Run

THRESHOLD = 0.05
"""Medians that differ by less than this part are the same for all practical purposes."""

ALPHA = 0.01
"""Level of the test: of a hundred figures that did not change, one may be marked."""

_ENOUGH_ROUNDS = 5

Verdict = Literal["better", "worse", "same", "unclear"]
"""`unclear`: too few rounds to tell."""

Figure = Literal["throughput", "p99", "throughput ratio to python"]

_BIGGER_IS_BETTER: Mapping[Figure, bool] = {
    "throughput": True,
    "p99": False,
    "throughput ratio to python": True,
}


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both reports.

    Attributes:
        before: Median in the older report.
        after: Median in the newer one.
        absolute: Whether the figure depends on the speed of the machine.
    """

    case: str
    variant: str
    concurrency: int
    figure: Figure
    before: float
    after: float
    verdict: Verdict
    absolute: bool

    @property
    def relative(self) -> float:
        """Change relative to before: 0.1 is 10 % more."""
        return self.after / self.before - 1

    def __str__(self) -> str:
        where = f"{self.case}, {self.variant} at concurrency {self.concurrency}"
        return f"{where}: {self.figure} {100 * self.relative:+.1f} %"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A newer report against an older one.

    Attributes:
        changes: Every figure that both have.
        differences: Name -> (before, after), where machine, versions or settings differ.
        same_machine: Whether absolute figures can be compared.
        only_before: `case, variant at concurrency` that only the older one has.
        only_after: The same of the newer one.
    """

    created: str
    changes: tuple[Change, ...]
    differences: Mapping[str, tuple[str, str]]
    same_machine: bool
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    def find(self, case: str, variant: str, concurrency: int, figure: Figure) -> Change | None:
        """The change of one figure; None if a report lacks it."""
        key = (case, variant, concurrency, figure)
        return next(
            (c for c in self.changes if (c.case, c.variant, c.concurrency, c.figure) == key), None
        )


def compare(after: Report, before: Report, *, threshold: float = THRESHOLD) -> Comparison:
    """Compare two reports, figure by figure."""
    differences = {
        **_differences("machine: ", before.machine, after.machine),
        **_differences("version: ", before.versions, after.versions),
        **_differences("setting: ", before.settings, after.settings),
        **_differences("request: ", _requests(before, after), _requests(after, before)),
    }
    old, new = _places(before), _places(after)
    changes: list[Change] = []
    for place in new:
        if place in old:
            changes += _changes(after, before, place, threshold)
    return Comparison(
        before.created,
        tuple(changes),
        differences,
        before.machine == after.machine,
        tuple(map(_name, (place for place in old if place not in new))),
        tuple(map(_name, (place for place in new if place not in old))),
    )


def regressions(after: Report, before: Report, *, threshold: float = THRESHOLD) -> list[Change]:
    """What became worse beyond noise; the command exits with 1 if there is anything.

    The python twins and the floor are what is compared with: they cannot regress. On another
    machine only ratios count.
    """
    found = compare(after, before, threshold=threshold)
    return [change for change in found.changes if counts(change, found)]


def counts(change: Change, comparison: Comparison) -> bool:
    """Whether a change is a regression of ours."""
    return (
        change.verdict == "worse"
        and change.variant not in (PYTHON, FLOOR)
        and (comparison.same_machine or not change.absolute)
    )


def verdict(
    before: Sequence[float],
    after: Sequence[float],
    *,
    bigger_is_better: bool,
    threshold: float = THRESHOLD,
) -> Verdict:
    """Whether a figure changed, given its values over the rounds of both reports."""
    old, new = summary.spread(before), summary.spread(after)
    if old is None or new is None or min(old.rounds, new.rounds) < 2 or old.median <= 0:
        return "unclear"
    if abs(new.median / old.median - 1) <= threshold:
        return "same"
    if min(old.rounds, new.rounds) >= _ENOUGH_ROUNDS:
        from scipy.stats import mannwhitneyu

        changed = bool(mannwhitneyu(before, after, method="exact").pvalue < ALPHA)
    else:
        changed = old.high < new.low or new.high < old.low
    if not changed:
        return "same"
    return "better" if (new.median > old.median) == bigger_is_better else "worse"


_Place = tuple[str, str, int]


def _places(report: Report) -> list[_Place]:
    return [
        (cell.case, cell.variant, cell.concurrency)
        for name in dict.fromkeys(run.case for run in report.runs)
        for cell in summary.cells(report, name)
    ]


def _name(place: _Place) -> str:
    return f"{place[0]}, {place[1]} at concurrency {place[2]}"


def _changes(after: Report, before: Report, place: _Place, threshold: float) -> Iterable[Change]:
    case, variant, concurrency = place
    for figure in _BIGGER_IS_BETTER:
        if figure == "throughput ratio to python" and variant in (PYTHON, FLOOR):
            continue
        old, new = _values(before, place, figure), _values(after, place, figure)
        if not old or not new:
            continue
        middle_old, middle_new = summary.spread(old), summary.spread(new)
        if middle_old is None or middle_new is None or middle_old.median <= 0:
            continue
        found = verdict(old, new, bigger_is_better=_BIGGER_IS_BETTER[figure], threshold=threshold)
        yield Change(
            case, variant, concurrency, figure, middle_old.median, middle_new.median, found,
            absolute=figure != "throughput ratio to python",
        )  # fmt: skip


def _values(report: Report, place: _Place, figure: Figure) -> list[float]:
    runs = summary.runs_of(report, *place)
    if figure == "throughput":
        return [run.per_second for run in runs]
    if figure == "p99":
        return [run.p99_ms for run in runs]
    twins: dict[int, Run] = {
        run.round: run for run in summary.runs_of(report, place[0], PYTHON, place[2])
    }
    return [run.per_second / twins[run.round].per_second for run in runs if run.round in twins]


def _requests(report: Report, other: Report) -> dict[str, str]:
    """What a request is, of the cases that both reports have."""
    common = {case.name for case in other.cases}
    return {case.name: case.request for case in report.cases if case.name in common}


def _differences(
    kind: str, before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys((*before, *after))
    pairs = {name: (before.get(name, "not named"), after.get(name, "not named")) for name in names}
    return {kind + name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

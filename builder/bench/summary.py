"""What the raw runs of a report say: medians, spreads, ratios, and where the time went.

Everything here is a pure function of a `Report`. Rounds or variants that are missing leave a gap
(None), never a zero.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from builder.bench.results import FLOOR, NATIVE, PYTHON, TRT, Report, Run

_ORDER = (NATIVE, TRT, PYTHON, FLOOR)

_WORTH_A_ROW = 0.01
"""Own time of an enclosing model below this part of the latency is noise."""

Measure = Callable[[Run], float]

PER_SECOND: Measure = lambda run: run.per_second  # noqa: E731
P50: Measure = lambda run: run.p50_ms  # noqa: E731
P99: Measure = lambda run: run.p99_ms  # noqa: E731


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the rounds.

    Attributes:
        low: Smallest value; with `high` the whole range.
        deviation: Median absolute deviation from the median: half of the rounds were nearer. One
            disturbed round does not move it.
        rounds: Number of values.
    """

    median: float
    low: float
    high: float
    deviation: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A case, a variant and a concurrency over all rounds."""

    case: str
    variant: str
    concurrency: int
    runs: tuple[Run, ...]
    per_second: Spread
    p50_ms: Spread
    p99_ms: Spread

    @property
    def unstable(self) -> int:
        """Rounds in which the load generator saw no steady state."""
        return sum(not run.stable for run in self.runs)


@dataclass(frozen=True, slots=True)
class StageTime:
    """Milliseconds that one request spends in one model, summed over its visits.

    Attributes:
        visits: Times that a request visits the model.
        batch: Mean number of inferences per execution; 0 where there was none.
        cached: Visits that the response cache answered.
    """

    model: str
    visits: float
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float
    batch: float
    cached: float = 0.0

    @property
    def total_ms(self) -> float:
        """The four together."""
        return self.queue_ms + self.input_ms + self.compute_ms + self.output_ms


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the time of a mean request went, in milliseconds.

    Attributes:
        latency_ms: Mean latency as the client sees it: concurrency / throughput, which is exact
            for a closed loop (Little's law).
        rest_ms: What no stage accounts for: network, client, the ensemble's own scheduling. Zero
            where stages ran side by side and so account for more than passed.
        overlapped: Whether that was so.
    """

    latency_ms: float
    stages: tuple[StageTime, ...]
    rest_ms: float
    overlapped: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a cell used: medians over the rounds; None where it could not be read."""

    server_cores: float | None
    stub_cores: float | None
    client_cores: float | None
    server_mib: float | None
    stub_mib: float | None
    gpu_percent: float | None
    gpu_mib: float | None

    @property
    def serving_cores(self) -> float | None:
        """Cores of the server and its stubs."""
        return _sum_known(self.server_cores, self.stub_cores)

    @property
    def serving_mib(self) -> float | None:
        """Resident memory of the server and its stubs."""
        return _sum_known(self.server_mib, self.stub_mib)


def spread(values: Iterable[float]) -> Spread | None:
    """Median, range and median absolute deviation; None without values."""
    known = list(values)
    if not known:
        return None
    median = statistics.median(known)
    deviation = statistics.median(abs(value - median) for value in known)
    return Spread(median, min(known), max(known), deviation, len(known))


def runs_of(report: Report, case: str, variant: str, concurrency: int) -> tuple[Run, ...]:
    """Runs that answered at least one request, by round."""
    found = [
        run
        for run in report.runs
        if (run.case, run.variant, run.concurrency) == (case, variant, concurrency)
        and run.requests > 0
        and run.per_second > 0
    ]
    return tuple(sorted(found, key=lambda run: run.round))


def cell(report: Report, case: str, variant: str, concurrency: int) -> Cell | None:
    """One cell; None if no round measured it."""
    runs = runs_of(report, case, variant, concurrency)
    per_second, p50, p99 = (spread(map(m, runs)) for m in (PER_SECOND, P50, P99))
    if per_second is None or p50 is None or p99 is None:
        return None
    return Cell(case, variant, concurrency, runs, per_second, p50, p99)


def cells(report: Report, case: str) -> list[Cell]:
    """Every measured cell of a case, by concurrency, then by variant."""
    found = (
        cell(report, case, variant, concurrency)
        for concurrency in concurrencies(report, case)
        for variant in variants(report, case)
    )
    return [one for one in found if one is not None]


def concurrencies(report: Report, case: str) -> list[int]:
    """Concurrencies at which anything of a case was measured."""
    return sorted({run.concurrency for run in report.runs if run.case == case})


def variants(report: Report, case: str) -> list[str]:
    """Variants of which anything was measured: the native one first, the floor last."""
    found = {run.variant for run in report.runs if run.case == case}
    known = [variant for variant in _ORDER if variant in found]
    other = sorted(found - set(known))
    return [*(v for v in known if v != FLOOR), *other, *(v for v in known if v == FLOOR)]


def ratio(
    report: Report,
    case: str,
    concurrency: int,
    top: str,
    bottom: str,
    measure: Measure = PER_SECOND,
) -> Spread | None:
    """`top` divided by `bottom`, paired within each round; None if no round has both.

    Pairing takes out what slows a whole round down: the two runs stood minutes apart at most.
    """
    above = {run.round: measure(run) for run in runs_of(report, case, top, concurrency)}
    below = {run.round: measure(run) for run in runs_of(report, case, bottom, concurrency)}
    return spread(above[key] / below[key] for key in sorted(above) if below.get(key))


def breakdown(one: Cell) -> Breakdown | None:
    """Where the time of a mean request went, over all rounds; None without server statistics.

    Requests are counted by the server where it did so: by the models that were called. A called
    model that encloses others (an ensemble, a python model that calls others) counts with the
    time that it spent outside of them.
    """
    runs = [run for run in one.runs if run.stages]
    if not runs:
        return None
    latency = statistics.fmean(1000 * run.concurrency / run.per_second for run in runs)
    called = {name for run in runs for name in run.models}
    inner = {stage.model for run in runs for stage in run.stages} - called
    sums: dict[str, list[float]] = {}
    requests = enclosing = 0.0
    for run in runs:
        requests += sum(s.inferences for s in run.stages if s.model in called) or run.requests
        for stage in run.stages:
            times = (stage.queue_us, stage.input_us, stage.compute_us, stage.output_us)
            spent = [time * stage.inferences / 1000 for time in times]
            if inner and stage.model in called:
                enclosing += sum(spent)
                continue
            entry = sums.setdefault(stage.model, [0.0] * 7)
            counts = (stage.inferences, stage.executions, stage.cache_hits)
            for index, value in enumerate((*spent, *counts)):
                entry[index] += value
    stages = [
        StageTime(
            model,
            visits=(entry[4] + entry[6]) / requests,
            queue_ms=entry[0] / requests,
            input_ms=entry[1] / requests,
            compute_ms=entry[2] / requests,
            output_ms=entry[3] / requests,
            batch=entry[4] / entry[5] if entry[5] else 0.0,
            cached=entry[6] / requests,
        )
        for model, entry in sums.items()
        if entry[4] or entry[6]
    ]
    own = enclosing / requests - sum(stage.total_ms for stage in stages)
    if own > _WORTH_A_ROW * latency:
        name = f"{called.pop()} itself" if len(called) == 1 else "the called models themselves"
        stages.append(StageTime(name, 1.0, 0.0, 0.0, own, 0.0, batch=1.0))
    rest = latency - sum(stage.total_ms for stage in stages)
    return Breakdown(latency, tuple(stages), max(0.0, rest), rest < 0)


def batch_sizes(one: Cell, model: str | None = None) -> dict[int, int]:
    """Batch size -> executions over all rounds, of one model or of all together."""
    found: dict[int, int] = {}
    for run in one.runs:
        for stage in run.stages:
            if model is None or stage.model == model:
                for size, count in stage.batch_sizes.items():
                    found[int(size)] = found.get(int(size), 0) + count
    return dict(sorted((size, count) for size, count in found.items() if count))


def mean_batch(sizes: Mapping[int, int]) -> float | None:
    """Mean batch size of an execution; None without executions."""
    executions = sum(sizes.values())
    return sum(size * n for size, n in sizes.items()) / executions if executions else None


def cost(one: Cell) -> Cost:
    """CPU cores, memory and GPU of a cell."""

    def median(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    used = [run.usage for run in one.runs]
    return Cost(
        median([u.server_cores for u in used]),
        median([u.stub_cores for u in used]),
        median([u.client_cores for u in used]),
        median([u.server_mib for u in used]),
        median([u.stub_mib for u in used]),
        median([u.gpu_percent for u in used]),
        median([u.gpu_mib for u in used]),
    )


def _sum_known(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None

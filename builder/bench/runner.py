"""Measuring all cases: rounds, in which the variants take turns, and everything that can go wrong.

A machine whose speed drifts hurts variants that run in turn alike; the order alternates from round
to round. What cannot be measured is named in the report, and the rest goes on.
"""

import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.bench.case import Case, Variant
from builder.bench.machine import describe_machine, describe_versions
from builder.bench.results import PYTHON, TRT, Problem, Report, Run
from builder.bench.served import Measurement
from builder.bench.tool import PerfAnalyzer, find_perf_analyzer
from builder.bench.turns import Turns
from builder.config import Config
from builder.errors import BuilderError, from_os_error
from builder.repository.layout import NATIVE_GROUPS, PYTHON_GROUP
from builder.serving.installations import Installation, find_installation
from builder.serving.states import models_in

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: How often every variant has its turn.
        seconds: Length of one measurement; a slow model takes longer.
        concurrency: Levels, for cases that have none of their own.
    """

    rounds: int = 3
    seconds: float = 2.5
    concurrency: tuple[int, ...] = (1, 4, 8, 16)

    def levels(self, case: Case) -> tuple[int, ...]:
        """Levels of a case."""
        return case.concurrency or self.concurrency

    def count(self, cases: Sequence[Case]) -> int:
        """Measurements of some cases."""
        return sum(len(self.levels(case)) * len(case.variants) * self.rounds for case in cases)


@dataclass(slots=True)
class Benchmark:
    """Measures cases and keeps what it has measured, whatever happens on the way.

    Attributes:
        tool: perf_analyzer; without it only the floor is measured.
        progress: Told what is measured now, how many measurements are done and how many there are.
        saved: Called after every case with what there is so far.
    """

    cases: Sequence[Case]
    settings: Settings
    tool: PerfAnalyzer | None = None
    progress: Progress = field(default=lambda what, done, total: None)
    saved: Callable[[Report], None] = field(default=lambda report: None)
    runs: list[Run] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _installation: Installation | None = None
    _created: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for was measured."""
        return len(self.runs) == self.settings.count(self.cases)

    @property
    def _serving(self) -> bool:
        """Whether anything is measured that a server answers."""
        return any(variant.served for case in self.cases for variant in case.variants)

    def find_tool(self, config: Config) -> None:
        """Find perf_analyzer, or note why there is none; nothing is done where none is needed."""
        if not self._serving:
            return
        try:
            self.tool = find_perf_analyzer(config)
        except BuilderError as error:
            self.note("perf_analyzer", error)

    def run(self) -> None:
        """Measure everything; a KeyboardInterrupt leaves what was measured in `runs`."""
        if self.tool is None and self._serving:
            self.note("perf_analyzer", "there is none: only what needs no server is measured")
        if self.tool is not None and self.tool.remark:
            self.note("perf_analyzer", self.tool.remark)
        for number, case in enumerate(self.cases):
            try:
                with tempfile.TemporaryDirectory(prefix="builder-bench-") as scratch:
                    self._case(case, Path(scratch), self.settings.count(self.cases[:number]))
            except BuilderError as error:
                self.note(case.name, error)
            except OSError as error:  # the disk is full, or there is no temporary folder
                self.note(case.name, from_os_error(error, "measuring", tempfile.gettempdir()))
            try:
                self.saved(self.report())
            except BuilderError as error:
                self.note("report", error)

    def note(self, where: str, error: BuilderError | str) -> None:
        """Remember what could not be measured; the same thing once."""
        if isinstance(error, BuilderError):
            what = error.what if error.where is None else f"{error.where}: {error.what}"
            problem = Problem(where, what, error.hint or "")
        else:
            problem = Problem(where, error)
        if problem not in self.problems:
            self.problems.append(problem)

    def report(self) -> Report:
        """What was measured so far."""
        return Report(
            created=self._created,
            machine=describe_machine(),
            versions=describe_versions(
                self._installation, None if self.tool is None else self.tool.version
            ),
            settings={
                "rounds": str(self.settings.rounds),
                "seconds": f"{self.settings.seconds:g}",
                "load": "perf_analyzer over gRPC, closed loop, variants in turn",
            },
            cases=tuple(case.info for case in self.cases),
            runs=tuple(self.runs),
            problems=tuple(self.problems),
        )

    def _case(self, case: Case, scratch: Path, done: int) -> None:
        total = self.settings.count(self.cases)
        self.progress(f"{case.name}: preparing", done, total)
        if case.prepare is not None:
            case.prepare()
        options = case.config.server
        self._installation = find_installation(options.server, release=options.container)
        turns = Turns(case, self.tool, scratch, self.note)
        try:
            turns.prepare([v for v in case.variants if self._there(case, v)])
            for number in range(self.settings.rounds):
                for level in self.settings.levels(case):
                    for variant in turns.order(number):
                        self.progress(f"{case.name} {variant.name} x{level}", done, total)
                        measured = turns.measure(variant, level, self.settings.seconds)
                        if measured is not None:
                            self.runs.append(_run(case, variant, level, number, measured))
                        done += 1
        finally:
            turns.stop()

    def _there(self, case: Case, variant: Variant) -> bool:
        """Whether the models of a variant are there, and a server that can load them."""
        repository = case.config.repository
        there = {name for g in (*NATIVE_GROUPS, PYTHON_GROUP) for name in models_in(repository / g)}
        missing = [m for m in (*variant.models, *variant.needs) if m not in there]
        where = f"{case.name} {variant.name}"
        if missing:
            hint = "run builder build first"
            if variant.name == PYTHON:
                hint = f"the twins are written by hand: is one missing in {repository / 'python'}?"
            what = f"there is no model {', '.join(missing)}"
            self.note(where, BuilderError(what, hint=hint))
            return False
        assert self._installation is not None
        if variant.name == TRT and not self._installation.has_backend("tensorrt"):
            self.note(where, f"the {self._installation.kind} server has no tensorrt backend")
            return False
        return True


def _run(case: Case, variant: Variant, level: int, number: int, measured: Measurement) -> Run:
    figures = measured.figures
    return Run(
        case=case.name,
        variant=variant.name,
        models=variant.models,
        concurrency=level,
        round=number,
        seconds=measured.seconds,
        requests=measured.requests,
        per_second=figures.per_second,
        p50_ms=figures.p50_ms,
        p90_ms=figures.p90_ms,
        p95_ms=figures.p95_ms,
        p99_ms=figures.p99_ms,
        stable=measured.stable,
        stages=measured.stages,
        usage=measured.usage,
    )

"""The variants of one case while they take turns."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from builder.bench.case import Case, Variant
from builder.bench.floor import measure_floor
from builder.bench.requests import write_requests
from builder.bench.served import CaseServer, Measurement, Prepared
from builder.bench.tool import PerfAnalyzer
from builder.errors import BuilderError

MOST_FAILURES = 2
"""A variant that failed this often in a case is not measured any more."""

Note = Callable[[str, BuilderError | str], None]


class Turns:
    """Starts what the variants need, measures one at a time, and survives what fails.

    Args:
        tool: perf_analyzer; without it only variants without a server can be measured.
        scratch: Folder for requests, and for what the load generators write.
        note: Told what could not be done: where, and why.
    """

    def __init__(self, case: Case, tool: PerfAnalyzer | None, scratch: Path, note: Note):
        self._case = case
        self._tool = tool
        self._scratch = scratch
        self._note = note
        self._servers: dict[str, CaseServer] = {}
        self._served: dict[str, Prepared] = {}
        self._files: dict[str, list[tuple[str, list[Path]]]] = {}
        self._failures: dict[str, int] = {}
        self._variants: list[Variant] = []

    def prepare(self, variants: Sequence[Variant]) -> None:
        """Start one server per `config_name`, write the requests, and see who answers."""
        by_config: dict[str, list[Variant]] = {}
        for variant in variants:
            if not variant.served:
                self._try(variant, partial(self._write_floor, variant))
            elif self._tool is not None:
                by_config.setdefault(variant.config_name, []).append(variant)
        for group in by_config.values():
            self._start(group)
        ready = {*self._served, *self._files}
        self._variants = [variant for variant in variants if variant.name in ready]

    def order(self, number: int) -> Iterator[Variant]:
        """The variants that are still measured, in the order of round `number`."""
        for variant in self._variants if number % 2 == 0 else reversed(self._variants):
            if self._failures.get(variant.name, 0) < MOST_FAILURES:
                yield variant

    def measure(self, variant: Variant, concurrency: int, seconds: float) -> Measurement | None:
        """One measurement; None if it failed, which is noted."""
        try:
            if not variant.served:
                return self._measure_floor(variant, concurrency, seconds)
            assert self._tool is not None
            return self._servers[variant.config_name].measure(
                self._tool,
                variant,
                self._served[variant.name],
                concurrency=concurrency,
                seconds=seconds,
                folder=self._scratch / "runs",
            )
        except BuilderError as error:
            self._failures[variant.name] = self._failures.get(variant.name, 0) + 1
            self._after_failure(variant, error)
            return None

    def stop(self) -> None:
        """Stop the servers."""
        for server in self._servers.values():
            server.stop()

    # -- what may fail

    def _where(self, variant: Variant) -> str:
        return f"{self._case.name} {variant.name}"

    def _try(self, variant: Variant, action: Callable[[], None]) -> None:
        try:
            action()
        except BuilderError as error:
            self._note(self._where(variant), error)

    def _start(self, group: Sequence[Variant]) -> None:
        name = group[0].config_name
        try:
            server = CaseServer(self._case, group)
            self._servers[name] = server
            server.start()
        except BuilderError as error:
            self._note(f"{self._case.name} server", error)
            return
        for variant in group:
            self._try(variant, partial(self._ask, server, variant))

    def _ask(self, server: CaseServer, variant: Variant) -> None:
        """Let the variant answer its first requests."""
        if reason := server.why_unusable(variant):
            self._note(self._where(variant), reason)
            return
        try:
            prepared = server.prepare(variant, self._scratch / "requests")
        except BuilderError:
            if reason := server.why_dead():
                self._note(self._where(variant), reason)
                server.start()
                return
            raise
        self._served[variant.name] = prepared

    def _after_failure(self, variant: Variant, error: BuilderError) -> None:
        """Note a failure; start the server again if it is what failed."""
        server = self._servers.get(variant.config_name) if variant.served else None
        reason = server.why_dead() if server is not None else None
        self._note(self._where(variant), reason or error)
        if server is None or reason is None:
            return
        try:
            server.start()
        except BuilderError as again:
            self._note(f"{self._case.name} server", again)
            for other in self._variants:
                if other.served and other.config_name == variant.config_name:
                    self._failures[other.name] = MOST_FAILURES

    # -- the floor

    def _write_floor(self, variant: Variant) -> None:
        self._files[variant.name] = [
            (load.model, write_requests(self._scratch / "floor" / str(n), list(load.requests())))
            for n, load in enumerate(variant.loads)
        ]

    def _measure_floor(self, variant: Variant, concurrency: int, seconds: float) -> Measurement:
        result = measure_floor(
            self._case.config.repository,
            self._files[variant.name],
            concurrency=concurrency,
            seconds=seconds,
            folder=self._scratch / "runs",
        )
        return Measurement(
            result.figures, result.seconds, result.requests, result.stable, usage=result.usage
        )

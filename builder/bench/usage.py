"""What the processes use while requests are answered, and whether the answers come steadily.

A thread looks a few times per second. Only the time between the first and the last answer
counts, so the start of the load generator is left out.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from builder.bench.processes import cpu_seconds, descendants, resident_mib, total
from builder.bench.results import Usage

STEADY_RATIO = 1.5
"""The best third of a run may answer this many times as much as the worst."""

_PARTS = 3
_FEWEST = 6
"""Answers per third below which their number says nothing about steadiness."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        at: Seconds on the monotonic clock.
        answered: Requests that were answered so far; None where the server did not say.
        server: CPU seconds so far; so for the other two.
    """

    at: float
    answered: int | None
    server: float | None = None
    stubs: float | None = None
    clients: float | None = None


class Sampler:
    """Looks at processes from entering to leaving the block.

    Args:
        server: Process id of the server; None where there is none on this machine.
        clients: Process ids of the load generators.
        answered: Says how many requests the server has answered; None where that is not known.
        period: Seconds between two looks.
    """

    def __init__(
        self,
        *,
        server: int | None,
        clients: Iterable[int],
        answered: Callable[[], int | None],
        period: float,
    ):
        self._server = server
        self._stubs = descendants(server) if server is not None else []
        self._clients = tuple(clients)
        self._answered = answered
        self._period = period
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="usage", daemon=True)
        self.samples: list[Sample] = []
        self._server_mib: float | None = None
        self._stub_mib: float | None = None

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            self.samples.append(self._look())
            if self._done.wait(self._period):
                break
        if self._server is not None:
            self._server_mib = resident_mib(self._server)
            self._stub_mib = total(map(resident_mib, self._stubs))

    def _look(self) -> Sample:
        def cpu(pids: Iterable[int]) -> float | None:
            return total(map(cpu_seconds, pids))

        server = None if self._server is None else cpu_seconds(self._server)
        answered = self._answered()
        return Sample(time.monotonic(), answered, server, cpu(self._stubs), cpu(self._clients))

    @property
    def busy(self) -> list[Sample]:
        """The samples from the first to the last answer."""
        return busy_part(self.samples)

    @property
    def seconds(self) -> float:
        """From the first to the last answer."""
        busy = self.busy
        return busy[-1].at - busy[0].at if busy else 0.0

    @property
    def answered(self) -> int:
        """Requests answered in that time."""
        busy = self.busy
        return (busy[-1].answered or 0) - (busy[0].answered or 0) if busy else 0

    @property
    def steady(self) -> bool:
        """Whether the throughput was about the same in each third of that time."""
        points = [(s.at, s.answered) for s in self.busy if s.answered is not None]
        return steady(points)

    @property
    def middle_rate(self) -> float | None:
        """Answers per second in the middle half of that time; None where too little is known."""
        return middle_rate([(s.at, s.answered) for s in self.busy if s.answered is not None])

    def usage(self) -> Usage:
        """CPU and memory in that time."""
        busy = self.busy
        if not busy:
            return Usage(server_mib=self._server_mib, stub_mib=self._stub_mib)

        def cores(name: str) -> float | None:
            known = [(s.at, float(v)) for s in busy if (v := getattr(s, name)) is not None]
            if len(known) < 2 or known[-1][0] == known[0][0]:
                return None
            # Of processes that have ended, nothing can be read: the sum then goes down.
            used = max(value for _, value in known) - known[0][1]
            return used / (known[-1][0] - known[0][0])

        return Usage(
            server_cores=cores("server"),
            stub_cores=cores("stubs"),
            client_cores=cores("clients"),
            server_mib=self._server_mib,
            stub_mib=self._stub_mib,
        )


def busy_part(samples: list[Sample]) -> list[Sample]:
    """The samples from the first to the last answer; none where too little is known."""
    known = [sample for sample in samples if sample.answered is not None]
    if not known or known[0].answered == known[-1].answered:
        return []
    first = next(i for i, s in enumerate(known) if s.answered != known[0].answered)
    last = next(i for i, s in enumerate(known) if s.answered == known[-1].answered)
    # The first change lies between two looks; the second of them is surely within the load.
    return known[first : last + 1] if last > first else known[first - 1 : last + 1]


def steady(points: list[tuple[float, int]]) -> bool:
    """Whether a counter grew at about the same rate in each third of the time.

    Args:
        points: Time and count, rising. The count between two points is interpolated.
    """
    if len(points) <= _PARTS or points[-1][1] - points[0][1] < _PARTS * _FEWEST:
        return True  # too little to tell
    start, end = points[0][0], points[-1][0]
    marks = [start + (end - start) * part / _PARTS for part in range(_PARTS + 1)]
    counts = [_at(points, mark) for mark in marks]
    grown = [b - a for a, b in itertools.pairwise(counts)]
    return max(grown) <= STEADY_RATIO * min(grown)


def middle_rate(points: list[tuple[float, int]]) -> float | None:
    """How fast a counter grew in the middle half of the time, in 1/s; None of too few points.

    Args:
        points: Time and count, rising. The count between two points is interpolated.
    """
    if len(points) < _PARTS or points[-1][0] <= points[0][0]:
        return None
    quarter = (points[-1][0] - points[0][0]) / 4
    start, end = points[0][0] + quarter, points[-1][0] - quarter
    return (_at(points, end) - _at(points, start)) / (end - start)


def _at(points: list[tuple[float, int]], when: float) -> float:
    for (t0, c0), (t1, c1) in itertools.pairwise(points):
        if t0 <= when <= t1:
            return c0 + (c1 - c0) * (when - t0) / (t1 - t0) if t1 > t0 else float(c0)
    return float(points[-1][1])

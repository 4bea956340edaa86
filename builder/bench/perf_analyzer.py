"""Running perf_analyzer over a fixed time, and reading the CSV that it writes.

Its own criterion of stability need never be met on a shared machine, so it is told to accept
whatever three measurement windows give, and the same time goes to every variant. Whether the
throughput was steady is judged apart from it, from the server's own counters.
"""

import contextlib
import csv
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.bench.tool import PerfAnalyzer
from builder.errors import ServerError, from_os_error

WINDOWS = 3
"""Windows that it needs at least; their figures are merged."""

STRETCH = 1.2
"""It waits this much longer than a window is said to last."""

_ANY_SPREAD = "1000000"
_OPTION_ERROR = 3
_START_SECONDS = 30.0
_COLUMNS = {
    "per_second": "Inferences/Second",
    "p50_us": "p50 latency",
    "p90_us": "p90 latency",
    "p95_us": "p95 latency",
    "p99_us": "p99 latency",
}


class LoadError(ServerError):
    """The load generator failed, or gave no figures."""


class OptionError(LoadError):
    """It refused its options: the window, for one, if no answer fell into it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process of perf_analyzer measured; latencies in milliseconds."""

    per_second: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float


def read_csv(path: Path) -> Figures:
    """The figures in the CSV of one run.

    Raises:
        LoadError: There is no such file, or not the line of one run in it.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(line for line in file if line.strip()))
        [row] = rows
        values = {name: float(row[column]) for name, column in _COLUMNS.items()}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise LoadError(
            f"wrote no figures that can be read: {error!r}",
            where="perf_analyzer",
            hint="is the disk full, or this a version with another format?",
        ) from error
    return Figures(
        values["per_second"],
        *(values[f"p{part}_us"] / 1e3 for part in (50, 90, 95, 99)),
    )


def merge(parts: Sequence[Figures]) -> Figures:
    """Several load generators that ran at the same time, as one.

    Throughputs add up, as far as they really ran at the same time. A percentile is the mean of
    theirs, weighted with their throughputs: the programs do not give single latencies.
    """
    total = sum(part.per_second for part in parts)

    def mean(name: str) -> float:
        weighted = sum(float(getattr(part, name)) * part.per_second for part in parts)
        return weighted / total if total else 0.0

    return Figures(total, mean("p50_ms"), mean("p90_ms"), mean("p95_ms"), mean("p99_ms"))


class LoadGenerators:
    """Processes of perf_analyzer that run at the same time, one per model.

    Args:
        tool: The program.
        url: gRPC endpoint of the server.
        targets: Model and its `--input-data`, for each process.
        concurrency: Of each process.
        window: Seconds of each of the `WINDOWS`.
        folder: For what they write.

    Raises:
        LoadError: The program cannot be started.
    """

    def __init__(
        self,
        tool: PerfAnalyzer,
        url: str,
        targets: Sequence[tuple[str, Path]],
        *,
        concurrency: int,
        window: float,
        folder: Path,
    ):
        self._window = window
        self._processes: list[subprocess.Popen[bytes]] = []
        self._reports: list[Path] = []
        self._outputs: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number, (model, data) in enumerate(targets):
                report, output = folder / f"{number}.csv", folder / f"{number}.txt"
                report.unlink(missing_ok=True)
                self._reports.append(report)
                self._outputs.append(output)
                command = arguments(model, url, data, concurrency, window, report)
                with output.open("wb") as file:
                    self._processes.append(_start(tool, command, file))
        except OSError as error:
            self.kill()
            raise from_os_error(error, "starting perf_analyzer", folder) from error
        except BaseException:
            self.kill()
            raise

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [process.pid for process in self._processes]

    @property
    def running(self) -> bool:
        """Whether any is not done."""
        return any(process.poll() is None for process in self._processes)

    def wait(self, slack: float) -> Figures:
        """Wait for all and merge their figures.

        Args:
            slack: Seconds that requests may take beyond the windows.

        Raises:
            OptionError: One says that its options are wrong.
            LoadError: One failed, takes too long, or gave no figures.
        """
        limit = _START_SECONDS + 2 * WINDOWS * STRETCH * self._window + slack
        deadline = time.monotonic() + limit
        try:
            for number, process in enumerate(self._processes):
                try:
                    status = process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise LoadError(
                        f"was not done after {limit:.0f} s; its last words: {self._said(number)}",
                        where="perf_analyzer",
                        hint="does the model answer at all? try a longer --seconds",
                    ) from None
                if status != 0:
                    kind = OptionError if status == _OPTION_ERROR else LoadError
                    what = f"failed with status {status}: {self._said(number)}"
                    raise kind(what, where="perf_analyzer")
        finally:
            self.kill()
        return merge([read_csv(report) for report in self._reports])

    def kill(self) -> None:
        """End what still runs."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _said(self, number: int) -> str:
        """The last lines that matter."""
        with contextlib.suppress(OSError):
            text = self._outputs[number].read_text(encoding="utf-8", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return " ".join(lines[-3:])[-500:] or "nothing"
        return "nothing"


def arguments(
    model: str, url: str, data: Path, concurrency: int, window: float, report: Path
) -> list[str]:
    """The command line of one process."""
    return [
        *("-m", model, "-u", url, "-i", "grpc", "--input-data", str(data)),
        *("--concurrency-range", str(concurrency), "--max-threads", str(max(16, concurrency))),
        *("--measurement-interval", str(round(window * 1000))),
        *("--stability-percentage", _ANY_SPREAD, "--max-trials", str(WINDOWS)),
        *("-f", str(report), "--verbose-csv"),
    ]


def _start(
    tool: PerfAnalyzer, command: Sequence[str], output: IO[bytes]
) -> "subprocess.Popen[bytes]":
    # In a group of its own: Ctrl-C is for the builder, which then ends it.
    return subprocess.Popen(
        [str(tool.program), *command],
        env=tool.environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        process_group=0,
    )

"""The floor: the same requests to ONNX Runtime in a process of its own, without a server.

    python -m builder.bench.floor SPEC.json RESULT.json

runs it in a child process: the load is in the same place as the networks, on as many threads as
there would be clients.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.bench.perf_analyzer import Figures, LoadError
from builder.bench.processes import cpu_seconds
from builder.bench.requests import read_request
from builder.bench.results import Usage
from builder.bench.usage import steady
from builder.errors import from_os_error
from builder.stage import Arrays

if TYPE_CHECKING:
    import numpy as np

_START_SECONDS = 120.0
_TICKS = 30
"""Points in time at which the answers are counted, to see whether they come steadily."""

_SWITCH_SECONDS = 5e-5


@dataclass(frozen=True, slots=True)
class FloorResult:
    """What the loop measured."""

    figures: Figures
    seconds: float
    requests: int
    stable: bool
    usage: Usage


def measure_floor(
    repository: Path,
    loads: Sequence[tuple[str, Sequence[Path]]],
    *,
    concurrency: int,
    seconds: float,
    folder: Path,
) -> FloorResult:
    """Run the loop in a child process.

    Args:
        repository: The model repository, with its groups.
        loads: Model and files of its requests.
        concurrency: Threads, shared among the loads.
        seconds: How long to measure; every thread ends at least one request.
        folder: For what is exchanged with the child.

    Raises:
        LoadError: The child failed, or takes too long.
    """
    spec, result = folder / "floor.json", folder / "floor-result.json"
    listed = [[model, [str(path) for path in paths]] for model, paths in loads]
    document = {"repository": str(repository), "loads": listed, "threads": concurrency}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        spec.write_text(json.dumps({**document, "seconds": seconds}), encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, "writing", spec) from error
    child = subprocess.Popen(
        [sys.executable, "-m", "builder.bench.floor", str(spec), str(result)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    limit = _START_SECONDS + 10 * seconds
    try:
        _, said = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"was not done after {limit:.0f} s", where="floor") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode != 0:
        lines = said.decode(errors="replace").strip().splitlines()
        reason = " ".join(lines[-3:])[-500:] or f"exit status {child.returncode}"
        raise LoadError(f"failed: {reason}", where="floor")
    try:
        data = json.loads(result.read_text(encoding="utf-8"))
        return FloorResult(
            Figures(**data["figures"]),
            data["seconds"],
            data["requests"],
            data["stable"],
            Usage(client_cores=data["cores"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"left no figures: {error!r}", where="floor") from error


def loop(
    repository: Path, loads: Sequence[tuple[str, Sequence[Path]]], threads: int, seconds: float
) -> dict[str, object]:
    """Run the requests on several threads and return what `measure_floor` reads."""
    import numpy as np

    from builder.bench.in_process import load

    models = [(load(repository, name), list(map(_inputs, paths))) for name, paths in loads]
    for model, requests in models:
        for request in requests[:2]:
            model.run(request)
    latencies: list[list[float]] = [[] for _ in range(threads)]
    failures: list[BaseException] = []
    # A thread that comes back from ONNX Runtime must not wait 5 ms for the interpreter.
    sys.setswitchinterval(_SWITCH_SECONDS)
    barrier = threading.Barrier(threads + 1)
    end = [0.0]

    def work(number: int) -> None:
        model, requests = models[number % len(models)]
        turn, mine = number, latencies[number]
        barrier.wait()
        try:
            while (start := time.perf_counter()) < end[0]:
                model.run(requests[turn % len(requests)])
                mine.append(time.perf_counter() - start)
                turn += 1
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    cpu = cpu_seconds(os.getpid()) or 0.0
    end[0] = time.perf_counter() + seconds
    start = time.perf_counter()
    barrier.wait()
    points = []
    while any(worker.is_alive() for worker in workers):
        points.append((time.perf_counter(), sum(map(len, latencies))))
        time.sleep(seconds / _TICKS)
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - start
    if failures:
        raise failures[0]
    took = np.concatenate(latencies)
    parts = {f"p{p}_ms": float(np.percentile(took, p)) * 1e3 for p in (50, 90, 95, 99)}
    return {
        "figures": {"per_second": len(took) / elapsed, **parts},
        "seconds": elapsed,
        "requests": len(took),
        "stable": steady(points),
        "cores": ((cpu_seconds(os.getpid()) or 0.0) - cpu) / elapsed,
    }


def _inputs(path: Path) -> Arrays:
    """A request as ONNX Runtime wants it: strings as str."""
    import numpy as np

    def strings(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        texts = [bytes(text).decode() for text in array.reshape(-1)]
        return np.array(texts, object).reshape(array.shape)

    arrays = read_request(path)
    return {name: strings(a) if a.dtype == object else a for name, a in arrays.items()}


def main() -> None:
    """The child process."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    loads = [(model, [Path(path) for path in paths]) for model, paths in spec["loads"]]
    document = loop(Path(spec["repository"]), loads, spec["threads"], spec["seconds"])
    Path(sys.argv[2]).write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()

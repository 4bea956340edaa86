"""A hundred thousand requests of every sort must not make the server grow."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_client import grpc_inputs
from native_models import Zoo, good_models
from tritonclient.utils import InferenceServerException

from builder.serving import native_build
from builder.serving.server import TritonServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

THREADS = 4
WARM_UP = 10_000
REQUESTS = 100_000
ALLOWED_MIB = 8


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def batched(client: Any, generator: np.random.Generator, _: int) -> bool:
    x = generator.normal(size=(generator.integers(1, 4), generator.integers(1, 50), 3)).astype("f4")
    y = client.infer("running_sum", grpc_inputs({"x": x})).as_numpy("y")
    return np.allclose(y, np.cumsum(x, axis=1), atol=1e-4)


def in_place(client: Any, generator: np.random.Generator, _: int) -> bool:
    x = generator.normal(size=(generator.integers(0, 200), 25)).astype("f4")
    return np.array_equal(client.infer("affine", grpc_inputs({"x": x})).as_numpy("y"), 2 * x + 1)


def often_refused(client: Any, generator: np.random.Generator, _: int) -> bool:
    index = int(generator.integers(0, 20))
    data = grpc_inputs({"index": np.array([[index]], np.int64)})
    try:
        return client.infer("lookup_alone", data).as_numpy("y")[0, 0] == 100 * index
    except InferenceServerException:
        return index > 9


def strings(client: Any, generator: np.random.Generator, _: int) -> bool:
    x = np.array([["a" * n for n in generator.integers(0, 300, 3)]], dtype=np.object_)
    y = client.infer("exclaim", grpc_inputs({"x": x})).as_numpy("y")
    return [text.decode() for text in y[0]] == [text + "!" for text in x[0]]


def sequence(client: Any, _: np.random.Generator, number: int) -> bool:
    data = grpc_inputs({"x": np.array([[number % 7]], np.float32)})
    options = {"sequence_id": number + 1, "sequence_start": True, "sequence_end": True}
    return client.infer("sequence_oldest", data, **options).as_numpy("sum")[0, 0] == number % 7


SORTS: list[Callable[[Any, np.random.Generator, int], bool]] = [
    batched,
    in_place,
    often_refused,
    strings,
    sequence,
]


@pytest.mark.timeout(1200)
def test_memory_stays_flat(native_backends: Path, tmp_path: Path) -> None:
    import tritonclient.grpc

    zoo = Zoo(tmp_path / "repository")
    good_models(zoo)
    with TritonServer(
        [zoo.root],
        backend_directory=native_backends,
        log_level="error",
        log_file=tmp_path / "log",
        extra_args=native_build.server_args(),
    ) as server:

        def wrong(thread: int, first: int, count: int) -> int:
            generator = np.random.default_rng(first + thread)
            with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
                numbers = range(first + thread, first + count, THREADS)
                return sum(
                    not SORTS[n // THREADS % len(SORTS)](client, generator, n) for n in numbers
                )

        def send(first: int, count: int) -> int:
            with ThreadPoolExecutor(THREADS) as pool:
                return sum(pool.map(lambda thread: wrong(thread, first, count), range(THREADS)))

        assert send(0, WARM_UP) == 0
        before = resident_mib(server.pid)
        assert send(WARM_UP, REQUESTS) == 0
        assert resident_mib(server.pid) - before < ALLOWED_MIB

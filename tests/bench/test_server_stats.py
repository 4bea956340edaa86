"""The server's counters, with the protocol's own messages."""

from typing import Any

import pytest
from tritonclient.grpc.service_pb2 import ModelStatistics

from builder.bench.server_stats import Counters, failures, stage_shares


def _entry(requests: int, each_us: int, *, executions: int, sizes: dict[int, int]) -> Any:
    entry = ModelStatistics(name="m", inference_count=requests, execution_count=executions)
    stats = entry.inference_stats
    stats.success.count = requests
    for name in ("queue", "compute_input", "compute_infer", "compute_output"):
        getattr(stats, name).count = requests
        getattr(stats, name).ns = requests * each_us * 1000
    for size, count in sizes.items():
        batch = entry.batch_stats.add(batch_size=size)
        batch.compute_infer.count = count
    return entry


def _counters(*entries: Any) -> Counters:
    counters = Counters()
    for entry in entries:
        counters.add(entry)
    return counters


def test_only_what_happened_in_between_counts() -> None:
    early = _entry(100, 50, executions=100, sizes={1: 100})
    late = _entry(100, 50, executions=100, sizes={1: 110, 4: 10})
    late.inference_count, late.execution_count = 150, 120
    late.inference_stats.success.count = 150
    late.inference_stats.queue.count = 150
    late.inference_stats.queue.ns += 50 * 300 * 1000
    [share] = stage_shares({"m": _counters(early)}, {"m": _counters(late)})
    assert (share.inferences, share.executions) == (50, 20)
    assert share.queue_us == pytest.approx(300)
    assert share.compute_us == 0
    assert share.batch_sizes == {"1": 10, "4": 10}


def test_versions_of_a_model_are_added_up() -> None:
    one = _entry(10, 100, executions=10, sizes={1: 10})
    two = _entry(30, 200, executions=15, sizes={2: 15})
    [share] = stage_shares({}, {"m": _counters(one, two)})
    assert (share.inferences, share.executions) == (40, 25)
    assert share.compute_us == pytest.approx(175)
    assert share.batch_sizes == {"1": 10, "2": 15}


def test_idle_models_are_left_out() -> None:
    same = {"m": _counters(_entry(5, 10, executions=5, sizes={1: 5}))}
    assert stage_shares(same, same) == ()


def test_failed_requests_are_counted() -> None:
    entry = _entry(5, 10, executions=5, sizes={})
    entry.inference_stats.fail.count = 3
    assert failures({}, {"m": _counters(entry)}) == 3

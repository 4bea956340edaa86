"""Requests that share a run, and what becomes of a bad one among them."""

import queue
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from native_client import Native, grpc_inputs
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.e2e


def send_together(
    native: Native, model: str, batches: list[dict[str, np.ndarray]], **options: Any
) -> list[Any]:
    """Answers or errors, in order, of requests that were sent without waiting for one another."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()

    def arrived(i: int) -> Any:
        return lambda result, error: answers.put((i, error or result))

    for i, arrays in enumerate(batches):
        native.grpc.async_infer(model, grpc_inputs(arrays), arrived(i), **options)
    got = dict(answers.get(timeout=60) for _ in batches)
    return [got[i] for i in range(len(batches))]


def executions(native: Native, model: str) -> Counter[int]:
    """How often the model has run, by batch size."""
    stats = native.grpc.get_inference_statistics(model).model_stats[0]
    return Counter({b.batch_size: b.compute_infer.count for b in stats.batch_stats})


def test_random_lengths_under_concurrency_all_answers_right(native: Native) -> None:
    generator = np.random.default_rng(3)
    requests = [
        generator.normal(size=(generator.integers(1, 4), generator.integers(1, 12), 3)).astype("f4")
        for _ in range(600)
    ]

    def wrong(x: np.ndarray) -> bool:
        result = native.infer("running_sum", {"x": x})
        expected = np.cumsum(x, axis=1)
        return not (
            np.allclose(result.as_numpy("y"), expected, atol=1e-5)
            and np.allclose(result.as_numpy("last"), expected[:, -1], atol=1e-5)
        )

    before = sum(executions(native, "running_sum").values())
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(wrong, requests)) == 0
    runs = sum(executions(native, "running_sum").values()) - before
    assert runs < len(requests), "no two requests ever shared a run"


def test_a_batch_is_scattered_to_the_requests_it_came_from(native: Native) -> None:
    before = executions(native, "lookup")
    answers = send_together(
        native, "lookup", [{"index": np.array([[i]], np.int64)} for i in range(8)]
    )
    assert [float(a.as_numpy("y")[0, 0]) for a in answers] == [100.0 * i for i in range(8)]
    assert executions(native, "lookup") - before == Counter({8: 1})


def test_a_bad_request_in_a_batch_fails_alone(native: Native) -> None:
    before = executions(native, "lookup")
    indices = [0, 1, 2, 99, 4, 5, 6, 7]
    answers = send_together(
        native, "lookup", [{"index": np.array([[i]], np.int64)} for i in indices]
    )
    assert isinstance(answers[3], InferenceServerException)
    assert "lookup" in str(answers[3])
    assert "99" in str(answers[3])
    good = [answers[i] for i in (0, 1, 2, 4, 5, 6, 7)]
    assert [float(a.as_numpy("y")[0, 0]) for a in good] == [0, 100, 200, 400, 500, 600, 700]
    # The batch of eight failed; then the seven good ones ran one by one.
    assert executions(native, "lookup") - before == Counter({1: 7})


def test_requests_of_one_batch_may_ask_for_different_outputs(native: Native) -> None:
    import tritonclient.grpc as client

    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    for i in range(8):
        native.grpc.async_infer(
            "lookup",
            grpc_inputs({"index": np.array([[i]], np.int64)}),
            lambda result, error, i=i: answers.put((i, error or result)),
            outputs=[client.InferRequestedOutput("y" if i % 2 else "safe")],
        )
    for i, answer in (answers.get(timeout=60) for _ in range(8)):
        assert answer.as_numpy("safe" if i % 2 else "y") is None
        value = answer.as_numpy("y" if i % 2 else "safe")
        assert float(value[0, 0]) == (100.0 * i if i % 2 else 2 * i)


def test_ragged_requests_in_one_batch_run_apart(native: Native) -> None:
    requests = [np.full((1, 1 + i % 3, 3), i, np.float32) for i in range(8)]
    before = executions(native, "ragged")
    answers = send_together(native, "ragged", [{"x": x} for x in requests])
    for x, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer.as_numpy("y"), np.cumsum(x, axis=1))
    # Lengths 1, 2, 3, 1, 2, 3, 1, 2: three runs.
    assert executions(native, "ragged") - before == Counter({3: 2, 2: 1})


@pytest.mark.parametrize("model", ["instances", "shared", "tuned", "affine"])
def test_instances_answer_at_once_and_right(native: Native, model: str) -> None:
    generator = np.random.default_rng(5)
    requests = [
        generator.normal(size=(generator.integers(1, 40), 25)).astype("f4") for _ in range(200)
    ]

    def wrong(x: np.ndarray) -> bool:
        result = native.infer(model, {"x": x})
        y = 2 * x + 1
        return not (
            np.array_equal(result.as_numpy("y"), y)
            and np.allclose(result.as_numpy("total"), y.sum(), rtol=1e-4, atol=1e-3)
        )

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(wrong, requests)) == 0


def test_statistics_count_requests_rows_and_time(native: Native) -> None:
    for _ in range(5):
        native.infer("counted", {"x": np.ones((4, 25), np.float32)})
    stats = native.grpc.get_inference_statistics("counted").model_stats[0]
    assert stats.inference_count == 5
    assert stats.execution_count == 5
    assert stats.inference_stats.success.count == 5
    assert stats.inference_stats.fail.count == 0
    parts = stats.inference_stats
    for part in (parts.queue, parts.compute_input, parts.compute_infer, parts.compute_output):
        assert part.count == 5
    assert 0 < parts.compute_infer.ns <= parts.success.ns
    total = parts.queue.ns + parts.compute_input.ns + parts.compute_infer.ns
    assert total + parts.compute_output.ns <= parts.success.ns


def test_the_response_cache_answers_in_place_of_the_model(native: Native) -> None:
    x = np.random.default_rng(9).normal(size=(3, 25)).astype("f4")
    for _ in range(3):
        np.testing.assert_array_equal(native.infer("cached", {"x": x}).as_numpy("y"), 2 * x + 1)
    stats = native.grpc.get_inference_statistics("cached").model_stats[0]
    assert stats.execution_count == 1
    assert stats.inference_stats.cache_hit.count == 2


def test_a_request_cancelled_in_the_queue_does_not_run(native: Native) -> None:
    data = grpc_inputs({"x": np.ones((1200, 1200), np.float32)})
    answers: queue.Queue[Any] = queue.Queue()

    def arrived(result: Any, error: Any) -> None:
        answers.put(error or result)

    before = 4  # so that the instance is busy for long enough on any machine
    for _ in range(before):
        native.grpc.async_infer("slow", data, arrived)
    time.sleep(0.1)
    last = native.grpc.async_infer("slow", data, arrived)
    time.sleep(0.25)  # it has to be in the server's queue by now
    last.cancel()
    got = [answers.get(timeout=60) for _ in range(before + 1)]
    assert sum(isinstance(answer, InferenceServerException) for answer in got) == 1
    deadline = time.monotonic() + 10
    while True:
        stats = native.grpc.get_inference_statistics("slow").model_stats[0]
        if stats.inference_stats.fail.count or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert stats.inference_stats.fail.count == 1
    assert stats.execution_count == before


def test_statistics_count_failures(native: Native) -> None:
    def failures() -> int:
        stats = native.grpc.get_inference_statistics("lookup_alone").model_stats[0]
        return stats.inference_stats.fail.count

    before = failures()
    with pytest.raises(InferenceServerException):
        native.infer("lookup_alone", {"index": np.array([[-77]], np.int64)})
    assert failures() == before + 1

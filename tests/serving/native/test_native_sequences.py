"""Implicit state of sequences."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from native_client import Native

pytestmark = pytest.mark.e2e


def run_sequences(native: Native, model: str, sequences: Sequence[Sequence[float]]) -> list[list]:
    """Feeds the sequences step by step, interleaved, and returns the sums."""
    sums: list[list[float]] = [[] for _ in sequences]
    for step in range(max(map(len, sequences))):
        for i, values in enumerate(sequences):
            if step >= len(values):
                continue
            result = native.infer(
                model,
                {"x": np.array([[values[step]]], np.float32)},
                sequence_id=1000 + i,
                sequence_start=step == 0,
                sequence_end=step == len(values) - 1,
            )
            sums[i].append(float(result.as_numpy("sum")[0, 0]))
    return sums


@pytest.mark.parametrize("model", ["sequence_oldest", "sequence_direct"])
def test_interleaved_sequences_keep_their_own_state(native: Native, model: str) -> None:
    sequences = [[1, 2, 3, 4], [10, 20], [0.5, 0.25, 0.125]]
    for _ in range(2):  # the second time round every sequence starts afresh
        sums = run_sequences(native, model, sequences)
        assert sums == [list(np.cumsum(values)) for values in sequences]


def test_initial_state_from_a_file(native: Native) -> None:
    assert run_sequences(native, "sequence_file", [[1, 2], [5]]) == [[11, 13], [15]]


def test_the_state_is_no_output(native: Native) -> None:
    result = native.infer(
        "sequence_oldest",
        {"x": np.ones((1, 1), np.float32)},
        sequence_id=77,
        sequence_start=True,
        sequence_end=True,
    )
    assert result.as_numpy("state_out") is None


def test_a_state_that_grows_from_step_to_step(native: Native) -> None:
    def wrong(sequence_id: int) -> bool:
        values = [float(sequence_id + step) for step in range(6)]
        for step, value in enumerate(values):
            y = native.infer(
                "sequence_growing",
                {"x": np.array([[value]], np.float32)},
                sequence_id=sequence_id,
                sequence_start=step == 0,
                sequence_end=step == len(values) - 1,
            ).as_numpy("y")
            if y.tolist() != [[0.0, *values[: step + 1]]]:
                return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(wrong, range(5000, 5040))) == 0


@pytest.mark.parametrize("model", ["sequence_oldest", "sequence_direct"])
def test_sequences_that_share_batches_keep_their_own_state(native: Native, model: str) -> None:
    def wrong(sequence_id: int) -> bool:
        values = np.random.default_rng(sequence_id).integers(0, 100, 12)
        sums = [
            native.infer(
                model,
                {"x": np.array([[value]], np.float32)},
                sequence_id=sequence_id,
                sequence_start=step == 0,
                sequence_end=step == len(values) - 1,
            ).as_numpy("sum")[0, 0]
            for step, value in enumerate(values)
        ]
        return sums != list(np.cumsum(values))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(wrong, range(9000, 9060))) == 0
    stats = native.grpc.get_inference_statistics(model).model_stats[0]
    assert max(batch.batch_size for batch in stats.batch_stats) > 1

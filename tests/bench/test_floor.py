"""The loop without a server computes what was proven when the models were built."""

from pathlib import Path

import numpy as np
import pytest

from builder.bench.floor import measure_floor
from builder.bench.in_process import load
from builder.bench.perf_analyzer import LoadError
from builder.bench.requests import write_requests
from builder.config import Config
from builder.errors import PipelineError
from builder.golden import GOLDEN, read_golden


def _compare(repository: Path, name: str) -> None:
    inputs, expected = read_golden(repository / "ensemble" / name / "1" / GOLDEN)
    feed = {
        key: np.array([[bytes(t).decode() for t in row] for row in array], object)
        if array.dtype == object
        else array
        for key, array in inputs.items()
    }
    tensors = load(repository, name).run(feed)
    for key, array in expected.items():
        if array.dtype == np.uint8:  # one of 255 levels, as for the served pipeline
            assert np.abs(tensors[key].astype(int) - array.astype(int)).max() <= 1
        else:
            np.testing.assert_allclose(tensors[key], array, atol=1e-4)


def test_a_pipeline_gives_the_golden_answer(few: Config) -> None:
    _compare(few.repository, "multi_detector")


def test_a_pipeline_with_batches_and_strings_gives_the_golden_answer(built: Config) -> None:
    _compare(built.repository, "flux_schnell")


def test_the_session_has_the_threads_of_the_served_model(few: Config) -> None:
    [step] = load(few.repository, "SMAP_A-1").steps
    options = step.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_the_loop_runs_in_a_child_and_counts_every_answer(few: Config, tmp_path: Path) -> None:
    request = {"input_data": np.zeros((100, 25), np.float32)}
    loads = [(f"SMAP_A-{n}", write_requests(tmp_path / str(n), [request, request])) for n in (1, 2)]
    result = measure_floor(
        few.repository, loads, concurrency=4, seconds=0.5, folder=tmp_path / "run"
    )
    assert result.seconds >= 0.5
    assert result.figures.per_second == pytest.approx(result.requests / result.seconds)
    assert result.figures.p50_ms <= result.figures.p90_ms <= result.figures.p99_ms
    # Four threads: together they have at most 4 s per second for their requests.
    assert result.requests * result.figures.p50_ms / 1e3 < 2 * 4 * result.seconds
    assert 0 < (result.usage.client_cores or 0) < 5


def test_a_failure_in_the_child_is_named(few: Config, tmp_path: Path) -> None:
    [path] = write_requests(tmp_path / "r", [{"input_data": np.zeros((9, 24), np.float32)}])
    with pytest.raises(LoadError, match="dim"):
        measure_floor(
            few.repository,
            [("SMAP_A-1", [path])],
            concurrency=2,
            seconds=0.2,
            folder=tmp_path / "run",
        )


def test_a_model_of_another_backend_has_no_floor(few: Config) -> None:
    with pytest.raises(PipelineError, match="not by onnxruntime"):
        load(few.repository, "omnianomaly_py")

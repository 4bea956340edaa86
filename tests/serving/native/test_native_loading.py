"""What a configuration may leave out, and what a model that cannot be loaded is told."""

import numpy as np
import pytest
from native_client import Native

from builder.serving.states import ModelState

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def failures(native: Native) -> dict[str, ModelState]:
    return {state.name: state for state in native.server.failures()}


def test_only_the_bad_models_fail(native: Native, failures: dict[str, ModelState]) -> None:
    assert sorted(failures) == sorted(native.bad)


@pytest.mark.parametrize(
    "model",
    [
        "bad_truncated",
        "bad_empty",
        "bad_text",
        "bad_missing",
        "bad_dims",
        "bad_rank",
        "bad_type",
        "bad_input",
        "bad_output",
        "bad_level",
        "bad_threads",
        "bad_operator",
        "bad_library",
        "bad_batch_input",
    ],
)
def test_a_bad_model_is_told_why(
    native: Native, failures: dict[str, ModelState], model: str
) -> None:
    reason = failures[model].reason
    assert f"'{model}'" in reason
    for word in native.bad[model]:
        assert word in reason, reason


def config(native: Native, model: str):
    return native.grpc.get_model_config(model).config


def test_a_shared_first_symbol_is_a_batch_dim(native: Native) -> None:
    completed = config(native, "auto_batched")
    assert completed.max_batch_size == 4
    assert completed.HasField("dynamic_batching")
    assert list(completed.input[0].dims) == [4]
    x = np.random.default_rng(2).normal(size=(3, 4)).astype("f4")
    np.testing.assert_array_equal(native.infer("auto_batched", {"x": x}).as_numpy("y"), x)


def test_different_first_symbols_are_no_batch_dim(native: Native) -> None:
    completed = config(native, "auto_series")
    assert completed.max_batch_size == 0
    assert list(completed.input[0].dims) == [-1, 2]
    x = np.ones((3, 2), np.float32)
    assert native.infer("auto_series", {"x": x}).as_numpy("y").shape == (6, 2)


def test_a_scalar_becomes_one_element(native: Native) -> None:
    completed = config(native, "auto_scalar")
    assert list(completed.input[1].dims) == [1]
    assert list(completed.output[0].dims) == [1]
    data = {"x": np.arange(5, dtype=np.float32), "factor": np.array([3], np.float32)}
    assert native.infer("auto_scalar", data).as_numpy("y").tolist() == [30.0]


def test_dims_that_count_every_dim_mean_no_batching(native: Native) -> None:
    assert config(native, "auto_by_rank").max_batch_size == 0


def test_missing_types_and_dims_are_filled_in(native: Native) -> None:
    completed = config(native, "auto_types")
    assert completed.input[0].data_type == 11  # TYPE_FP32
    assert list(completed.input[0].dims) == [-1, 25]
    assert [output.name for output in completed.output] == ["y"]
    odd = {key: value.string_value for key, value in completed.parameters.items()}
    assert odd == {'k"e\\y \n': "ü\t\x01/\U0001f6f0"}


def test_an_unknown_parameter_is_mentioned(native: Native) -> None:
    assert "parameter 'no_such_parameter' is unknown" in native.log.read_text()

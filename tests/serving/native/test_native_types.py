"""Every element type, with and without a batch dim, through both protocols."""

import ml_dtypes
import numpy as np
import pytest
from native_client import Native, grpc_inputs
from native_models import DTYPES

pytestmark = pytest.mark.e2e

NUMPY = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "STRING": np.object_,
}


def example(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.default_rng(7)
    if dtype == "STRING":
        words = np.array([b"", b"a", "Füße".encode(), b"x" * 300, b"\x00\xff"], dtype=np.object_)
        return words[generator.integers(0, len(words), shape)]
    kind = np.dtype(NUMPY.get(dtype, dtype.lower()))
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return generator.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    if kind.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    return generator.normal(size=shape).astype(kind)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", ["identity", "plain"])
@pytest.mark.parametrize("length", [0, 1, 17])
def test_returns_what_it_was_given(native: Native, dtype: str, model: str, length: int) -> None:
    data = example(dtype, (2, length))
    sent = "BYTES" if dtype == "STRING" else dtype
    result = native.grpc.infer(f"{model}_{dtype}", grpc_inputs({"x": data}, {"x": sent}))
    answer = result.as_numpy("y")
    assert answer.shape == data.shape
    np.testing.assert_array_equal(answer, data)

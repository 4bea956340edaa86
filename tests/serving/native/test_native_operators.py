"""Custom-operator libraries, without Python running in the server."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from native_client import Native
from native_operators import find_extensions, tokenizer

pytestmark = pytest.mark.e2e

needs_extensions = pytest.mark.skipif(
    find_extensions() is None, reason="onnxruntime-extensions is not installed"
)


def test_a_library_with_python_symbols_gets_them(native: Native) -> None:
    x = np.ones((2, 25), np.float32)
    np.testing.assert_array_equal(native.infer("needs_python", {"x": x}).as_numpy("y"), 2 * x + 1)


@needs_extensions
def test_operators_of_onnxruntime_extensions(native: Native) -> None:
    x = np.array(["abc", "", "xyz1"], dtype=np.object_)
    result = native.infer("upper", {"x": x})
    assert result.as_numpy("y").tolist() == [b"ABC", b"", b"XYZ1"]
    assert result.as_numpy("length").tolist() == [3, 0, 4]


@needs_extensions
def test_a_tokenizer_answers_as_it_does_in_python(native: Native) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(find_extensions()))
    session = onnxruntime.InferenceSession(tokenizer().SerializeToString(), options)
    generator = np.random.default_rng(11)
    texts = [
        np.array(
            ["".join(generator.choice(list("abc "), generator.integers(0, 12))) for _ in range(n)],
            dtype=np.object_,
        )
        for n in generator.integers(1, 4, 100)
    ]

    def wrong(x: np.ndarray) -> bool:
        result = native.infer("tokenizer", {"x": x})
        ids, mask = session.run(["ids", "mask"], {"x": x})
        return not (
            np.array_equal(result.as_numpy("ids"), ids)
            and np.array_equal(result.as_numpy("mask"), mask)
        )

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(wrong, texts)) == 0

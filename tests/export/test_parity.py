import numpy as np
import pytest

from builder.errors import ParityError
from builder.export.parity import compare_outputs
from builder.stage import Tensor, Tolerance

FLOAT = (Tensor("y", "FP32", ("n",)),)
FLAGS = (Tensor("y", "BOOL", ("n",)),)


def floats(*values: float) -> dict[str, np.ndarray]:
    return {"y": np.array(values, np.float32)}


def compare(a: dict, b: dict, outputs: tuple[Tensor, ...] = FLOAT, **tolerance: float) -> dict:
    return compare_outputs(a, b, outputs, Tolerance(**tolerance), where="here")


def test_the_largest_difference_is_returned() -> None:
    found = compare(floats(1, 2, 3), floats(1, 2.5, 3.25), atol=1)
    assert found == {"y": pytest.approx(0.5)}


def test_a_larger_difference_than_allowed_is_an_error() -> None:
    with pytest.raises(ParityError, match=r"here: output y differs by up to 0\.5"):
        compare(floats(1, 2), floats(1, 2.5), atol=0.4)
    assert compare(floats(100), floats(101), atol=0, rtol=0.01)


def test_nan_and_infinity_must_agree() -> None:
    assert compare(floats(np.nan, np.inf), floats(np.nan, np.inf)) == {"y": 0.0}
    for other in (floats(0, np.inf), floats(np.nan, -np.inf), floats(np.nan, 0)):
        with pytest.raises(ParityError):
            compare(floats(np.nan, np.inf), other, atol=1e30)


def test_shape_and_dtype_must_agree() -> None:
    with pytest.raises(ParityError, match=r"float32\[1\], expected float32\[2\]"):
        compare(floats(1), floats(1, 2))
    with pytest.raises(ParityError, match="float64"):
        compare({"y": np.array([1.0])}, floats(1))


def test_flags_must_be_equal_whatever_the_tolerance() -> None:
    a, b = {"y": np.array([True, False])}, {"y": np.array([True, True])}
    assert compare(a, a, FLAGS) == {}
    with pytest.raises(ParityError, match="1 of 2 elements"):
        compare(a, b, FLAGS, atol=10)


def test_empty_outputs_are_equal() -> None:
    assert compare(floats(), floats()) == {"y": 0.0}

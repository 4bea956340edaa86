"""Single requests: odd sizes, odd shapes, odd addresses, and wrong ones."""

import numpy as np
import pytest
from native_client import Native, grpc_inputs
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("length", [0, 1, 2, 100, 100_000])
def test_any_length_works(native: Native, length: int) -> None:
    x = np.random.default_rng(1).normal(size=(length, 25)).astype("f4")
    result = native.infer("affine", {"x": x})
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * x + 1)
    assert result.as_numpy("total") == pytest.approx((2 * x + 1).sum(dtype="f8"), rel=1e-3, abs=1)


@pytest.mark.parametrize(
    ("model", "name", "shape", "dtype", "said"),
    [
        ("affine", "x", (3, 24), "FP32", ["x", "affine", "[-1,25]", "[3,24]"]),
        ("affine", "x", (25,), "FP32", ["x", "affine", "[25]"]),
        ("affine", "x", (3, 25), "FP64", ["x", "affine", "FP64", "FP32"]),
        ("affine", "z", (3, 25), "FP32", ["affine"]),
        ("running_sum", "x", (17, 2, 3), "FP32", ["running_sum", "<= 16"]),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    native: Native, model: str, name: str, shape: tuple[int, ...], dtype: str, said: list[str]
) -> None:
    data = np.zeros(shape, {"FP32": "f4", "FP64": "f8"}[dtype])
    with pytest.raises(InferenceServerException) as caught:
        native.infer(model, {name: data})
    for word in said:
        assert word in str(caught.value)
    assert native.infer(model, {"x": np.ones((1, 2, 3) if model != "affine" else (1, 25), "f4")})


def test_an_output_longer_than_declared_is_still_right(native: Native) -> None:
    for length in (1, 5, 0, 3):
        x = np.arange(length, dtype=np.float32)
        result = native.infer("doubled", {"x": x})
        np.testing.assert_array_equal(result.as_numpy("y"), np.concatenate([x, x]))
    assert "where the ONNX file promises" in native.log.read_text()


def test_a_promise_about_shapes_that_is_broken_late(native: Native) -> None:
    def send(*values: float) -> list[float]:
        x = np.array(values, np.float32)
        return native.infer("positives", {"x": x}).as_numpy("y").tolist()

    for _ in range(20):  # until every instance trusts the declared shape
        assert send(1, 2, 3) == [1, 2, 3]
    refused = 0
    for _ in range(20):
        try:
            assert send(1, -2, 3) == [1, 3]
        except InferenceServerException as error:
            refused += 1
            assert "send it again" in str(error)  # noqa: PT017
    assert 1 <= refused <= 2, "once per instance"


def test_a_model_that_loses_its_batch_dim_is_told(native: Native) -> None:
    one = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(native.infer("first_row", {"x": one}).as_numpy("y"), one)
    with pytest.raises(InferenceServerException, match=r"'y' has shape \[1,2\], expected 3 rows"):
        native.infer("first_row", {"x": np.ones((3, 2), np.float32)})


def test_optional_input_falls_back_to_its_initializer(native: Native) -> None:
    x = np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(native.infer("scaled", {"x": x}).as_numpy("y"), 3 * x)
    scale = np.array([5], np.float32)
    answer = native.infer("scaled", {"x": x, "scale": scale}).as_numpy("y")
    np.testing.assert_array_equal(answer, 5 * x)


def test_reshape_of_the_configuration(native: Native) -> None:
    x = np.arange(4, dtype=np.float32)
    answer = native.infer("reshaped", {"x": x}).as_numpy("y")
    np.testing.assert_array_equal(answer, x)


def test_strings_of_a_batch(native: Native) -> None:
    x = np.array([["a", ""], ["Grüße", "x" * 1000]], dtype=np.object_)
    answer = native.infer("exclaim", {"x": x}).as_numpy("y")
    assert [[text.decode() for text in row] for row in answer] == [
        ["a!", "!"],
        ["Grüße!", "x" * 1000 + "!"],
    ]


@pytest.mark.parametrize("raw", [b"\x05\0\0\0ab", b"\x01\0\0\0", b"\0\0\0\0junk", b"\xff" * 4])
def test_malformed_strings_are_refused(native: Native, raw: bytes) -> None:
    tensor = grpc_inputs({"x": np.array([["ab"]], dtype=np.object_)})[0]
    tensor._raw_content = raw
    with pytest.raises(InferenceServerException, match="exclaim"):
        native.grpc.infer("exclaim", [tensor])


def test_http_tensors_behind_an_odd_number_of_bytes(native: Native) -> None:
    import tritonclient.http as client

    flag = np.array([True, False, True])
    value = np.array([1, 2, 3], np.int64)
    inputs = [client.InferInput("flag", [3], "BOOL"), client.InferInput("value", [3], "INT64")]
    inputs[0].set_data_from_numpy(flag)
    inputs[1].set_data_from_numpy(value)
    for binary in (True, False):
        outputs = [client.InferRequestedOutput("y", binary_data=binary)]
        result = native.http.infer("mixed", inputs, outputs=outputs)
        np.testing.assert_array_equal(result.as_numpy("y"), [1, -2, 3])


def test_shared_memory_at_odd_addresses(native: Native) -> None:
    import tritonclient.grpc as client
    import tritonclient.utils.shared_memory as shm

    x = np.arange(50, dtype=np.float32).reshape(2, 25)
    handle = shm.create_shared_memory_region("region", f"/native-{native.server.pid}", 1000)
    try:
        shm.set_shared_memory_region(handle, [x], offset=1)
        native.grpc.register_system_shared_memory("region", f"/native-{native.server.pid}", 1000)
        given = client.InferInput("x", [2, 25], "FP32")
        given.set_shared_memory("region", x.nbytes, offset=1)
        wanted = client.InferRequestedOutput("y")
        wanted.set_shared_memory("region", x.nbytes, offset=203)
        native.grpc.infer("affine", [given], outputs=[wanted])
        y = shm.get_contents_as_numpy(handle, np.uint8, [1000])[203:403].copy().view(np.float32)
        np.testing.assert_array_equal(y.reshape(2, 25), 2 * x + 1)
    finally:
        native.grpc.unregister_system_shared_memory("region")
        shm.destroy_shared_memory_region(handle)

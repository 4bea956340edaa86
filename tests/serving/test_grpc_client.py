import numpy as np
import pytest

from builder.errors import ServerError
from builder.serving.client import connect, infer, triton_dtype
from builder.serving.ports import HeldPorts
from builder.serving.server import TritonServer
from builder.stage import NUMPY_DTYPES


def test_no_server_says_how_to_start_one() -> None:
    with HeldPorts("127.0.0.1", 1) as held:
        url = f"127.0.0.1:{held.numbers[0]}"
        with pytest.raises(ServerError) as caught:
            connect(url)
    assert str(caught.value) == (
        f"{url}: no server answers there\n  -> start the server with: builder serve"
    )


@pytest.mark.parametrize("dtype", [d for d in NUMPY_DTYPES if d != "BYTES"])
def test_every_data_type_has_its_name(dtype: str) -> None:
    from tritonclient.utils import np_to_triton_dtype

    array = np.zeros(1, NUMPY_DTYPES[dtype])
    assert triton_dtype(array) == dtype == np_to_triton_dtype(array.dtype)


def test_strings_are_bytes_and_complex_is_refused() -> None:
    assert triton_dtype(np.array([b"a"])) == triton_dtype(np.array(["a"], object)) == "BYTES"
    with pytest.raises(ServerError, match="complex128"):
        triton_dtype(np.zeros(1, complex))


@pytest.mark.e2e
def test_what_the_server_refuses_is_explained(server: TritonServer) -> None:
    client = connect(server.grpc_url)
    with pytest.raises(ServerError, match=r"missing: the server has no such model"):
        infer(client, "missing", {"x": np.zeros(1, np.float32)})
    with pytest.raises(ServerError, match=r"linear: .*INPUT__0.*\[-1,-1,3\].*\[1,1,4\]"):
        infer(client, "linear", {"INPUT__0": np.zeros((1, 1, 4), np.float32)})
    with pytest.raises(ServerError, match="FP64"):
        infer(client, "linear", {"INPUT__0": np.zeros((1, 1, 3))})
    with pytest.raises(ServerError, match="linear: the server has no version 9 of it"):
        infer(client, "linear", {"INPUT__0": np.zeros((1, 1, 3), np.float32)}, version="9")

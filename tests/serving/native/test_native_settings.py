"""Settings of the backend as a whole, given on the server's command line."""

from pathlib import Path

import numpy as np
import pytest
from native_client import grpc_inputs
from native_models import FLOAT, Zoo, affine, identity, tensor_config

from builder.serving import native_build
from builder.serving.server import TritonServer

pytestmark = pytest.mark.e2e


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    zoo = Zoo(tmp_path / "repository")
    zoo.add("auto_batched", identity(FLOAT, ["batch", 4]))
    io = tensor_config("input", "x", "FP32", [-1, 25])
    zoo.add("affine", affine(), io + tensor_config("output", "y", "FP32", [-1, 25]))
    return zoo


def setting(name: str, value: object) -> str:
    return f"--backend-config=onnxruntime,{name}={value}"


def test_global_thread_pool_and_default_batch_size(zoo: Zoo, native_backends: Path) -> None:
    import tritonclient.grpc

    with (
        TritonServer(
            [zoo.root],
            backend_directory=native_backends,
            extra_args=[
                *native_build.server_args(),
                setting("enable-global-threadpool", 1),
                setting("intra_op_thread_count", 2),
                setting("inter_op_thread_count", 1),
                setting("default-max-batch-size", 8),
                setting("no-such-setting", 1),
            ],
        ) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        assert client.get_model_config("auto_batched").config.max_batch_size == 8
        x = np.random.default_rng(1).normal(size=(300, 25)).astype("f4")
        answer = client.infer("affine", grpc_inputs({"x": x})).as_numpy("y")
        np.testing.assert_array_equal(answer, 2 * x + 1)
        assert "no-such-setting: unknown setting" in server.log_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--backend-config=onnxruntime,library="),
        ([setting("library", "/nowhere/libonnxruntime.so")], "/nowhere/libonnxruntime.so"),
        ([setting("library", "libdl.so.2")], "is not ONNX Runtime"),
        ([setting("default-max-batch-size", "four")], "'four'"),
    ],
)
def test_unusable_settings_are_named(
    zoo: Zoo,
    native_backends: Path,
    args: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("BUILDER_ONNXRUNTIME_LIBRARY", raising=False)
    with TritonServer(
        [zoo.root],
        backend_directory=native_backends,
        load=["affine"],
        strict=False,
        extra_args=args,
    ) as server:
        (failure,) = server.failures()
        assert said in failure.reason

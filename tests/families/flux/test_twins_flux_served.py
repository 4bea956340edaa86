"""FLUX's python-backend models on a real server, beside the native pipelines."""

import json
import queue
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from builder.config import Config
from builder.errors import ServerError
from builder.families.flux.models import pipelines
from builder.families.flux.models.specs import PipelineSpec
from builder.serving.backends import prepare_backends
from builder.serving.client import connect, infer, statistics, triton_dtype
from builder.serving.installations import find_installation
from builder.serving.native_build import server_args
from builder.serving.server import TritonServer
from builder.stage import Arrays

pytestmark = pytest.mark.e2e

CALLED = ("clip_encoder_py", "t5_encoder_py", "dit_transformer_py", "vae_decoder_py")


@pytest.fixture(scope="module")
def server(built: Config) -> Iterator[TritonServer]:
    """The twins and the pipelines that they are compared with, on the same checkpoint."""
    running = TritonServer(
        [built.repository / group for group in ("onnx", "ensemble", "python")],
        backend_directory=prepare_backends(built.build_dir / "flux-twins", python=True),
        installation=find_installation("embedded"),
        load=("flux_schnell", "flux_dev", *CALLED, "flux_bls", "flux_bls_stream"),
        response_cache_mib=16,
        extra_args=server_args(),
        timeout=600,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("BUILDER_PATHS_BUILD", str(built.build_dir))
        patched.chdir(built.root)
        running.start()
    yield running
    running.stop()


@pytest.fixture
def client(server: TritonServer) -> Iterator[InferenceServerClient]:
    connection = connect(server.grpc_url)
    yield connection
    connection.close()


def order(spec: PipelineSpec, seed: int = 1, height: int = 32, width: int = 48) -> Arrays:
    return pipelines.request(spec, [f"picture {seed}"], [seed], height, width, 2.5)


def assert_same_image(got: np.ndarray, want: np.ndarray) -> None:
    assert (got.dtype, got.shape) == (np.uint8, want.shape)
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
    assert want.std() > 5, "a flat image would prove nothing"


@pytest.mark.parametrize(("height", "width", "count"), [(64, 64, 1), (80, 48, 2)])
def test_the_twin_paints_what_the_reference_and_the_native_pipeline_paint(
    client: InferenceServerClient,
    flux: dict[str, PipelineSpec],
    height: int,
    width: int,
    count: int,
) -> None:
    spec = flux["flux_schnell"]
    prompts = ["a lighthouse, at night", "зимний лес ❄"][:count]
    arrays = pipelines.request(spec, prompts, [3, -4][:count], height, width, 0.0)
    got = infer(client, "flux_bls", arrays)
    assert list(got) == ["image"]
    assert_same_image(got["image"], pipelines.reference(spec, arrays)["image"])
    native = infer(client, "flux_schnell", arrays)["image"]
    assert np.abs(got["image"].astype(int) - native.astype(int)).max() <= 2


def test_the_twins_take_what_their_native_models_take(client: InferenceServerClient) -> None:
    def signature(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        metadata = client.get_model_metadata(model)
        return tuple(
            {t.name: (t.datatype, tuple(t.shape)) for t in tensors}
            for tensors in (metadata.inputs, metadata.outputs)
        )

    for twin, native, extra in (
        ("clip_encoder_py", "clip_encoder", set()),
        ("t5_encoder_py", "t5_encoder", set()),
        ("dit_transformer_py", "dit_step", {"guidance"}),
        ("vae_decoder_py", "vae_decoder", set()),
        ("flux_bls", "flux_schnell", {"steps"}),
    ):
        inputs, outputs = signature(twin)
        assert ({n: t for n, t in inputs.items() if n not in extra}, outputs) == signature(native)
        assert extra <= set(inputs)
        assert (
            client.get_model_config(twin).config.max_batch_size
            == client.get_model_config(native).config.max_batch_size
        )


def test_concurrent_requests_share_executions_and_keep_their_images(
    server: TritonServer, client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_schnell"]
    # Two sizes: these never share a batch, and must not be mixed up either.
    orders = [order(spec, seed, *((64, 64) if seed % 4 else (48, 80))) for seed in range(8)]
    alone = [infer(client, "flux_bls", arrays)["image"] for arrays in orders]
    [before] = statistics(client, "dit_transformer_py")

    def paint(index: int) -> None:
        connection = connect(server.grpc_url)
        try:
            for _ in range(2):
                got = infer(connection, "flux_bls", orders[index])["image"]
                assert_same_image(got, alone[index])
        finally:
            connection.close()

    with ThreadPoolExecutor(len(orders)) as pool:
        list(pool.map(paint, range(len(orders))))
    [after] = statistics(client, "dit_transformer_py")
    inferences = after.inferences - before.inferences
    assert inferences == 2 * len(orders) * spec.steps
    assert after.executions - before.executions < 0.9 * inferences


def test_a_repeated_prompt_skips_the_text_encoders(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_schnell"]
    arrays = pipelines.request(spec, ["a prompt of this test alone"], [1], 32, 32, 0.0)
    infer(client, "flux_bls", arrays)
    before = [statistics(client, model)[0] for model in CALLED[:2]]
    infer(client, "flux_bls", arrays)
    after = [statistics(client, model)[0] for model in CALLED[:2]]
    for old, new in zip(before, after, strict=True):
        assert (new.executions, new.cache_hits) == (old.executions, old.cache_hits + 1)


def test_all_but_the_prompt_is_optional(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_schnell"]
    complete = pipelines.request(spec, ["a fox"], [0], 32, 48, 0.0)
    short = {name: complete[name] for name in ("prompt", "height", "width")}
    got = infer(client, "flux_bls", short)["image"]
    assert_same_image(got, infer(client, "flux_bls", complete)["image"])
    single = infer(client, "flux_bls", short | {"steps": np.array([[1]])})["image"]
    assert single.shape == got.shape
    assert not np.array_equal(single, got)


def one(value: object, dtype: Any = np.int64) -> np.ndarray:
    return np.array([[value]], dtype)


BAD = {
    "no multiple of 16": ({"height": one(65)}, "multiple of 16"),
    "zero": ({"width": one(0)}, "multiple of 16"),
    "negative": ({"height": one(-64)}, "multiple of 16"),
    "too large": ({"width": one(4096)}, "the limit is 2048"),
    "no steps": ({"steps": one(0)}, "0 steps"),
    "too many steps": ({"steps": one(1001)}, "1001 steps"),
    "no UTF-8": ({"prompt": one(b"\xff\xfe", object)}, "UTF-8"),
    "guidance for schnell": ({"guidance": one(3.0, np.float32)}, "guidance"),
    "seed of another type": ({"seed": one(1, np.int32)}, "INT32"),
    "no batch dim": ({"seed": np.zeros(1, np.int64)}, "seed"),
    "five images": ({"prompt": np.full((5, 1), b"x", object)}, "batch"),
}


def test_bad_requests_are_explained_and_harm_nobody(
    server: TritonServer, client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    good = order(flux["flux_schnell"])
    want = infer(client, "flux_bls", good)["image"]
    stop = threading.Event()

    def paint() -> int:
        connection, count = connect(server.grpc_url), 0
        while not stop.is_set() or not count:
            assert_same_image(infer(connection, "flux_bls", good)["image"], want)
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(1) as pool:
        alongside = pool.submit(paint)
        try:
            for changes, expected in BAD.values():
                with pytest.raises(ServerError, match=expected) as caught:
                    infer(client, "flux_bls", good | changes)
                cause = caught.value.__cause__
                assert isinstance(cause, InferenceServerException)
                assert cause.status() == "StatusCode.INVALID_ARGUMENT"
        finally:
            stop.set()
        assert alongside.result() >= 1


def test_a_cancelled_request_stops_between_steps(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    arrays = order(flux["flux_schnell"], 1, 64, 64) | {"steps": one(1000)}
    [before] = statistics(client, "dit_transformer_py")
    errors: queue.Queue[Any] = queue.Queue()
    call = client.async_infer("flux_bls", tensors(arrays), lambda result, error: errors.put(error))
    wait_for(lambda: statistics(client, "dit_transformer_py")[0].inferences > before.inferences)
    call.cancel()
    assert "CANCELLED" in str(errors.get(timeout=60)).upper()

    def stands_still() -> bool:
        seen = statistics(client, "dit_transformer_py")[0].inferences
        time.sleep(1.0)
        return statistics(client, "dit_transformer_py")[0].inferences == seen

    wait_for(stands_still)
    [after] = statistics(client, "dit_transformer_py")
    assert after.inferences - before.inferences < 1000
    assert infer(client, "flux_bls", arrays | {"steps": one(1)})["image"].shape == (1, 64, 64, 3)


def test_out_of_memory_is_unavailable_and_the_model_serves_on(
    server: TritonServer, client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    """A real failed allocation: the VAE's process may not get any larger for a while."""
    large = order(flux["flux_schnell"], 1, 512, 512) | {"steps": one(1)}
    stub = stub_of(server, "vae_decoder_py")
    size = int(Path(f"/proc/{stub}/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.prlimit(stub, resource.RLIMIT_AS)
    resource.prlimit(stub, resource.RLIMIT_AS, (size + (8 << 20), unlimited[1]))
    try:
        with pytest.raises(ServerError, match="vae_decoder_py: out of memory") as caught:
            infer(client, "flux_bls", large)
    finally:
        resource.prlimit(stub, resource.RLIMIT_AS, unlimited)
    cause = caught.value.__cause__
    assert isinstance(cause, InferenceServerException)
    assert cause.status() == "StatusCode.UNAVAILABLE"
    assert infer(client, "flux_bls", large)["image"].shape == (1, 512, 512, 3)
    assert stub_of(server, "vae_decoder_py") == stub, "it is still the same process"


def test_a_stream_shows_a_preview_of_each_step(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    arrays = order(flux["flux_schnell"])
    parts = stream(client, arrays)
    assert [int(part["step"][0, 0]) for part in parts] == [1, 2, 3, 4]
    assert [bool(part["final"][0, 0]) for part in parts] == [False] * 3 + [True]
    assert_same_image(parts[-1]["image"], infer(client, "flux_bls", arrays)["image"])
    assert len({part["image"].tobytes() for part in parts}) == len(parts)
    with pytest.raises(InferenceServerException, match="multiple of 16"):
        stream(client, arrays | {"height": one(17)})
    assert len(stream(client, arrays | {"steps": one(1)})) == 1


def test_dev_is_served_by_a_parameter(
    client: InferenceServerClient, flux: dict[str, PipelineSpec], built: Config
) -> None:
    spec = flux["flux_dev"]
    config = {
        "backend": "python",
        "max_batch_size": 4,
        "dynamic_batching": {},
        "parameters": {"variant": {"string_value": "dev"}},
    }
    client.load_model("flux_bls", config=json.dumps(config))
    try:
        arrays = order(spec)
        got = infer(client, "flux_bls", arrays)["image"]
        assert_same_image(got, pipelines.reference(spec, arrays)["image"])
        for guidance in (np.nan, np.inf):
            with pytest.raises(ServerError, match="guidance must be a number"):
                infer(client, "flux_bls", arrays | {"guidance": one(guidance, np.float32)})
    finally:
        client.load_model("flux_bls")


def test_a_network_that_is_not_served_is_named(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    arrays = order(flux["flux_schnell"])
    client.unload_model("vae_decoder_py")
    try:
        with pytest.raises(ServerError, match="vae_decoder_py") as caught:
            infer(client, "flux_bls", arrays)
    finally:
        client.load_model("vae_decoder_py")
    cause = caught.value.__cause__
    assert isinstance(cause, InferenceServerException)
    assert cause.status() == "StatusCode.UNAVAILABLE"
    assert infer(client, "flux_bls", arrays)["image"].shape == (1, 32, 48, 3)


def test_a_missing_checkpoint_is_explained_at_load(
    built: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_FLUX_CHECKPOINT", str(tmp_path / "nowhere"))
    running = TritonServer(
        [built.repository / "python"],
        backend_directory=prepare_backends(
            built.build_dir / "flux-missing", python=True, onnxruntime=False
        ),
        load=["clip_encoder_py"],
        strict=False,
    )
    with running:
        [failure] = running.failures()
        assert failure.name == "clip_encoder_py"
        assert "no FLUX.1 checkpoint" in failure.reason
        assert str(tmp_path / "nowhere") in failure.reason


def tensors(arrays: Arrays) -> list[InferInput]:
    inputs = []
    for name, array in arrays.items():
        item = InferInput(name, list(array.shape), triton_dtype(array))
        item.set_data_from_numpy(array)
        inputs.append(item)
    return inputs


def stream(client: InferenceServerClient, arrays: Arrays) -> list[Arrays]:
    """All responses of flux_bls_stream to one request."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    parts = []
    try:
        client.async_stream_infer(
            "flux_bls_stream", tensors(arrays), enable_empty_final_response=True
        )
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                raise error
            response = result.get_response()
            if response.outputs:
                parts.append({o.name: result.as_numpy(o.name) for o in response.outputs})
            if response.parameters["triton_final_response"].bool_param:
                return parts
    finally:
        client.stop_stream()


def stub_of(server: TritonServer, model: str) -> int:
    """The process of a python-backend model."""
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"/{model}/" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    raise AssertionError(f"{model} has no process")


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)

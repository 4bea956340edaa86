"""The python-backend twins on the real server."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from builder.config import load_config
from builder.errors import ServerError
from builder.families.anomaly.models import postprocessing, preprocessing
from builder.families.anomaly.models.detector import telemetry_window
from builder.families.anomaly.networks import reference
from builder.family import Registry
from builder.serving.client import connect, infer
from builder.serving.server import TritonServer
from builder.stage import Arrays

pytestmark = pytest.mark.e2e

# Twin -> the native stage that it has to agree with.
STAGES = {
    "omnianomaly_py": "SMAP_A-1",
    "tranad_py": "tranad_sat1",
    "postprocessing": "postprocessing_onnx",
    "custom_logic": "subsystem_vote_onnx",
}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.load(load_config())


@pytest.fixture
def client(twin_server: TritonServer) -> Iterator[Any]:
    connected = connect(twin_server.grpc_url)
    yield connected
    connected.close()


def assert_close(outputs: Arrays, expected: Arrays) -> None:
    assert set(outputs) == set(expected)
    for name, want in expected.items():
        assert outputs[name].dtype == want.dtype
        if want.dtype.kind == "f":
            np.testing.assert_allclose(outputs[name], want, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(outputs[name], want)


@pytest.mark.parametrize("twin", STAGES)
def test_a_twin_answers_as_pytorch(registry: Registry, client: Any, twin: str) -> None:
    stage = registry.stages[STAGES[twin]]
    generator = np.random.default_rng(31)
    for samples in (1, int(generator.integers(2, 400)), 100):
        inputs = stage.example({"T": samples}, generator)
        expected = reference.answer(stage, *(inputs[t.name] for t in stage.inputs))
        assert_close(infer(client, twin, inputs), expected)


def test_preprocessing_answers_as_its_reference(client: Any) -> None:
    for samples in (0, 1, 100, 731):
        inputs = preprocessing.example({"T": samples}, np.random.default_rng(samples))
        outputs = infer(client, "preprocessing", inputs)
        assert outputs.pop("channel").tolist() == [b"E-1"]
        expected = preprocessing.reference(inputs)
        for name, want in expected.items():
            np.testing.assert_array_equal(outputs[name], want)


def test_the_pipeline_answers_as_the_native_ones_reference(registry: Registry, client: Any) -> None:
    pipeline = registry.pipelines["anomaly_pipeline"]
    for samples in (1, 100, 333):
        inputs = preprocessing.example({"T": samples}, np.random.default_rng(samples))
        assert_close(infer(client, "anomaly_pipeline_py", inputs), pipeline.reference(inputs))


def test_the_twins_have_the_signatures_of_the_native_models(
    registry: Registry, client: Any
) -> None:
    def signature(tensors: Any) -> set[tuple[str, str, tuple[int, ...]]]:
        return {(t.name, t.datatype, tuple(t.shape)) for t in tensors}

    def declared(tensors: Any) -> set[tuple[str, str, tuple[int, ...]]]:
        return {
            (t.name, t.dtype, tuple(-1 if isinstance(d, str) else d for d in t.dims))
            for t in tensors
        }

    extra = {("channel", "BYTES", (1,))}
    native = {twin: registry.stages[stage] for twin, stage in STAGES.items()} | {
        "preprocessing": registry.stages["preprocessing_onnx"],
        "anomaly_pipeline_py": registry.pipelines["anomaly_pipeline"],
    }
    for twin, model in native.items():
        metadata = client.get_model_metadata(twin)
        assert signature(metadata.inputs) - extra == declared(model.inputs), twin
        assert signature(metadata.outputs) - extra == declared(model.outputs), twin


@pytest.mark.parametrize("channel", ["E-1", "T-3", "smap_p-7"])
def test_a_request_may_name_its_channel(registry: Registry, client: Any, channel: str) -> None:
    window = telemetry_window(80, np.random.default_rng(33))
    inputs = {"input_data": window, "channel": np.array([channel.encode()], object)}
    stage = registry.stages[f"SMAP_{channel.upper().removeprefix('SMAP_')}"]
    assert_close(infer(client, "omnianomaly_py", inputs), reference.answer(stage, window))


def zeros(samples: int, features: int = 25, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros((samples, features), dtype)


def vote(**changed: np.ndarray) -> Arrays:
    stage = postprocessing.postprocessing(load_config())
    return stage.example({"T": 9}, np.random.default_rng(0)) | changed


BAD = [
    ("omnianomaly_py", {"input_data": zeros(0)}, "send 1 sample"),
    ("omnianomaly_py", {"input_data": zeros(5, 24)}, "[5,24]"),
    ("omnianomaly_py", {"input_data": zeros(5, dtype=np.float64)}, "FP64"),
    ("omnianomaly_py", {"input_data": np.zeros(25, np.float32)}, "[25]"),
    ("omnianomaly_py", {"input_data": zeros(5), "channel": np.array([b"Q-9"], object)}, "Q-9"),
    ("omnianomaly_py", {"input_data": zeros(5), "channel": np.array([b"\xff/.."], object)}, "/.."),
    ("tranad_py", {"input_data": zeros(0)}, "send 1 sample"),
    ("tranad_py", {"telemetry": zeros(5)}, "telemetry"),
    ("preprocessing", {"telemetry": zeros(5, 26)}, "[5,26]"),
    ("postprocessing", vote(tranad_score=np.zeros(8, np.float32)), "same length"),
    ("postprocessing", vote(sample_valid=np.ones(9, np.uint8)), "UINT8"),
    ("custom_logic", {"score_E-1": np.zeros(3, np.float32)}, "input"),
    ("anomaly_pipeline_py", {"telemetry": zeros(4, 3)}, "[4,3]"),
]


@pytest.mark.parametrize(("model", "inputs", "reason"), BAD)
def test_a_bad_request_is_refused_and_the_model_serves_on(
    registry: Registry, client: Any, model: str, inputs: Arrays, reason: str
) -> None:
    with pytest.raises(ServerError) as caught:
        infer(client, model, inputs)
    assert reason in str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, InferenceServerException)
    assert cause.status() == "StatusCode.INVALID_ARGUMENT"
    if model in STAGES:
        stage = registry.stages[STAGES[model]]
        good = stage.example({"T": 7}, np.random.default_rng(1))
        expected = reference.answer(stage, *(good[t.name] for t in stage.inputs))
        assert_close(infer(client, model, good), expected)


def test_concurrent_requests_each_get_their_own_answer(
    registry: Registry, twin_server: TritonServer
) -> None:
    generator = np.random.default_rng(35)
    jobs = []
    for index in range(36):
        channel = ("A-1", "E-1", "D-2")[index % 3]
        window = telemetry_window(int(generator.integers(1, 120)), generator)
        expected = reference.answer(registry.stages[f"SMAP_{channel}"], window)
        jobs.append((window, np.array([channel.encode()], object), expected))

    def ask(job: tuple[np.ndarray, np.ndarray, Arrays]) -> None:
        window, channel, expected = job
        client = connect(twin_server.grpc_url)
        inputs = {"input_data": window, "channel": channel}
        assert_close(infer(client, "omnianomaly_py", inputs), expected)
        client.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, jobs))


def test_a_cancelled_request_makes_room_for_the_next(client: Any) -> None:
    start = time.monotonic()
    infer(client, "tranad_py", {"input_data": zeros(20_000)})
    tenth = time.monotonic() - start

    long = InferInput("input_data", [200_000, 25], "FP32")
    long.set_data_from_numpy(zeros(200_000))
    errors: list[Any] = []
    call = client.async_infer("tranad_py", [long], lambda result, error: errors.append(error))
    time.sleep(1.5 * tenth)  # it is being worked on, and most of the work lies ahead
    assert not errors
    call.cancel()
    start = time.monotonic()
    infer(client, "tranad_py", {"input_data": zeros(10)})
    assert time.monotonic() - start < 4 * tenth
    assert "CANCELLED" in str(errors[0]).upper()


def test_missing_weights_are_explained_at_load(
    python_backends: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twins: Path
) -> None:
    monkeypatch.setenv("BUILDER_ANOMALY_WEIGHTS", str(tmp_path))
    server = TritonServer(
        [twins],
        backend_directory=python_backends,
        load=["tranad_py", "preprocessing"],
        strict=False,
    )
    with server:
        failures = {state.name: state.reason for state in server.failures()}
        assert set(failures) == {"tranad_py"}
        assert str(tmp_path / "tranad_sat1.safetensors") in failures["tranad_py"]
        assert "there is no such checkpoint" in failures["tranad_py"]
        client = connect(server.grpc_url)
        assert len(infer(client, "preprocessing", {"telemetry": zeros(3)})["input_data"]) == 3
        client.close()

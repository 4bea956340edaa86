"""Bad requests and damaged repositories: a clear message, and everybody else is served."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from builder.build.plan import make_context, make_plan
from builder.build.verify import verify
from builder.config import Config, load_config
from builder.errors import ServerError
from builder.families.anomaly.models.detector import telemetry_window
from builder.family import Registry
from builder.serving.client import connect, infer
from builder.serving.launch import make_server
from builder.serving.server import TritonServer

pytestmark = pytest.mark.e2e

MODEL = "SMAP_E-1"


@pytest.fixture
def client(server: TritonServer) -> Iterator[InferenceServerClient]:
    """A client; after the test the model must still answer."""
    connection = connect(server.grpc_url)
    yield connection
    window = telemetry_window(20, np.random.default_rng(0))
    assert infer(connection, MODEL, {"input_data": window})["anomaly_score"].shape == (20,)
    connection.close()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((10, 38), np.float32), ["38", "25"]),
        (np.zeros((10,), np.float32), ["input_data"]),
        (np.zeros((1, 10, 25), np.float32), ["input_data"]),
        (np.zeros((10, 25), np.float64), ["FP64", "FP32"]),
        (np.zeros((10, 25), np.int32), ["INT32", "FP32"]),
    ],
)
def test_a_tensor_of_another_form_is_refused(
    client: InferenceServerClient, array: np.ndarray, expected: list[str]
) -> None:
    with pytest.raises(ServerError) as error:
        infer(client, MODEL, {"input_data": array})
    assert all(part in str(error.value) for part in [MODEL, *expected])


def test_another_input_name_is_refused(client: InferenceServerClient) -> None:
    with pytest.raises(ServerError, match="data_input"):
        infer(client, MODEL, {"data_input": np.zeros((10, 25), np.float32)})


def test_an_unknown_model_is_named(client: InferenceServerClient) -> None:
    with pytest.raises(ServerError, match="SMAP_X-9"):
        infer(client, "SMAP_X-9", {"input_data": np.zeros((10, 25), np.float32)})


@pytest.mark.parametrize("model", [MODEL, "tranad_sat1"])
def test_an_empty_window_gets_an_empty_answer(client: InferenceServerClient, model: str) -> None:
    """ONNX Runtime's GRU would end the server on an empty sequence; see `Detector.forward`."""
    got = infer(client, model, {"input_data": np.zeros((0, 25), np.float32)})
    assert {name: array.shape for name, array in got.items()} == {
        "reconstruction": (0, 25),
        "anomaly_score": (0,),
        "anomaly_detected": (0,),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_flagged_and_harms_no_other(
    client: InferenceServerClient, value: float
) -> None:
    window = telemetry_window(120, np.random.default_rng(1))
    clean = infer(client, MODEL, {"input_data": window})
    window[100, 3] = value
    got = infer(client, MODEL, {"input_data": window})
    assert got["anomaly_detected"][100]
    assert np.isfinite(got["anomaly_score"]).all()
    np.testing.assert_array_equal(got["anomaly_score"][:100], clean["anomaly_score"][:100])


@pytest.fixture
def copy(built: Config, tmp_path: Path) -> Config:
    """A copy of a part of the repository, to break."""
    for group, model in (
        ("onnx", "SMAP_E-1"),
        ("onnx", "SMAP_E-2"),
        ("onnx", "preprocessing_onnx"),
    ):
        shutil.copytree(
            built.repository / group / model, tmp_path / "model_repository" / group / model
        )
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "backends").symlink_to((built.build_dir / "backends").resolve())
    (tmp_path / "exports").symlink_to(built.exports)
    return load_config(root=tmp_path, environ={})


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_engine_is_explained_and_the_others_are_served(copy: Config, damage: str) -> None:
    path = copy.repository / "onnx" / "SMAP_E-1" / "1" / "model.onnx"
    good = path.read_bytes()
    path.write_bytes(
        {"truncated": good[: len(good) // 2], "garbage": b"x" * 999, "empty": b""}[damage]
    )
    running, _ = make_server(copy, free_ports=True, strict=False)
    with running:
        [failure] = running.failures()
        assert failure.name == "SMAP_E-1"
        assert "model.onnx" in failure.reason
        connection = connect(running.grpc_url)
        window = telemetry_window(20, np.random.default_rng(0))
        assert infer(connection, "SMAP_E-2", {"input_data": window})
        connection.close()


def test_the_last_proof_notices_a_wrong_model(copy: Config) -> None:
    """Another channel's engine under this channel's name loads, but answers differently."""
    onnx = copy.repository / "onnx"
    shutil.copy(onnx / "SMAP_E-2" / "1" / "model.onnx", onnx / "SMAP_E-1" / "1" / "model.onnx")
    context = make_context(copy, Registry.load(copy))
    plan = make_plan(context, ["SMAP_E-1", "SMAP_E-2", "preprocessing_onnx"])
    result = verify(context, plan, lambda model, done, count: None)
    assert not result.ok
    assert {name for name, s in result.models.items() if s.error} == {"SMAP_E-1"}
    assert "differs" in str(result.models["SMAP_E-1"].error)

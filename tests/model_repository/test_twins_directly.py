"""The twins without a server: `python model.py`, and what only a batch of requests shows."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from builder.config import load_config
from builder.families.anomaly.models.detector import telemetry_window
from builder.families.anomaly.networks import reference
from builder.family import Registry
from builder.serving import pb_stand_in
from builder.serving.self_check import read_config

PYTHON_MODELS = ("preprocessing", "postprocessing", "custom_logic", "omnianomaly_py", "tranad_py")


@pytest.mark.parametrize("name", PYTHON_MODELS)
def test_each_model_runs_on_its_own(twins: Path, name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, twins / name / "1" / "model.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert name in done.stdout


def test_a_failed_self_check_exits_with_one(twins: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, twins / "tranad_py" / "1" / "model.py"],
        env=os.environ | {"BUILDER_ANOMALY_WEIGHTS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "there is no such checkpoint" in done.stderr
    assert "Traceback" not in done.stderr


def load(twins: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, twins / name / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(twins: Path, name: str, **parameters: str) -> Any:
    config = read_config(twins / name / "config.pbtxt")
    for key, value in parameters.items():
        config["parameters"][key] = {"string_value": value}
    model = load(twins, name).TritonPythonModel()
    model.initialize({"model_config": json.dumps(config)})
    return model


def request(window: np.ndarray, channel: str | None = None) -> pb_stand_in.InferenceRequest:
    tensors = [pb_stand_in.Tensor("input_data", window)]
    if channel is not None:
        tensors.append(pb_stand_in.Tensor("channel", np.array([channel], object)))
    return pb_stand_in.InferenceRequest(tensors)


@pytest.mark.parametrize("name", ["omnianomaly_py", "tranad_py"])
def test_a_batch_is_answered_as_its_requests_one_by_one(twins: Path, name: str) -> None:
    model = start(twins, name)
    generator = np.random.default_rng(41)
    windows = [telemetry_window(n, generator, dropout=n > 50) for n in (60, 1, 60, 33, 60)]
    channels = ["A-1", "E-1", "E-1", "A-1", "A-1"]
    named = channels if name == "omnianomaly_py" else [None] * 5
    responses = model.execute([request(w, c) for w, c in zip(windows, named, strict=True)])
    stages = Registry.load(load_config()).stages
    for window, channel, response in zip(windows, channels, responses, strict=True):
        stage = stages["tranad_sat1" if name == "tranad_py" else f"SMAP_{channel}"]
        expected = reference.answer(stage, window)
        for tensor in response.output_tensors():
            want = expected[tensor.name()]
            if want.dtype == bool:
                np.testing.assert_array_equal(tensor.as_numpy(), want)
            else:
                np.testing.assert_allclose(tensor.as_numpy(), want, rtol=1e-5, atol=1e-5)
    model.finalize()


def test_the_network_runs_once_for_windows_of_one_length(
    twins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = start(twins, "omnianomaly_py")
    calls = []
    gru = model.module(model.default).gru
    gru.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    window = telemetry_window(20, np.random.default_rng(0))
    model.execute([request(window) for _ in range(4)])
    assert calls == [(20, 4, 25)]


def test_a_bad_channel_in_a_batch_fails_alone(twins: Path) -> None:
    model = start(twins, "omnianomaly_py")
    window = telemetry_window(20, np.random.default_rng(0))
    good, bad, also_good = model.execute([request(window), request(window, "X"), request(window)])
    assert bad.error().code() == pb_stand_in.TritonError.INVALID_ARG
    assert not good.has_error()
    assert not also_good.has_error()


def test_weights_that_vanish_make_one_channel_unavailable(
    twins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_config(environ={})
    weights = Registry.load(shipped).stages["SMAP_A-1"].source.files[0]
    (tmp_path / weights.name).write_bytes(weights.read_bytes())
    monkeypatch.setenv("BUILDER_ANOMALY_WEIGHTS", str(tmp_path))
    model = start(twins, "omnianomaly_py")
    window = telemetry_window(20, np.random.default_rng(0))
    there, missing = model.execute([request(window, "A-1"), request(window, "E-1")])
    assert not there.has_error()
    assert missing.error().code() == pb_stand_in.TritonError.UNAVAILABLE
    assert "SMAP_E-1.safetensors" in missing.error().message()


def test_an_abandoned_request_stops_between_chunks(
    twins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = start(twins, "tranad_py")
    window = request(telemetry_window(9000, np.random.default_rng(0)))
    chunks = []

    def phases(windows: Any, original: Any = model.detector.phases) -> Any:
        chunks.append(windows.shape[1])
        window.cancel()
        return original(windows)

    monkeypatch.setattr(model.detector, "phases", phases)
    (response,) = model.execute([window])
    assert response.error().code() == pb_stand_in.TritonError.CANCELLED
    assert chunks == [4096]


@pytest.mark.parametrize("threads", ["0", "-1", "many"])
def test_a_bad_number_of_threads_is_named(twins: Path, threads: str) -> None:
    with pytest.raises(ValueError, match="parameter threads"):
        start(twins, "tranad_py", threads=threads)

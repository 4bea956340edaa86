"""The native pipelines on the real server against NumPy and PyTorch."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from builder.config import Config
from builder.errors import ServerError
from builder.families.anomaly.models import preprocessing
from builder.families.anomaly.models.detector import telemetry_window
from builder.family import Registry
from builder.pipeline import Pipeline
from builder.serving.client import connect, infer
from builder.serving.server import TritonServer
from builder.stage import Arrays

pytestmark = pytest.mark.e2e

NAMES = ("anomaly_pipeline", "multi_detector", "SMAP_A-1_pipeline", "SMAP_T-3_pipeline")


@pytest.fixture(scope="module")
def registry(built: Config) -> Registry:
    return Registry.load(built)


def request_of(pipeline: Pipeline, samples: int, generator: np.random.Generator) -> Arrays:
    if pipeline.name == "multi_detector":
        return {t.name: telemetry_window(samples, generator) for t in pipeline.inputs}
    return preprocessing.example({"T": samples}, generator)


def assert_right(pipeline: Pipeline, outputs: Arrays, expected: Arrays) -> None:
    assert set(outputs) == set(expected)
    for name, want in expected.items():
        assert outputs[name].dtype == want.dtype
        if want.dtype.kind == "f":
            np.testing.assert_allclose(outputs[name], want, rtol=1e-5, atol=pipeline.atol)
        else:
            np.testing.assert_array_equal(outputs[name], want)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_answers_as_its_reference(registry: Registry, client: Any, name: str) -> None:
    pipeline = registry.pipelines[name]
    generator = np.random.default_rng(11)
    for samples in (1, 2, 64, 100, 733):
        inputs = request_of(pipeline, samples, generator)
        assert_right(pipeline, infer(client, name, inputs), pipeline.reference(inputs))


def test_concurrent_requests_of_random_lengths(
    registry: Registry, native_server: TritonServer
) -> None:
    generator = np.random.default_rng(12)
    jobs = []
    for index in range(28):
        pipeline = registry.pipelines[NAMES[index % len(NAMES)]]
        inputs = request_of(pipeline, int(generator.integers(1, 150)), generator)
        jobs.append((pipeline, inputs, pipeline.reference(inputs)))

    def ask(job: tuple[Pipeline, Arrays, Arrays]) -> None:
        pipeline, inputs, expected = job
        client = connect(native_server.grpc_url)
        assert_right(pipeline, infer(client, pipeline.name, inputs), expected)
        client.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, jobs))


def test_channels_of_different_length_are_refused(registry: Registry, client: Any) -> None:
    pipeline = registry.pipelines["multi_detector"]
    inputs = request_of(pipeline, 20, np.random.default_rng(13))
    for channel in pipeline.inputs:
        bad = inputs | {channel.name: inputs[channel.name][:19]}
        with pytest.raises(ServerError, match="aligned_channels_onnx"):
            infer(client, pipeline.name, bad)
    assert_right(pipeline, infer(client, pipeline.name, inputs), pipeline.reference(inputs))


def test_telemetry_of_no_valid_sample_is_answered(registry: Registry, client: Any) -> None:
    pipeline = registry.pipelines["SMAP_A-1_pipeline"]
    inputs = {"telemetry": np.full((30, 25), np.nan, np.float32)}
    outputs = infer(client, pipeline.name, inputs)
    assert not outputs["sample_valid"].any()
    assert not outputs["anomaly_detected"].any()
    assert_right(pipeline, outputs, pipeline.reference(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_request_gets_an_empty_answer(registry: Registry, client: Any, name: str) -> None:
    pipeline = registry.pipelines[name]
    empty = {t.name: np.zeros(t.shape({"T": 0}), np.float32) for t in pipeline.inputs}
    outputs = infer(client, name, empty)
    for tensor in pipeline.outputs:
        assert outputs[tensor.name].shape == tensor.shape({"T": 0})
    inputs = request_of(pipeline, 5, np.random.default_rng(14))
    assert_right(pipeline, infer(client, name, inputs), pipeline.reference(inputs))

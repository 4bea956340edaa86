"""The declared pipelines and their references; the served ones are tested in `served/`."""

import numpy as np
import pytest

from builder.config import Config
from builder.families.anomaly.channels import CHANNELS
from builder.families.anomaly.models import (
    anomaly_pipeline,
    channel_pipelines,
    multi_detector,
    postprocessing,
    preprocessing,
)
from builder.families.anomaly.networks import reference
from builder.family import Registry
from builder.pipeline import Pipeline
from builder.stage import NUMPY_DTYPES

NAMES = ("anomaly_pipeline", "multi_detector", "SMAP_A-1_pipeline", "SMAP_P-7_pipeline")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    from builder.config import load_config

    return Registry.load(load_config(root=tmp_path_factory.mktemp("root"), environ={}))


@pytest.fixture
def pipeline(registry: Registry, request: pytest.FixtureRequest) -> Pipeline:
    return registry.pipelines[request.param]


def test_every_channel_has_a_pipeline(registry: Registry) -> None:
    for channel in CHANNELS:
        pipeline = registry.pipelines[channel_pipelines.name_of(channel)]
        assert channel.model in {step.model for step in pipeline.steps}
        assert pipeline.metadata["channel"] == channel.name


@pytest.mark.parametrize("pipeline", NAMES, indirect=True)
def test_the_reference_answers_as_declared(pipeline: Pipeline) -> None:
    inputs = pipeline.example(np.random.default_rng(2))
    outputs = pipeline.reference(inputs)
    assert set(inputs) == {t.name for t in pipeline.inputs}
    assert set(outputs) == {t.name for t in pipeline.outputs}
    for tensors, arrays in ((pipeline.inputs, inputs), (pipeline.outputs, outputs)):
        for tensor in tensors:
            assert arrays[tensor.name].dtype == NUMPY_DTYPES[tensor.dtype]
            assert arrays[tensor.name].shape == tensor.shape({"T": 100})
            if tensors is pipeline.outputs and tensor.dtype == "FP32":
                assert np.isfinite(arrays[tensor.name]).all()


@pytest.mark.parametrize("pipeline", NAMES, indirect=True)
def test_every_step_feeds_every_input_of_its_stage(pipeline: Pipeline, registry: Registry) -> None:
    for step in pipeline.steps:
        stage = registry.stages[step.model]
        assert set(step.inputs) == {t.name for t in stage.inputs}
        assert set(step.outputs) <= {t.name for t in stage.outputs}


def test_telemetry_without_drop_outs_is_judged_as_by_the_bare_detector(config: Config) -> None:
    clean = multi_detector.example(np.random.default_rng(3))["E-1"]
    answer = channel_pipelines.reference(config, "SMAP_E-1", {"telemetry": clean})
    bare = reference.answer(postprocessing.detectors(config)["SMAP_E-1"], clean)
    for name in ("reconstruction", "anomaly_score", "anomaly_detected"):
        np.testing.assert_array_equal(answer[name], bare[name])
    assert answer["sample_valid"].all()


@pytest.mark.parametrize("name", ["anomaly_pipeline", "SMAP_E-1_pipeline"])
def test_a_drop_out_is_reported_and_is_no_anomaly(registry: Registry, name: str) -> None:
    telemetry = preprocessing.example({"T": 300}, np.random.default_rng(4))
    answer = registry.pipelines[name].reference(telemetry)
    valid = np.isfinite(telemetry["telemetry"]).all(axis=1)
    np.testing.assert_array_equal(answer["sample_valid"], valid)
    assert not valid.all()
    assert not answer["anomaly_detected"][~valid].any()
    assert not answer["anomaly_score"][~valid].any()


def test_the_fused_answer_is_that_of_its_detectors(config: Config) -> None:
    inputs = anomaly_pipeline.example(np.random.default_rng(5))
    inputs["telemetry"][40:60, 0] = 50.0  # far outside of anything that training saw
    clean = preprocessing.reference(inputs)
    answer = anomaly_pipeline.reference(config, inputs)
    flags = []
    for name in postprocessing.FUSED:
        stage = postprocessing.detectors(config)[name]
        flags.append(reference.answer(stage, clean["input_data"])["anomaly_detected"])
    votes = (np.stack(flags) & clean["sample_valid"]).sum(axis=0)
    np.testing.assert_array_equal(answer["votes"], votes)
    np.testing.assert_array_equal(answer["anomaly_detected"], votes > 0)
    assert answer["anomaly_detected"].any()
    np.testing.assert_array_equal(answer["anomaly_score"] > 1, answer["anomaly_detected"])


def test_a_subsystem_is_anomalous_where_one_of_its_channels_is(config: Config) -> None:
    inputs = multi_detector.example(np.random.default_rng(6))
    inputs["E-3"][30] = np.nan  # a bare detector raises an alarm about that
    answer = multi_detector.reference(config, inputs)
    assert answer["detector_flags"][30, 2]
    np.testing.assert_array_equal(answer["votes"], answer["detector_flags"].sum(axis=1))
    np.testing.assert_array_equal(answer["anomaly_detected"], answer["votes"] > 0)


def test_every_pipeline_starts_with_one_step(registry: Registry) -> None:
    """Triton 2.51 can lock up for good where several steps start and one of them fails."""
    for pipeline in registry.pipelines.values():
        made = {tensor for step in pipeline.steps for tensor in step.outputs.values()}
        first = [step.model for step in pipeline.steps if not made & set(step.inputs.values())]
        assert len(first) == 1, pipeline.name

"""The bank of all channels against the single detectors."""

import numpy as np
import onnxruntime as ort
import pytest

from builder.config import Config, load_config
from builder.errors import ExportError
from builder.families.anomaly.bank_graph import bank_of
from builder.families.anomaly.channels import CHANNEL_NAMES, CHANNELS
from builder.families.anomaly.models import omnianomaly, smap_bank
from builder.families.anomaly.networks.reference import answer
from builder.family import Registry
from builder.stage import OnnxSource


@pytest.fixture(scope="module")
def settings() -> Config:
    return load_config(environ={})


@pytest.fixture(scope="module")
def session(settings: Config) -> ort.InferenceSession:
    source = smap_bank.stage(settings).source
    assert isinstance(source, OnnxSource)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(source.build().SerializeToString(), options)


def ask(session: ort.InferenceSession, windows: np.ndarray, channels: list[int]) -> list:
    feeds = {"input_data": windows, "channel": np.array(channels, np.int64)[:, None]}
    return session.run(None, feeds)


def windows_of(count: int, samples: int) -> np.ndarray:
    arrays = smap_bank.example({"B": count, "T": samples}, np.random.default_rng(5))
    return arrays["input_data"]


def test_every_channel_answers_as_its_own_model(settings, session):
    windows = windows_of(len(CHANNELS), 130)
    windows[3, 40] = np.nan
    order = list(np.random.default_rng(1).permutation(len(CHANNELS)))
    got = ask(session, windows, order)
    singles = {stage.name: stage for stage in omnianomaly.stages(settings)}
    for row, which in enumerate(order):
        stage = singles[f"SMAP_{CHANNEL_NAMES[which]}"]
        want = answer(stage, windows[row])
        for output, array in zip(session.get_outputs(), got, strict=True):
            if want[output.name].dtype == bool:
                np.testing.assert_array_equal(array[row], want[output.name])
            else:
                np.testing.assert_allclose(array[row], want[output.name], atol=1e-5, rtol=1e-6)


def test_one_channel_may_come_several_times(session):
    windows = np.repeat(windows_of(1, 20), 3, axis=0)
    _, score, _ = ask(session, windows, [7, 2, 7])
    assert np.array_equal(score[0], score[2])
    assert not np.array_equal(score[0], score[1])


@pytest.mark.parametrize("which", [-1, -27, 27, 2**40])
def test_a_channel_that_there_is_not_is_refused(session, which):
    with pytest.raises(Exception, match="out of"):
        ask(session, windows_of(2, 10), [0, which])
    assert len(ask(session, windows_of(2, 10), [0, 26])[1]) == 2


def test_no_samples_no_scores(session):
    assert [a.shape for a in ask(session, windows_of(2, 0), [0, 1])] == [(2, 0, 25), (2, 0), (2, 0)]


def test_models_of_different_graphs_make_no_bank(settings):
    from onnx import TensorProto, helper

    def model(operator):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node(operator, ["input_data"], ["y"])],
            "g",
            [value("input_data", TensorProto.FLOAT, ["T", 25])],
            [value("y", TensorProto.FLOAT, ["T", 25])],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    with pytest.raises(ExportError, match="not of one graph"):
        bank_of([model("Abs"), model("Neg")], 25)


def test_the_bank_is_declared_where_it_is_switched_on(tmp_path):
    assert smap_bank.NAME not in Registry.load(load_config(root=tmp_path, environ={})).stages
    (tmp_path / "builder.toml").write_text("[anomaly]\nbank = true\n")
    assert smap_bank.NAME in Registry.load(load_config(root=tmp_path, environ={})).stages

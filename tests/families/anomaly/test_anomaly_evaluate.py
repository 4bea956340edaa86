import json

import numpy as np
import pytest
import torch

from builder.errors import CheckpointError, DataError
from builder.families.anomaly.channels import CHANNELS, find_channel
from builder.families.anomaly.checkpoint import load_omnianomaly, weights_path
from builder.families.anomaly.evaluate import DETECTORS, Scores, apply_detector, evaluate
from builder.families.anomaly.options import SHIPPED_WEIGHTS
from builder.families.anomaly.plots import plot_channel
from builder.families.anomaly.telemetry import Segment, load_test, to_mask

PNG = b"\x89PNG\r\n\x1a\n"


def load_shipped(channel):
    return load_omnianomaly(weights_path(SHIPPED_WEIGHTS, channel.model))


def test_the_report_holds_every_detector_and_the_detected_segments(synthetic_folder):
    answers = {}

    def seen(report, test, answer):
        answers[report.channel] = answer

    channels = [find_channel(name) for name in ("E-1", "A-1")]
    report = evaluate(synthetic_folder, channels, load_shipped, seen)
    assert [c.channel for c in report.channels] == ["E-1", "A-1"]
    assert tuple(report.pooled) == DETECTORS
    for channel in report.channels:
        assert tuple(channel.metrics) == DETECTORS
        again = to_mask(channel.detected, channel.samples)
        np.testing.assert_array_equal(again, answers[channel.channel].detected)
    assert report.pooled["model"].segments == 4
    parsed = json.loads(report.to_json())
    assert parsed["channels"][0]["labelled"][0].keys() == {"first", "last"}
    assert parsed["pooled"]["range rule"]["f1"] == report.pooled["range rule"].f1


def test_the_detector_sees_the_array_as_one_window(synthetic_folder):
    module = load_shipped(find_channel("E-1"))
    samples = load_test(synthetic_folder, "E-1")
    answer = apply_detector(module, samples)
    with torch.inference_mode():
        _, score, detected = module(torch.from_numpy(samples))
    np.testing.assert_array_equal(answer.score, score.numpy())
    np.testing.assert_array_equal(answer.detected, detected.numpy())
    assert answer.threshold == float(module.scorer.threshold)


def test_missing_data_and_weights_are_named(synthetic_folder, tmp_path):
    with pytest.raises(DataError, match="labels"):
        evaluate(tmp_path, [find_channel("E-1")], load_shipped)
    with pytest.raises(DataError, match=r"E-2\.npy"):
        evaluate(synthetic_folder, [find_channel("E-2")], load_shipped)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate(
            synthetic_folder,
            [find_channel("E-1")],
            lambda c: load_omnianomaly(weights_path(tmp_path, c.model)),
        )


@pytest.mark.parametrize("length", [1, 2, 300])
@pytest.mark.parametrize("threshold", [1.4, float("inf")])
def test_a_plot_is_drawn_for_any_length(tmp_path, length, threshold):
    answer = Scores(np.ones(length, np.float32), np.arange(length) % 50 == 0, threshold)
    path = tmp_path / "new" / "E-1.png"
    plot_channel(path, "E-1", np.zeros((length, 25), np.float32), answer, (Segment(0, 0),))
    assert path.read_bytes().startswith(PNG)
    assert path.stat().st_size > 5_000


@pytest.fixture(scope="module")
def real_report(real_telemetry):
    return evaluate(real_telemetry, CHANNELS, load_shipped)


def test_the_range_rule_and_random_alarms_score_what_is_known_of_them(real_report):
    rule = real_report.pooled["range rule"]
    figures = (rule.precision, rule.recall, rule.f1)
    assert figures == pytest.approx((0.62, 0.44, 0.51), abs=0.006)
    assert (rule.segments_hit, rule.segments) == (16, 34)
    assert real_report.pooled["random, 1 %"].adjusted_f1 == pytest.approx(0.966, abs=0.005)


def test_the_shipped_detectors_score_what_was_recorded(real_report):
    """The figures of the shipped weights; they change only with the weights or the scoring."""
    model = real_report.pooled["model"]
    assert (model.precision, model.recall) == pytest.approx((0.556, 0.540), abs=0.002)
    assert model.f1 == pytest.approx(0.548, abs=0.002)
    assert model.segments_hit == 28
    assert model.false_alarms_per_day == pytest.approx(1.17, abs=0.02)
    assert model.adjusted_f1 == pytest.approx(0.731, abs=0.003)


def test_the_shipped_detectors_clear_the_range_rule(real_report):
    model, rule = real_report.pooled["model"], real_report.pooled["range rule"]
    assert model.f1 > rule.f1 + 0.03
    assert model.segments_hit > rule.segments_hit + 10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from builder.families.anomaly.baselines import random_alarms, range_rule
from builder.families.anomaly.metrics import Counts, count, pool, summarise
from builder.families.anomaly.telemetry import Segment, to_segments


def mask(text):
    return np.array([c == "x" for c in text])


def test_a_case_computed_by_hand():
    #                 labelled: ..LLLL..LL
    figures = summarise(count(mask("x..x....x."), (Segment(2, 5), Segment(8, 9))))
    assert (figures.segments, figures.segments_hit) == (2, 2)
    assert figures.precision == pytest.approx(2 / 3)  # alarms at 0, 3, 8
    assert figures.recall == pytest.approx(2 / 6)
    assert figures.f1 == pytest.approx(4 / 9)
    assert figures.adjusted_precision == pytest.approx(6 / 7)
    assert figures.adjusted_recall == 1
    assert figures.adjusted_f1 == pytest.approx(12 / 13)
    assert figures.false_alarms_per_day == pytest.approx(1440 / 10)


def test_an_alarm_that_touches_a_segment_is_no_false_alarm():
    counts = count(mask("xxx..x"), (Segment(2, 3),))
    assert counts.false_alarms == 1
    assert counts.false_positives == 3


def test_nothing_detected_and_nothing_labelled_give_zeros():
    figures = summarise(count(mask("...."), ()))
    assert figures.f1 == figures.precision == figures.recall == figures.adjusted_f1 == 0
    assert summarise(Counts()).false_alarms_per_day == 0


def test_a_segment_that_runs_beyond_the_array_is_cut():
    counts = count(mask("...x"), (Segment(3, 9), Segment(20, 30)))
    assert (counts.true_positives, counts.false_negatives) == (1, 0)
    assert (counts.segments, counts.segments_hit) == (1, 1)


def brute_force(detected, truth):
    """Confusion counts and point adjustment, sample by sample, without the code under test."""
    adjusted = list(detected)
    for index in range(len(truth)):
        if truth[index] and detected[index]:
            for step in (-1, 1):
                at = index
                while 0 <= at < len(truth) and truth[at]:
                    adjusted[at] = True
                    at += step
    pairs = list(zip(detected, truth, strict=True))
    return (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        sum(a and t for a, t in zip(adjusted, truth, strict=True)),
    )


@given(st.data())
def test_counts_agree_with_brute_force(data):
    size = data.draw(st.integers(1, 50))
    detected = data.draw(hnp.arrays(bool, size))
    truth = data.draw(hnp.arrays(bool, size))
    counts = count(detected, to_segments(truth))
    expected = brute_force(detected.tolist(), truth.tolist())
    assert expected == (
        counts.true_positives,
        counts.false_positives,
        counts.false_negatives,
        counts.adjusted_true_positives,
    )


def test_pooling_adds_up():
    one = count(mask("x.x."), (Segment(2, 3),))
    two = count(mask("...."), (Segment(0, 0),))
    both = pool([one, two])
    assert both == one + two
    assert (both.samples, both.segments, both.segments_hit) == (8, 2, 1)


def test_the_range_rule_alarms_outside_the_widened_train_range():
    train, samples = np.zeros((2, 25), np.float32), np.zeros((5, 25), np.float32)
    train[:, 0] = [-1, 1]
    samples[:, 0] = [-1.2, -1.05, 0, 1.05, 1.2]
    samples[2, 1] = 99
    assert range_rule(train, samples).tolist() == [True, False, False, False, True]
    constant = np.zeros((2, 25), np.float32)
    samples[:, 0] = [0, 0.04, -0.04, 0.06, -0.06]
    assert range_rule(constant, samples).tolist() == [False, False, False, True, True]


def test_random_alarms_have_their_rate_and_are_repeatable():
    alarms = random_alarms(100_000, 0.01, 3)
    assert alarms.mean() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(alarms, random_alarms(100_000, 0.01, 3))

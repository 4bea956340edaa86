import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from builder.families.anomaly.thresholds import (
    MAX_SHAPE,
    PotSettings,
    fit_generalised_pareto,
    fit_pot,
    pareto_quantile,
)


@pytest.mark.parametrize("risk", [1e-3, 1e-4])
def test_exponential_scores_get_the_exponential_quantile(risk):
    scores = stats.expon.rvs(size=50_000, random_state=1)
    fit = fit_pot(scores, PotSettings(risk, 0.98))
    assert fit.method == "pot"
    assert fit.threshold == pytest.approx(stats.expon.isf(risk), rel=0.15)
    assert fit.shape == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.4])
def test_generalised_pareto_scores_get_their_own_quantile(shape):
    scores = stats.genpareto.rvs(shape, scale=2, size=50_000, random_state=2)
    fit = fit_pot(scores, PotSettings(1e-4, 0.98))
    assert fit.threshold == pytest.approx(stats.genpareto.isf(1e-4, shape, scale=2), rel=0.2)


def test_normal_scores_get_the_normal_quantile():
    scores = stats.norm.rvs(size=50_000, random_state=3)
    fit = fit_pot(scores, PotSettings(1e-4, 0.98))
    assert fit.threshold == pytest.approx(stats.norm.isf(1e-4), rel=0.1)


@given(st.floats(-0.9, 0.9), st.floats(0.01, 100), st.floats(1e-6, 0.9))
def test_the_quantile_is_that_of_scipy(shape, scale, tail):
    expected = stats.genpareto.isf(tail, shape, scale=scale)
    assert pareto_quantile(shape, scale, tail) == pytest.approx(expected, rel=1e-3)


def test_the_scale_of_scores_scales_the_threshold():
    scores = stats.expon.rvs(size=5_000, random_state=4)
    small, large = fit_pot(scores * 1e-6), fit_pot(scores * 1e6)
    assert large.threshold / small.threshold == pytest.approx(1e12, rel=1e-3)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(1000),
        np.full(1000, 3.5),
        np.array([1.0]),
        np.arange(20.0),
        np.concatenate((np.zeros(990), np.ones(10))),
    ],
    ids=["zeros", "constant", "one", "few", "two values"],
)
def test_scores_without_a_tail_fall_back_to_their_largest(scores):
    fit = fit_pot(scores)
    assert fit.method == "quantile"
    assert fit.threshold == scores.max()


def test_a_risk_larger_than_the_tail_is_a_plain_quantile():
    scores = stats.expon.rvs(size=10_000, random_state=5)
    fit = fit_pot(scores, PotSettings(0.1, 0.98))
    assert fit.method == "quantile"
    assert fit.threshold == np.quantile(scores, 0.9)


def test_a_wild_tail_keeps_a_finite_variance():
    excesses = stats.genpareto.rvs(2.5, size=200, random_state=6)
    shape, scale = fit_generalised_pareto(excesses)
    assert shape == MAX_SHAPE
    assert 0 < scale < np.inf


@pytest.mark.parametrize("scores", [np.array([]), np.array([1, np.nan]), np.zeros((2, 2))])
def test_scores_that_are_no_finite_vector_are_refused(scores):
    with pytest.raises(ValueError, match="finite"):
        fit_pot(scores)


@pytest.mark.parametrize(("risk", "level"), [(0, 0.9), (1, 0.9), (0.1, 0), (0.1, 1), (2, 2)])
def test_settings_are_probabilities(risk, level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        PotSettings(risk, level)

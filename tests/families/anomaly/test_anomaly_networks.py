import numpy as np
import pytest
import torch
from torch import nn

from builder.families.anomaly.calibration import ScoreSettings, fit_normaliser, fit_scorer
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.scoring import SCORE_MAX, STATISTICS, WINDOWS, Scorer
from builder.families.anomaly.networks.tranad import WINDOW, Attention, TranAD

KINDS = (OmniAnomaly, TranAD)
LENGTHS = (1, 2, 10, 100, 1000)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def module(request, train_array):
    """An untrained detector, calibrated on synthetic telemetry."""
    torch.manual_seed(0)
    detector = request.param()
    fit_normaliser(detector.normaliser, train_array)
    fit_scorer(detector, train_array, ScoreSettings())
    return detector.eval()


def samples(length, seed=0):
    rng = np.random.default_rng(seed)
    array = rng.uniform(-1, 1, (length, 25)).astype(np.float32)
    array[:, 1:] = rng.random((length, 24)) < 0.1
    return torch.from_numpy(array)


@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_gives_the_three_outputs(module, length):
    with torch.inference_mode():
        reconstruction, score, detected = module(samples(length))
    assert reconstruction.shape == (length, 25)
    assert score.shape == detected.shape == (length,)
    assert (reconstruction.dtype, score.dtype) == (torch.float32, torch.float32)
    assert detected.dtype == torch.bool
    assert torch.isfinite(reconstruction).all()
    assert (score >= 0).all()
    torch.testing.assert_close(detected, score > module.scorer.threshold)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_of_one_length_answers_every_length(module):
    with torch.inference_mode():
        traced = torch.jit.trace(module, (samples(7),), check_trace=False)
        for length in LENGTHS:
            for got, want in zip(traced(samples(length)), module(samples(length)), strict=True):
                torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


def test_answers_are_repeatable_and_leave_the_generator_alone(module):
    with torch.inference_mode():
        state = torch.get_rng_state()
        first, second = module(samples(50)), module(samples(50))
        assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_answers_are_causal(module):
    window = samples(150)
    with torch.inference_mode():
        whole, head = module(window), module(window[:90])
    for full, part in zip(whole, head, strict=True):
        torch.testing.assert_close(full[:90], part, atol=1e-5, rtol=1e-5)


def reach(module, length=40, changed=5):
    """Last sample whose reconstruction moves when one sample changes."""
    window, other = samples(length), samples(length)
    other[changed, 0] = -other[changed, 0]
    with torch.inference_mode():
        moved = (module(window)[0] - module(other)[0]).abs().amax(dim=1) > 0
    return int(moved.nonzero().max()), int(moved.nonzero().min())


def test_the_gru_remembers_the_whole_window():
    torch.manual_seed(1)
    last, first = reach(OmniAnomaly().eval())
    assert first == 5
    assert last > 5 + WINDOW


def test_tranad_windows_hold_ten_samples_the_scored_one_included():
    torch.manual_seed(1)
    last, first = reach(TranAD().eval())
    assert (first, last) == (5, 5 + WINDOW - 1)


def test_tranad_windows_are_those_of_a_plain_loop():
    values = samples(23)
    windows = TranAD().windows(values)
    for t in range(23):
        rows = [values[max(0, t - WINDOW + 1 + i)] for i in range(WINDOW)]
        assert torch.equal(windows[:, t], torch.stack(rows))


def test_attention_is_that_of_torch():
    torch.manual_seed(2)
    own, reference = Attention().eval(), nn.MultiheadAttention(50, 25).eval()
    reference.load_state_dict(own.state_dict())
    queries, memory = torch.randn(3, 4, 50), torch.randn(10, 4, 50)
    expected, _ = reference(queries, memory, memory)
    torch.testing.assert_close(own(queries, memory), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_invalid_sample_is_detected_and_spoils_no_other(module, value):
    window = samples(80)
    window[40, 3] = value
    with torch.inference_mode():
        reconstruction, score, detected = module(window)
    assert torch.isfinite(reconstruction).all()
    assert score[40] == SCORE_MAX
    assert detected[40]
    assert torch.isfinite(score).all()
    assert (score == SCORE_MAX).sum() == 1


def test_an_uncalibrated_detector_detects_only_invalid_samples():
    window = samples(30) * 50
    window[7] = float("nan")
    with torch.inference_mode():
        _, _, detected = OmniAnomaly().eval()(window)
    assert detected.nonzero().tolist() == [[7]]


def plain_statistics(normal, reconstruction):
    """The statistics of `Scorer`, sample by sample in NumPy; NaN where a window is not full."""
    residual, activity = np.abs(normal - reconstruction), np.zeros_like(normal)
    activity[1:] = np.abs(normal[1:] - normal[:-1])
    rows = []
    for name, window in STATISTICS:
        row = np.full_like(normal, np.nan)
        for t in range(window - 1, len(normal)):
            part = slice(t - window + 1, t + 1)
            row[t] = {
                "value": lambda p: normal[p].mean(0),
                "mean": lambda p: normal[p].mean(0),
                "range": lambda p: np.ptp(normal[p], axis=0),
                "activity": lambda p: activity[p].mean(0),
                "residual": lambda p: residual[p].mean(0),
            }[name](part)
        rows.append(row)
    return rows


def test_the_score_is_the_largest_distance_of_the_statistics():
    rng = np.random.default_rng(5)
    length, scorer = 3 * max(WINDOWS), Scorer()
    normal, restored = (rng.random((length, 25)).astype(np.float32) for _ in range(2))
    for buffer in (scorer.centre, scorer.half_width):
        buffer.copy_(torch.from_numpy(rng.uniform(0.1, 1, buffer.shape)))
    scorer.weights.copy_(torch.from_numpy(rng.random(25) < 0.3))
    finite = torch.ones(length, dtype=torch.bool)
    score = scorer(torch.from_numpy(normal), torch.from_numpy(restored), finite)
    distances = [
        np.abs(row - scorer.centre[i].numpy()) / scorer.half_width[i].numpy()
        for i, row in enumerate(plain_statistics(normal, restored))
    ]
    chosen = np.array(distances)[:, :, scorer.weights.numpy() > 0]
    np.testing.assert_allclose(score.numpy(), np.nanmax(chosen, axis=(0, 2)), rtol=1e-4)


def test_windows_with_an_invalid_sample_are_not_judged():
    scorer, length = Scorer(), 200
    scorer.half_width.fill_(1e6)
    scorer.half_width[[i for i, s in enumerate(STATISTICS) if s == ("mean", 16)]] = 1e-3
    normal = torch.ones(length, 25)
    finite = torch.ones(length, dtype=torch.bool)
    finite[100] = False
    score = scorer(normal, normal, finite)
    suspended = (score < 1).nonzero().flatten().tolist()
    assert suspended == [*range(15), *range(101, 116)]


def test_only_the_chosen_columns_are_scored(train_array):
    torch.manual_seed(3)
    detector = OmniAnomaly()
    fit_normaliser(detector.normaliser, train_array)
    fit_scorer(detector, train_array, ScoreSettings(columns=(0, 4)))
    assert detector.scorer.weights.nonzero().flatten().tolist() == [0, 4]
    detector.scorer.half_width[[name == "residual" for name, _ in STATISTICS]] = 1e6
    quiet = torch.from_numpy(train_array[:1]).repeat(5, 1)
    for column, expected in ((0, True), (4, True), (9, False)):
        loud = quiet.clone()
        loud[3, column] = 90.0
        scorer = detector.scorer
        normal, finite = detector.normaliser(loud)
        score = scorer(normal, detector.normaliser(quiet)[0], finite)
        assert bool(score[3] > scorer.threshold) is expected


def test_values_far_outside_are_clipped(train_array):
    detector = OmniAnomaly()
    fit_normaliser(detector.normaliser, train_array)
    normal, _ = detector.normaliser(torch.full((1, 25), 1e30))
    assert normal.max() == 2
    inside, _ = detector.normaliser(torch.from_numpy(train_array))
    assert (inside.min(), inside.max()) == (0, 1)
    back = detector.normaliser.inverse(inside)
    torch.testing.assert_close(back, torch.from_numpy(train_array), atol=1e-6, rtol=0)


def test_a_command_that_was_never_sent_while_training_does_not_reach_the_network(
    module, train_array
):
    unknown = int(np.flatnonzero(np.ptp(train_array, axis=0) == 0)[0])
    known = int(np.flatnonzero(np.ptp(train_array, axis=0) > 0)[1])
    window = torch.from_numpy(train_array[:30].copy())
    with torch.inference_mode():
        before = module(window)[0]
        window[10:, unknown] = 1.0 - window[10:, unknown]
        torch.testing.assert_close(module(window)[0], before, atol=0, rtol=0)
        window[10:, known] = 1.0 - window[10:, known]
        assert not torch.equal(module(window)[0], before)

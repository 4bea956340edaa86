"""The stages around the detectors against plain NumPy."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from builder.config import Config
from builder.families.anomaly.models import postprocessing, preprocessing
from builder.families.anomaly.networks.processing import (
    SCORE_MAX,
    Postprocessing,
    SubsystemVote,
    ValidityMask,
)

BAD = (np.nan, np.inf, -np.inf)


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(preprocessing.build().SerializeToString(), options)


def rows(valid: list[bool]) -> np.ndarray:
    """Telemetry whose row t holds t + 1 everywhere; one feature is bad where it is not valid."""
    telemetry = np.repeat(np.arange(1, len(valid) + 1, dtype=np.float32), 25).reshape(-1, 25)
    for t in np.flatnonzero(~np.array(valid, bool)):
        telemetry[t, t % 25] = BAD[t % 3]
    return telemetry


@pytest.mark.parametrize(
    ("valid", "sources"),
    [
        ([True, True, True], [1, 2, 3]),
        ([True, False, False, True], [1, 1, 1, 4]),
        ([False, False, True, False], [3, 3, 3, 3]),
        ([False, True, False, True, False], [2, 2, 2, 4, 4]),
        ([False, False], [0, 0]),
        ([False], [0]),
        ([True], [1]),
        ([], []),
    ],
)
def test_drop_outs_are_filled_from_the_last_valid_row(
    session: ort.InferenceSession, valid: list[bool], sources: list[int]
) -> None:
    filled, reported = session.run(None, {"telemetry": rows(valid)})
    assert filled.shape == (len(valid), 25)
    assert reported.tolist() == valid
    assert (filled == np.array(sources, np.float32).reshape(-1, 1)).all()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 40), st.just(25)),
        elements=st.sampled_from([0.0, -1.5, 3.4028234663852886e38, -(2.0**-66), *BAD]),
        fill=st.just(0.25),
    )
)
def test_the_graph_equals_its_reference(
    session: ort.InferenceSession, telemetry: np.ndarray
) -> None:
    filled, valid = session.run(None, {"telemetry": telemetry})
    expected = preprocessing.reference({"telemetry": telemetry})
    np.testing.assert_array_equal(filled, expected["input_data"])
    np.testing.assert_array_equal(valid, expected["sample_valid"])


def test_long_telemetry_takes_linear_memory(session: ort.InferenceSession) -> None:
    telemetry = preprocessing.example({"T": 100_000}, np.random.default_rng(1))["telemetry"]
    filled, valid = session.run(None, {"telemetry": telemetry})
    expected = preprocessing.reference({"telemetry": telemetry})
    np.testing.assert_array_equal(filled, expected["input_data"])
    assert 0 < (~valid).sum() < len(valid)


def test_examples_have_drop_outs_and_valid_samples() -> None:
    telemetry = preprocessing.example({"T": 100}, np.random.default_rng(0))["telemetry"]
    valid = np.isfinite(telemetry).all(axis=1)
    assert not valid[0]
    assert 50 < valid.sum() < 100


def tensors(*values: list[object]) -> list[torch.Tensor]:
    return [torch.tensor(v, dtype=torch.bool if type(v[0]) is bool else None) for v in values]


def test_either_detector_raises_the_alarm_but_never_about_an_invalid_sample() -> None:
    fuse = Postprocessing(omnianomaly_threshold=2.0, tranad_threshold=10.0)
    score, detected, votes = fuse(
        *tensors(
            [1.0, 3.0, 1.0, 4.0, 4.0],  # OmniAnomaly's score
            [False, True, False, True, True],
            [5.0, 5.0, 20.0, 50.0, 50.0],  # TranAD's score
            [False, False, True, True, True],
            [True, True, True, True, False],
        )
    )
    assert score.tolist() == [0.5, 1.5, 2.0, 5.0, 0.0]
    assert detected.tolist() == [False, True, True, True, False]
    assert votes.tolist() == [0, 1, 1, 2, 0]
    assert (score.dtype, detected.dtype, votes.dtype) == (torch.float32, torch.bool, torch.int32)


def test_a_fused_score_above_one_is_an_alarm() -> None:
    generator = torch.Generator().manual_seed(4)
    omni, tranad = (torch.rand(1000, generator=generator) * 4 for _ in range(2))
    fuse = Postprocessing(1.7, 2.9)
    valid = torch.ones(1000, dtype=torch.bool)
    score, detected, _ = fuse(omni, omni > 1.7, tranad, tranad > 2.9, valid)
    assert torch.equal(score > 1, detected)


def test_scores_stay_finite_without_a_threshold_and_with_a_zero_one() -> None:
    fuse = Postprocessing(float("inf"), 0.0)
    ones = torch.ones(1)
    yes = torch.ones(1, dtype=torch.bool)
    score, _, _ = fuse(ones * 1e6, yes, ones, yes, yes)
    assert score.item() == SCORE_MAX


def test_the_mask_takes_back_what_was_said_about_invalid_samples() -> None:
    score, detected = ValidityMask()(
        *tensors([1.0, 2.0, 3.0], [True, True, False], [True, False, True])
    )
    assert score.tolist() == [1.0, 0.0, 3.0]
    assert detected.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("quorum", "expected"), [(1, [True, True, False]), (2, [True, False, False])]
)
def test_a_subsystem_alarm_takes_a_quorum(quorum: int, expected: list[bool]) -> None:
    vote = SubsystemVote([1.0, 2.0, 3.0, 4.0, 5.0], quorum)
    flags = np.zeros((3, 5), bool)
    flags[0, [0, 3]] = flags[1, 4] = True
    scores = torch.full((3,), 6.0)
    answers = [t for column in flags.T for t in (scores, torch.from_numpy(column.copy()))]
    score, detected, votes, reported = vote(*answers)
    assert score.tolist() == [6.0] * 3
    assert detected.tolist() == expected
    assert votes.tolist() == [2, 1, 0]
    assert np.array_equal(reported.numpy(), flags)


def test_the_vote_lists_channels_in_the_subsystems_order(config: Config) -> None:
    stage = postprocessing.subsystem_vote(config)
    assert [t.name for t in stage.inputs][:4] == [
        "score_E-1", "detected_E-1", "score_E-2", "detected_E-2",
    ]  # fmt: skip
    assert stage.outputs[-1].dims == ("T", 5)


def test_a_stage_is_rebuilt_when_a_threshold_may_have_changed(config: Config) -> None:
    names = {file.name for file in postprocessing.postprocessing(config).source.files}
    assert names == {"SMAP_E-1.safetensors", "tranad_sat1.safetensors"}
    names = {file.stem for file in postprocessing.subsystem_vote(config).source.files}
    assert names == {f"SMAP_E-{i}" for i in range(1, 6)}

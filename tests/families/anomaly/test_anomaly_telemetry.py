import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import DataError
from builder.families.anomaly import telemetry
from builder.families.anomaly.synthetic import make_channel, write_folder
from builder.families.anomaly.telemetry import Segment, merge, to_mask, to_segments

HEADER = "chan_id,spacecraft,anomaly_sequences,class,num_values\n"


def write_labels(folder, rows):
    (folder / "labeled_anomalies.csv").write_text(HEADER + rows)


def test_rows_of_one_channel_are_united_and_ends_belong_to_their_segment(tmp_path):
    write_labels(
        tmp_path,
        'P-2,SMAP,"[[5350, 6575]]",[point],8209\n'
        'E-1,SMAP,"[[5, 7], [2, 3]]","[a, b]",9\n'
        'P-2,SMAP,"[[5300, 6420]]",[point],8209\n',
    )
    labels = telemetry.load_labels(tmp_path)
    assert labels["P-2"] == (Segment(5300, 6575),)
    assert labels["E-1"] == (Segment(2, 3), Segment(5, 7))
    assert labels["P-2"][0].length == 1276
    assert to_mask(labels["E-1"], 9).tolist() == [0, 0, 1, 1, 0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column"),
        ("chan_id,class\nE-1,x\n", "no column anomaly_sequences"),
        (HEADER + "E-1,SMAP,[[1 2]],x,1\n", "labeled_anomalies.csv:2.*not a list"),
        (HEADER + 'E-1,SMAP,"[[1, 2, 3]]",x,1\n', "not a list"),
        (HEADER + 'E-1,SMAP,"[[2, 1]]",x,1\n', "0 <= first <= last"),
        (HEADER + 'E-1,SMAP,"[[-1, 1]]",x,1\n', "0 <= first <= last"),
        (HEADER + 'E-1,SMAP,"[[0.5, 1]]",x,1\n', "0 <= first <= last"),
        (HEADER + 'E-1,SMAP,"__import__(1)",x,1\n', "not a list"),
        (HEADER + "E-1\n", "not a list"),
        (HEADER + f'E-1,SMAP,"{"[" * 100000}",x,1\n', "not a list"),
        (HEADER + 'E-1,SMAP,"[[1, 2]]"x,x,1\n', "not a csv"),
    ],
)
def test_a_bad_file_of_labels_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "labeled_anomalies.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        telemetry.load_labels(tmp_path)


def test_a_binary_or_missing_file_of_labels_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file of labels"):
        telemetry.load_labels(tmp_path)
    (tmp_path / "labeled_anomalies.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        telemetry.load_labels(tmp_path)


def test_samples_are_read_as_fp32(tmp_path):
    array = np.random.default_rng(0).random((7, 25))
    np.save(tmp_path / "x.npy", array)
    samples = telemetry.load_samples(tmp_path / "x.npy")
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, array.astype(np.float32))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 24)), r"\[5, 24\], not \[T,25\]"),
        (np.zeros(25), r"\[25\]"),
        (np.zeros((1, 5, 25)), r"\[1, 5, 25\]"),
        (np.zeros((0, 25)), "no samples"),
        (np.full((5, 25), "x"), "not numbers"),
        (np.zeros((5, 25), dtype=complex), "not numbers"),
        (np.full((5, 25), 1e300), "beyond FP32"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=message) as caught:
        telemetry.load_samples(tmp_path / "x.npy")
    assert "x.npy" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_located(tmp_path, value):
    array = np.zeros((5, 25))
    array[3, 2] = value
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=r"1 values .* row 3, column 2"):
        telemetry.load_samples(tmp_path / "x.npy")


def test_missing_truncated_foreign_and_pickled_files_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(DataError, match="no such telemetry"):
        telemetry.load_samples(path)
    np.save(path, np.zeros((50, 25)))
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[:100], whole[:-1], b"hello, I am text", b"PK\x03\x04zip"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a complete"):
            telemetry.load_samples(path)
    path.write_bytes(whole + b"more")
    with pytest.raises(DataError, match="not a single"):
        telemetry.load_samples(path)
    np.save(path, np.array([object()] * 3), allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle=False"):
        telemetry.load_samples(path)


def test_an_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros((5, 25)))
    with pytest.raises(DataError, match="not a single"):
        telemetry.load_samples(tmp_path / "x.npz")


@given(st.lists(st.booleans(), max_size=60))
def test_masks_and_segments_are_inverse(bits):
    mask = np.array(bits, dtype=bool)
    segments = to_segments(mask)
    np.testing.assert_array_equal(to_mask(segments, mask.size), mask)
    assert all(not mask[s.first - 1] for s in segments if s.first > 0)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=8))
def test_merging_keeps_the_union_and_leaves_gaps(pairs):
    segments = [Segment(first, first + more) for first, more in pairs]
    merged = merge(segments)
    np.testing.assert_array_equal(to_mask(merged, 60), to_mask(segments, 60))
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(merged))


def test_synthetic_telemetry_is_read_back_and_repeatable(tmp_path, synthetic_folder):
    made = make_channel("E-1", 0, 260, 400)
    again = make_channel("E-1", 0, 260, 400)
    np.testing.assert_array_equal(made.test, again.test)
    assert not np.array_equal(made.test, make_channel("E-1", 1, 260, 400).test)
    train = telemetry.load_train(synthetic_folder, "E-1")
    np.testing.assert_array_equal(train, made.train.astype(np.float32))
    labels = telemetry.load_labels(synthetic_folder)
    assert set(labels) == {"A-1", "E-1"}
    assert labels["E-1"] == made.segments
    assert len(made.segments) == 2
    assert telemetry.channels_with_data(synthetic_folder, ("E-1", "E-2")) == ("E-1",)
    with pytest.raises(DataError, match="no telemetry"):
        telemetry.channels_with_data(tmp_path, ("E-1",))


def test_synthetic_telemetry_has_the_layout_for_all_channels(tmp_path):
    write_folder(tmp_path, train_samples=120, test_samples=150)
    assert len(list((tmp_path / "train").glob("*.npy"))) == 27
    for path in (tmp_path / "test").glob("*.npy"):
        samples = telemetry.load_samples(path)
        assert samples.shape == (150, 25)
        assert np.abs(samples).max() <= 1
        assert set(np.unique(samples[:, 1:])) <= {0.0, 1.0}


def test_the_real_folder_has_34_segments_in_16_percent_of_its_samples(real_telemetry):
    from builder.families.anomaly.channels import CHANNEL_NAMES

    labels = telemetry.load_labels(real_telemetry)
    lengths = {name: len(telemetry.load_test(real_telemetry, name)) for name in CHANNEL_NAMES}
    anomalous = sum(to_mask(labels[name], lengths[name]).sum() for name in CHANNEL_NAMES)
    assert sum(len(labels[name]) for name in CHANNEL_NAMES) == 34
    assert sum(lengths.values()) == 221_174
    assert anomalous / 221_174 == pytest.approx(0.1599, abs=5e-5)

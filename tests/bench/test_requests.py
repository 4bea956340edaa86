"""Requests as perf_analyzer and the loop without a server read them."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor

from builder.bench.requests import perf_analyzer_json, read_request, write_requests
from builder.errors import DataError, RepositoryError


def test_numbers_keep_their_bits_and_shape() -> None:
    array = np.array([[1.5, np.nan], [-0.0, 1e-38]], np.float32)
    [entry] = json.loads(perf_analyzer_json([{"x": array}], batched=False))["data"]
    raw = base64.b64decode(entry["x"]["content"]["b64"])
    assert entry["x"]["shape"] == [2, 2]
    assert raw == array.tobytes()


def test_strings_are_what_the_client_library_reads() -> None:
    texts = ["a lighthouse", "é ☃", ""]
    array = np.array([[text.encode() for text in texts]], object)
    [entry] = json.loads(perf_analyzer_json([{"prompt": array}], batched=True))["data"]
    raw = base64.b64decode(entry["prompt"]["content"]["b64"])
    assert entry["prompt"]["shape"] == [3]
    assert [t.decode() for t in deserialize_bytes_tensor(raw)] == texts


def test_a_batch_of_several_is_refused() -> None:
    with pytest.raises(DataError, match="one sample"):
        perf_analyzer_json([{"x": np.zeros((2, 3), np.float32)}], batched=True)


def test_files_hold_the_same_arrays(tmp_path: Path) -> None:
    request = {"x": np.arange(6.0).reshape(2, 3), "name": np.array([[b"E-1"]], object)}
    [path] = write_requests(tmp_path / "new", [request])
    again = read_request(path)
    assert again["x"].dtype == np.float64
    np.testing.assert_array_equal(again["x"], request["x"])
    assert again["name"].tolist() == [[b"E-1"]]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="writing requests"):
        write_requests(tmp_path / "file" / "new", [])

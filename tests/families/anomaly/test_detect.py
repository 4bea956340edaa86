"""`builder detect` as far as it goes without a server; the rest is tested in `served/`."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder.config import Config
from builder.errors import BuilderError, DataError, ServerError, UsageError
from builder.families.anomaly import remote
from builder.families.anomaly.detect import detect_command
from builder.families.anomaly.segments import bridge, detections


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100, width=32)), max_size=60))
def test_segments_are_the_maximal_runs(samples: list[tuple[bool, float]]) -> None:
    flags = np.array([flag for flag, _ in samples], bool)
    scores = np.array([score for _, score in samples], np.float32)
    expected = []
    for t, flag in enumerate(flags):  # sample by sample, nothing vectorised
        if flag and (t == 0 or not flags[t - 1]):
            expected.append([t, t, scores[t], t])
        elif flag:
            expected[-1][1] = t
            if scores[t] > expected[-1][2]:
                expected[-1][2:] = [scores[t], t]
    found = detections(flags, scores)
    assert [[d.segment.first, d.segment.last, d.peak, d.peak_at] for d in found] == expected


@given(st.lists(st.sampled_from("-x?"), max_size=40))
def test_a_drop_out_does_not_end_an_anomaly(samples: list[str]) -> None:
    """`-` is normal, `x` flagged, `?` invalid."""
    expected = list(samples)
    for t, sample in enumerate(samples):
        before = [s for s in samples[:t] if s != "?"]
        after = [s for s in samples[t:] if s != "?"]
        if sample == "?" and before and after and before[-1] == after[0] == "x":
            expected[t] = "x"
    text = np.array(samples, "U1")
    bridged = bridge(text == "x", text != "?")
    assert bridged.tolist() == [s == "x" for s in expected]


@pytest.mark.parametrize("samples", [1, 19_999, 20_000, 20_001, 70_000])
def test_chunks_cover_every_sample_once(samples: int) -> None:
    parts = list(remote.chunks(samples))
    assert [first for _, first, _ in parts] == [0, *(end for _, _, end in parts[:-1])]
    assert parts[-1][2] == samples
    for context, first, end in parts:
        assert end - context <= remote.MAX_SAMPLES
        assert first - context == min(first, remote.CONTEXT)
    assert len(parts) == 1 or samples > remote.MAX_SAMPLES


def test_long_telemetry_is_scored_with_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for a server sums up the last 50 samples, as a detector with a memory."""
    telemetry = np.random.default_rng(0).random((1234, 25), dtype=np.float32)

    def running_sum(values: np.ndarray) -> np.ndarray:
        total = np.cumsum(np.concatenate([np.zeros(50), values.astype(np.float64)]))
        return (total[50:] - total[:-50]).astype(np.float32)

    asked = []

    def infer(client: Any, model: str, arrays: Any, **options: Any) -> Any:
        asked.append((len(arrays["telemetry"]), options["version"]))
        score = running_sum(arrays["telemetry"][:, 0])
        return {
            "anomaly_score": score,
            "anomaly_detected": score > 25,
            "sample_valid": np.ones(len(score), bool),
        }

    monkeypatch.setattr(remote, "infer", infer)
    monkeypatch.setattr(remote, "MAX_SAMPLES", 500)
    monkeypatch.setattr(remote, "CONTEXT", 60)
    model = remote.RemoteModel("m", "3", "telemetry", sanitises=True, fused=False)
    done: list[int] = []
    scored = model.score(None, telemetry, timeout=1, progress=done.append)  # type: ignore[arg-type]
    np.testing.assert_allclose(scored.score, running_sum(telemetry[:, 0]), rtol=1e-5)
    assert scored.valid is not None
    assert len(scored.valid) == 1234
    assert asked == [(500, "3"), (500, "3"), (354, "3")]
    assert done == [500, 940, 1234]


def metadata(inputs: list[Any], outputs: list[str]) -> Any:
    return SimpleNamespace(
        inputs=[SimpleNamespace(name=n, datatype=d, shape=s) for n, d, s in inputs],
        outputs=[SimpleNamespace(name=n) for n in outputs],
    )


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ([("a", "FP32", [-1, 25]), ("b", "FP32", [-1, 25])], ["anomaly_score", "anomaly_detected"]),
        ([("a", "FP16", [-1, 25])], ["anomaly_score", "anomaly_detected"]),
        ([("a", "FP32", [-1, 38])], ["anomaly_score", "anomaly_detected"]),
        ([("a", "FP32", [-1, 25])], ["logits"]),
    ],
)
def test_a_model_of_another_kind_is_refused(inputs: list[Any], outputs: list[str]) -> None:
    client = SimpleNamespace(get_model_metadata=lambda *_: metadata(inputs, outputs))
    with pytest.raises(UsageError, match="does not score the telemetry of one channel"):
        remote.find_model(client, "other")  # type: ignore[arg-type]


def save(path: Path, array: Any, **options: Any) -> str:
    np.save(path, array, **options)
    return str(path)


def run(config: Config, *args: str) -> None:
    """Run the command; what it raises is what `builder` prints."""
    result = CliRunner().invoke(detect_command, list(args), obj=config)
    if result.exception is not None:
        raise result.exception


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((10, 24), np.float32), r"shape \[10, 24\], not \[T,25\]"),
        (np.zeros(25, np.float32), r"shape \[25\], not \[T,25\]"),
        (np.zeros((0, 25), np.float32), "holds no samples"),
        (np.full((3, 25), "x"), "not numbers"),
    ],
)
def test_a_file_that_is_no_telemetry_is_refused(
    config: Config, tmp_path: Path, array: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(config, save(tmp_path / "x.npy", array), "--channel", "E-1")


def test_a_pickle_is_never_loaded(config: Config, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    file = save(tmp_path / "x.npy", np.array([[Bomb()]], object), allow_pickle=True)
    with pytest.raises(DataError, match="not a complete"):
        run(config, file, "--channel", "E-1")
    assert not (tmp_path / "exploded").exists()


def test_without_a_server_it_says_how_to_start_one(config: Config, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        file = save(tmp_path / "x.npy", np.zeros((5, 25), np.float32))
        with pytest.raises(ServerError, match="builder serve"):
            run(config, file, "--channel", "E-1", "--url", url)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "which detector"),
        (["--channel", "X-1"], "unknown channel 'X-1'"),
        (["--channel", "E-1", "-o", "plot.docx"], "plots are saved as .png"),
        (["--channel", "E-1", "--pipeline", "SMAP_A-1_pipeline"], "trained on channel A-1"),
        (["--channel", "A-1", "--pipeline", "anomaly_pipeline"], "trained on channel E-1"),
    ],
)
def test_contradictions_are_found_before_anything_is_read(
    config: Config, args: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(config, "missing.npy", *args)
    assert isinstance(caught.value, BuilderError)
    assert caught.value.exit_code == 2

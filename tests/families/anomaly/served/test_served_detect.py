"""`builder detect` against a real server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from builder.config import Config
from builder.errors import DataError, ServerError, UsageError
from builder.families.anomaly import remote
from builder.families.anomaly.detect import detect_command
from builder.families.anomaly.models.detector import telemetry_window
from builder.family import Registry
from builder.serving.server import TritonServer

pytestmark = pytest.mark.e2e

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def telemetry(tmp_path: Path) -> Path:
    """600 samples; 200 to 219 are far outside of anything that training saw."""
    window = telemetry_window(600, np.random.default_rng(21))
    window[:, 0] = 0.0
    window[200:220, 0] = 40.0
    np.save(tmp_path / "pass.npy", window)
    return tmp_path / "pass.npy"


@pytest.fixture
def damaged(telemetry: Path) -> Path:
    """The same with three drop-outs, one of them within the anomaly."""
    window = np.load(telemetry)
    window[[10, 205, 599], [0, 3, 24]] = [np.nan, np.inf, -np.inf]
    np.save(telemetry.with_name("damaged.npy"), window)
    return telemetry.with_name("damaged.npy")


def run(config: Config, server: TritonServer, *args: Any) -> str:
    result = CliRunner().invoke(
        detect_command, [*map(str, args), "--url", server.grpc_url], obj=config
    )
    if result.exception is not None:
        raise result.exception
    return result.stdout


def detected(samples: np.ndarray) -> list[list[int]]:
    """First and last of each run of true values, sample by sample."""
    runs: list[list[int]] = []
    for t in np.flatnonzero(samples).tolist():
        if runs and runs[-1][1] == t - 1:
            runs[-1][1] = t
        else:
            runs.append([t, t])
    return runs


@pytest.mark.parametrize("pipeline", [None, "SMAP_E-1_pipeline", "anomaly_pipeline"])
def test_the_segments_are_those_of_the_reference(
    config: Config, built: Config, native_server: TritonServer, telemetry: Path,
    pipeline: str | None,
) -> None:  # fmt: skip
    args = ["--channel", "E-1", *(["--pipeline", pipeline] if pipeline else [])]
    report = json.loads(run(config, native_server, telemetry, *args, "--json"))
    known = Registry.load(built).pipelines[pipeline or "SMAP_E-1_pipeline"]
    expected = known.reference({"telemetry": np.load(telemetry)})
    found = [[s["first"], s["last"]] for s in report["segments"]]
    assert found == detected(expected["anomaly_detected"])
    assert any(first <= 200 <= last for first, last in found)
    for segment in report["segments"]:
        inside = expected["anomaly_score"][segment["first"] : segment["last"] + 1]
        assert segment["peak_score"] == pytest.approx(inside.max(), rel=1e-4)
        assert segment["length"] == len(inside)
    assert report["samples"] == 600
    assert report["anomalous_samples"] == expected["anomaly_detected"].sum()
    assert Path(report["plot"]).read_bytes().startswith(PNG)


def test_drop_outs_need_a_pipeline_that_fills_them(
    config: Config, native_server: TritonServer, damaged: Path
) -> None:
    with pytest.raises(DataError, match="3 of 600 samples") as caught:
        run(config, native_server, damaged, "--channel", "E-1")
    assert "SMAP_E-1_pipeline" in str(caught.value.hint)
    report = json.loads(
        run(config, native_server, damaged, "--pipeline", "SMAP_E-1_pipeline", "--json")
    )
    assert report["invalid_samples"] == 3
    # Sample 205 is no detection, but neither does it cut the anomaly in two.
    spans = [range(s["first"], s["last"] + 1) for s in report["segments"]]
    assert any({204, 205, 206} <= set(span) for span in spans)
    filled = sum(t in span for span in spans for t in (10, 205, 599))
    assert report["anomalous_samples"] == sum(map(len, spans)) - filled


def test_it_prints_a_table_and_saves_the_plot_where_told(
    config: Config, native_server: TritonServer, damaged: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "new" / "plot.png"
    text = run(config, native_server, damaged, "--pipeline", "anomaly_pipeline", "-o", plot)
    assert "peak score" in text
    assert "3 samples held NaN or Inf and were filled in" in text
    assert plot.read_bytes().startswith(PNG)


def test_telemetry_longer_than_a_request_is_joined_seamlessly(
    config: Config, native_server: TritonServer, telemetry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (telemetry, "--pipeline", "anomaly_pipeline", "--json", "--no-plot")
    whole = json.loads(run(config, native_server, *args))
    monkeypatch.setattr(remote, "MAX_SAMPLES", 300)
    monkeypatch.setattr(remote, "CONTEXT", 150)
    parted = json.loads(run(config, native_server, *args))
    assert whole["segments"]
    for a, b in zip(whole["segments"], parted["segments"], strict=True):
        assert (a["first"], a["last"]) == (b["first"], b["last"])
        assert a["peak_score"] == pytest.approx(b["peak_score"], rel=1e-3)
    assert whole["plot"] is None


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--pipeline", "multi_detector"], UsageError, "does not score the telemetry of one"),
        (["--pipeline", "nothing"], ServerError, "the server does not have this model"),
        (["--channel", "E-1", "--version", "77"], ServerError, "SMAP_E-1 version 77"),
    ],
)
def test_a_model_that_cannot_answer_is_named(
    config: Config, native_server: TritonServer, telemetry: Path,
    args: list[str], error: type[Exception], message: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        run(config, native_server, telemetry, *args)

"""`builder bench` from the outside, with the real perf_analyzer on a real server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.bench.results import read_report
from builder.bench.tool import PerfAnalyzer
from builder.config import Config
from builder.errors import ServerError
from builder.serving.client import connect


def _command(config: Config, folder: Path, *words: str, tool: Path | None = None) -> Any:
    """Arguments of subprocess.run for `builder bench` in the folder of `config`."""
    environ = {
        **os.environ,
        "BUILDER_PATHS_REPOSITORY": str(config.repository),
        "BUILDER_PATHS_EXPORTS": str(config.exports),
        "TMPDIR": str(folder / "tmp"),
        "PIP_NO_INDEX": "1",
    }
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "build").mkdir(exist_ok=True)
    (folder / "build" / "backends").symlink_to(config.build_dir / "backends")
    if tool is not None:
        (folder / "build" / "perf_analyzer").symlink_to(tool.parent)
    command = [sys.executable, "-m", "builder", "bench", "--output", "out", *words]
    return {"args": command, "cwd": folder, "env": environ}


@pytest.mark.e2e
def test_a_detector_and_its_twin_are_measured(
    few: Config, perf_analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    words = ["--pipelines", "SMAP_A-1", "--rounds", "1", "--seconds", "0.6", "--json"]
    words += ["--concurrency", "1,4"]
    answer = subprocess.run(
        **_command(few, tmp_path, *words, tool=perf_analyzer.program),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""  # no progress where there is no terminal
    report = read_report(tmp_path / "out" / "report.json")
    assert json.loads(answer.stdout) == json.loads(report.to_json())
    assert {(run.variant, run.concurrency) for run in report.runs} == {
        (variant, level) for variant in ("native", "python", "floor") for level in (1, 4)
    }
    for run in report.runs:
        # perf_analyzer's throughput, and what the server counted meanwhile.
        assert run.requests / run.seconds == pytest.approx(run.per_second, rel=0.5)
        assert 0 < run.p50_ms <= run.p90_ms <= run.p95_ms <= run.p99_ms
        if run.variant != "floor":
            [stage] = run.stages
            assert stage.inferences >= run.requests
            executed = {int(size): count for size, count in stage.batch_sizes.items()}
            assert sum(executed.values()) == stage.executions
            assert 0 < stage.compute_us < run.p99_ms * 1e3
            assert (run.usage.server_cores or 0) > 0
    python = [run for run in report.runs if run.variant == "python"]
    assert all((run.usage.stub_cores or 0) > (run.usage.server_cores or 0) for run in python)
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"report.md", "report.html"}
    assert not list((tmp_path / "tmp").glob("builder-bench-*"))


def test_without_perf_analyzer_the_rest_is_measured_and_the_exit_code_says_so(
    few: Config, tmp_path: Path
) -> None:
    words = ["--pipelines", "SMAP_A-1", "--rounds", "1", "--seconds", "0.2", "--concurrency", "1"]
    keywords = _command(few, tmp_path, *words)
    keywords["env"]["PATH"] = str(tmp_path)
    answer = subprocess.run(**keywords, capture_output=True, text=True, timeout=250, check=False)
    assert answer.returncode == 1
    assert "cannot be downloaded" in answer.stdout
    assert "put a perf_analyzer on PATH" in answer.stdout
    report = read_report(tmp_path / "out" / "report.json")
    assert [run.variant for run in report.runs] == ["floor"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_writes_what_was_measured(
    few: Config, tmp_path: Path, number: signal.Signals
) -> None:
    words = ["--pipelines", "SMAP_A-1", "--variants", "floor", "--rounds", "100"]
    keywords = _command(few, tmp_path, *words, "--seconds", "0.2", "--concurrency", "1")
    process = subprocess.Popen(
        **keywords, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 100
        seen = False
        while time.monotonic() < deadline:  # until the second measurement has begun
            there = any((tmp_path / "tmp").glob("*/runs/floor-result.json"))
            if seen and not there:
                break
            seen = seen or there
            time.sleep(0.005)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "was interrupted" in out
    report = read_report(tmp_path / "out" / "report.json")
    assert 1 <= len(report.runs) < 100
    assert (tmp_path / "out" / "report.html").is_file()


def test_ctrl_c_ends_the_load_generator_and_the_server(
    few: Config, imitated: Callable[[str], PerfAnalyzer], tmp_path: Path
) -> None:
    tool = imitated(
        "from pathlib import Path\n"
        "Path(__file__).with_name('started').write_text(f'{os.getpid()} {url}')\n"
        "time.sleep(600)"
    )
    started = tool.program.with_name("started")
    words = ["--pipelines", "SMAP_A-1", "--variants", "native", "--concurrency", "1"]
    keywords = _command(few, tmp_path, *words)
    keywords["env"]["PATH"] = f"{tool.program.parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        **keywords, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not (started.is_file() and started.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    pid, url = started.read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    with pytest.raises(ServerError, match="no server answers"):
        connect(url)


def test_a_folder_that_cannot_be_written_costs_no_figures(few: Config, tmp_path: Path) -> None:
    (tmp_path / "blocked").touch()
    output = ["--output", "blocked/out"]
    words = ["--pipelines", "SMAP_A-1", "--variants", "floor", "--rounds", "1", "--json"]
    words += ["--seconds", "0.2", "--concurrency", "1"]
    keywords = _command(few, tmp_path, *words, *output)
    answer = subprocess.run(**keywords, capture_output=True, text=True, timeout=100, check=False)
    assert answer.returncode == 1
    assert len(json.loads(answer.stdout)["runs"]) == 1
    assert "blocked" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--concurrency", "0"],
        ["--concurrency", "many"],
        ["--rounds", "0"],
        ["--pipelines", "nope"],
        ["--variants", "nope"],
        ["--against", "nope.json"],
    ],
)
def test_wrong_options_are_refused_before_anything_is_measured(
    config: Config, words: list[str]
) -> None:
    from click.testing import CliRunner

    from builder.cli.bench import command
    from builder.errors import UsageError

    answer = CliRunner().invoke(command, words, obj=config)
    refused = answer.exit_code == 2 or isinstance(answer.exception, UsageError)
    assert refused, answer.output

"""`builder serve` as a user runs it: a process, its output, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchscript_models import LINEAR, write_model

pytestmark = pytest.mark.e2e

BUILDER = [sys.executable, "-c", "from builder.cli import main; main()"]
PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


@pytest.fixture
def project(tmp_path: Path, repository: Path, backend_dir: Path) -> Path:
    """A project with the small repository, and a model whose file is missing."""
    groups = tmp_path / "model_repository"
    groups.mkdir()
    (groups / "ensemble").symlink_to(repository / "ensemble")
    (groups / "pytorch").mkdir()
    for model in (repository / "pytorch").iterdir():
        (groups / "pytorch" / model.name).symlink_to(model)
    write_model(groups / "pytorch" / "absent", LINEAR)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "backends").symlink_to(backend_dir)
    return tmp_path


class Serving:
    """A running `builder serve`."""

    def __init__(self, project: Path, *options: str):
        self.process = subprocess.Popen(
            [*BUILDER, "serve", *PORTS, *options],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(project), "COLUMNS": "100"},
        )
        assert self.process.stdout is not None
        self.lines = self.process.stdout

    def until(self, text: str) -> list[str]:
        """Lines of the output up to the one that holds `text`."""
        seen = []
        for line in self.lines:
            seen.append(line)
            if text in line:
                return seen
        assert self.process.stderr is not None
        raise AssertionError(f"ended after {seen}: {self.process.stderr.read()}")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Exit code and the rest of the output."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=30)
        return self.process.returncode, rest


@pytest.fixture
def serve(project: Path) -> Iterator[type[Serving]]:
    started: list[Serving] = []

    class Here(Serving):
        def __init__(self, *options: str):
            super().__init__(project, *options)
            started.append(self)

    yield Here
    for serving in started:
        serving.process.kill()
        serving.process.communicate()


def test_it_serves_prints_a_curl_line_that_works_and_stops_on_ctrl_c(serve: type) -> None:
    serving = serve()
    lines = serving.until("Ready. Ctrl-C stops it.")
    text = "".join(lines)
    assert "1 of 4 could not be loaded" in text
    assert "there is no" in text
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["linear"] == ["linear", "pytorch", "1", "ready"]
    assert rows["pipe"] == ["pipe", "ensemble", "1", "ready"]
    curl = next(line.strip() for line in lines if line.strip().startswith("curl "))
    done = subprocess.run(["/bin/sh", "-c", curl], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["model_name"] == "pipe"
    assert answer["outputs"][0]["shape"] == [1, 1, 2]
    code, rest = serving.end(signal.SIGINT)
    assert code == 0
    assert "Stopped." in rest


def test_json_events_and_sigterm(serve: type) -> None:
    serving = serve("--json", "--models", "pipe")
    starting, ready = map(json.loads, serving.until('"ready"'))
    assert (starting["event"], starting["server"]) == ("starting", "embedded")
    assert {m["name"] for m in ready["models"]} == {"pipe", "linear"}
    assert ready["failures"] == []
    assert ready["metrics"] is None
    assert Path(f"/proc/{ready['pid']}").exists()
    code, rest = serving.end(signal.SIGTERM)
    assert code == 0
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopping", "stopped"]
    assert not Path(f"/proc/{ready['pid']}").exists()


def test_polling_reports_what_changes(serve: type, project: Path) -> None:
    pytorch = project / "model_repository" / "pytorch"
    for name in ("absent", "linear", "named"):
        staged = project / f"{name}.away"
        (pytorch / name).rename(staged)
    (project / "model_repository" / "ensemble").unlink()
    (project / "named.away").rename(pytorch / "named")
    serving = serve("--json", "--poll")
    serving.until('"ready"')
    (project / "linear.away").rename(pytorch / "linear")
    event = json.loads(serving.until('"changed"')[-1])
    assert (event["name"], event["version"]) == ("linear", "1")
    assert serving.end(signal.SIGINT)[0] == 0


def test_strict_fails_with_the_reason(serve: type) -> None:
    serving = serve("--strict", "--models", "absent")
    _, errors = serving.process.communicate(timeout=60)
    assert serving.process.returncode == 1
    assert "1 model failed to load" in errors
    assert "absent/1/model.pt" in errors


def test_ctrl_c_while_models_load_ends_at_once(serve: type) -> None:
    serving = serve()
    serving.until("Starting tritonserver")
    time.sleep(0.5)
    began = time.monotonic()
    code, rest = serving.end(signal.SIGINT)
    assert code == 0
    assert "Ready" not in rest
    assert time.monotonic() - began < 25


def test_a_wrong_model_is_a_usage_error(serve: type) -> None:
    serving = serve("--models", "linaer")
    _, errors = serving.process.communicate(timeout=60)
    assert serving.process.returncode == 2
    assert "did you mean linear?" in errors

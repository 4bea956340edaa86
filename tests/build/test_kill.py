"""kill -9 at any moment: what is published is always whole, and the next build finishes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from builder.build.action import evaluate
from builder.build.plan import make_context, make_plan
from builder.config import load_config
from builder.digest import FileDigests
from builder.lint import lint
from builder.record import read_record

from .conftest import Build

BUILD = """
import sys
from pathlib import Path
from builder.build.execute import exclusive, execute
from builder.build.plan import make_context, make_plan
from builder.config import load_config
from builder.family import Registry
from tests.build.conftest import scale_stage

root = Path(sys.argv[1])
config = load_config(root=root, environ={})
names = [f"m{i}" for i in range(6)]
registry = Registry({name: scale_stage(name, root / f"{name}.txt") for name in names}, {})
print("started", flush=True)
while True:
    context = make_context(config, registry)
    with exclusive(config.build_dir):
        execute(make_plan(context), context.digests, force=True)
    print("built", flush=True)
"""
ROOT = Path(__file__).parents[2]


def test_killed_builds_leave_whole_versions_and_resume(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"m{i}.txt").write_text(str(i))
    rng = random.Random(1)
    repository = tmp_path / "model_repository"
    seen = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for model in (repository / "onnx").glob("*"):
            seen += 1
            version = model / "1"
            record = read_record(version)
            assert record is not None
            assert record.damage(version, FileDigests()) == []
            onnx.checker.check_model(version / "model.onnx")
            assert (model / "config.pbtxt").read_text().count("name:") >= 1
    assert seen > 0
    if (repository / "onnx").is_dir():
        assert [f for f in lint([repository / "onnx"]) if f.severity == "error"] == []


def test_a_build_after_a_kill_takes_up_where_it_stopped(build: Build, tmp_path: Path) -> None:
    """What was finished before the kill is not made again."""
    build("double")
    staged = tmp_path / "exports" / "test" / ".triple.new"
    staged.mkdir(parents=True)
    (staged / "model.onnx").write_bytes(b"half a mod")
    outcomes = build()
    assert {n for n, o in outcomes.items() if o.status == "current"} == {
        "export double",
        "onnxruntime double",
    }
    assert all(outcome.ok for outcome in outcomes.values())
    assert not staged.exists()


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so(tmp_path: Path, signal_number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", "build", "--no-verify"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    config = load_config(root=tmp_path, environ={})
    from builder.family import Registry

    context = make_context(config, Registry.load(config))
    states = evaluate(make_plan(context), context.digests)
    assert any(not state.current for state in states.values())

"""`builder build --target` as people see it, and a build that is killed; the GPU is a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest

from builder.build.execute import exclusive
from builder.build.plan import make_context
from builder.cli.build import command
from builder.config import Config, load_config
from builder.engines.trt import seam
from builder.errors import EngineError
from builder.family import Registry
from builder.record import read_record
from builder.repository.model_config import read_config
from tests.build.test_tensorrt import build as build_plans
from tests.build.test_tensorrt import profiled
from tests.plan_builder import A100, H100, FakePlanBuilder, install_gpu

__all__ = ["profiled"]

ROOT = Path(__file__).parents[2]
Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(config: Config, profiled: Registry, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(Registry, "load", classmethod(lambda cls, config: profiled))

    def call(*arguments: str) -> click.testing.Result:
        runner = click.testing.CliRunner()
        return runner.invoke(command, [*arguments, "--no-verify"], obj=config)

    return call


def test_build_for_a_target(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    with seam.replaced(FakePlanBuilder()):
        result = run("--target", "sm90")
        assert result.exit_code == 0, result.output
        assert "tensorrt sm90" in result.output
        document = json.loads(run("--target", "cpu,sm90", "--json").stdout)
    assert {a["status"] for a in document["actions"]} == {"current"}
    assert {a["target"] for a in document["actions"]} == {None, "sm90"}
    assert document["stale_plans"] == []


def test_a_gpu_that_is_not_here_is_said_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    with seam.replaced(FakePlanBuilder()):
        result = run("--target", "sm80")
    assert result.exit_code == 1
    assert result.output.count("the GPU here is another one") == 1
    assert "failed tensorrt double_trt (sm80) and 1 more" in result.output
    assert run("--target", "sm8").exit_code != 0


def test_missing_builds_what_is_missing(
    run: Run, config: Config, profiled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    plans = FakePlanBuilder()
    with seam.replaced(plans):
        build_plans(config, profiled, "sm90", names=("double",))
        document = json.loads(run("--target", "sm90", "--missing", "--json").stdout)
        assert {a["model"] for a in document["actions"]} == {"triple", "triple_trt"}
        assert len(plans.built) == 2
        document = json.loads(run("--target", "sm90", "--missing", "--json").stdout)
    assert document["actions"] == []


def test_stale_plans_of_other_gpus_are_reported(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seam.replaced(FakePlanBuilder()):
        install_gpu(tmp_path / "h100", monkeypatch, H100)
        run("--target", "sm90")
        (tmp_path / "double.txt").write_text("9")
        install_gpu(tmp_path / "a100", monkeypatch, A100)
        result = run("--target", "sm80")
    assert result.exit_code == 0, result.output
    assert "stale double_trt sm90.plan" in " ".join(result.output.split())


def test_a_gpu_without_tensorrt_is_noticed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    result = run("--target", "auto")
    assert result.exit_code == 0, result.output
    assert "no plan is built for NVIDIA H100 PCIe" in " ".join(result.stderr.split())


def test_a_build_without_gpu_imports_no_tensorrt() -> None:
    code = (
        "import sys, builder.cli.build, builder.engines.tensorrt\n"
        "heavy = {'tensorrt', 'polygraphy', 'torch', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


KILLED = """
import os, sys, time
from pathlib import Path
from builder.build.execute import exclusive, execute
from builder.build.plan import make_context, make_plan
from builder.config import load_config
from builder.engines.trt import seam
from builder.family import Registry
from builder.stage import Range
from tests.build.conftest import scale_stage
from tests.plan_builder import FakePlanBuilder
import dataclasses

class Slow(FakePlanBuilder):
    def build(self, path, spec, progress):
        print("building", flush=True)
        time.sleep(60)

root = Path(sys.argv[1])
config = load_config(root=root, environ={}).replace("build", targets=("sm90",))
stage = scale_stage("double", root / "double.txt")
stage = dataclasses.replace(stage, profile={"T": Range(1, 3, 16)})
context = make_context(config, Registry({"double": stage}, {}))
with seam.replaced(Slow()), exclusive(config.build_dir):
    execute(make_plan(context), context.digests)
"""


def test_a_killed_build_keeps_the_last_good_plan_and_is_resumed(
    config: Config, profiled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    with seam.replaced(FakePlanBuilder()):
        build_plans(config, profiled, "sm90", names=("double",))
    version = config.repository / "tensorrt" / "double_trt" / "1"
    before = {p.name: p.read_bytes() for p in version.iterdir()}
    (tmp_path / "double.txt").write_text("4")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"building\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert {p.name: p.read_bytes() for p in version.iterdir()} == before
    assert len(list(config.build_dir.glob("plan-*"))) == 1
    with exclusive(config.build_dir):
        assert list(config.build_dir.glob("plan-*")) == []
    start = time.monotonic()
    with seam.replaced(FakePlanBuilder()):
        outcomes = build_plans(config, profiled, "sm90", names=("double",))
    assert outcomes["tensorrt double_trt (sm90)"].status == "made"
    assert outcomes["export double"].status == "current"  # done before the kill
    assert time.monotonic() - start < 30
    record = read_record(version, "sm90.plan.json")
    assert record is not None
    assert record.damage(version, make_context(config, profiled).digests) == []


def test_a_failed_plan_leaves_the_pipeline_as_it_was(
    config: Config, profiled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(tmp_path / "bin", monkeypatch, H100)
    with seam.replaced(FakePlanBuilder(error=EngineError("the GPU ran out of memory"))):
        outcomes = build_plans(config, profiled, "sm90")
    assert outcomes["ensemble sixfold"].ok
    folder = config.repository / "ensemble" / "sixfold"
    assert not (folder / "configs").exists()
    assert {
        s.model_name for s in read_config(folder / "config.pbtxt").ensemble_scheduling.step
    } == {
        "double",
        "triple",
    }
    assert load_config(root=tmp_path, environ={}).build.targets == ("auto",)

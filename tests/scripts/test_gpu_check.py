"""The GPU check without a GPU for real, and its steps with what needs one replaced."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from click.testing import CliRunner

from builder.config import load_config
from builder.digest import FileDigests
from builder.engines.trt.seam import PlanSpec, Progress, replaced
from builder.errors import BuilderError
from builder.preflight.check import check as preflight
from builder.preflight.facts import Gpu, ServerFacts
from builder.preflight.fleet import fleet, sources_of
from builder.stage import Arrays, Stage

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that lists one GPU."""
    folder = tmp_path / "bin"
    folder.mkdir()
    line = "0, GPU-1, NVIDIA H200, 9.0, 590.10, 143771"
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{line}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_a_gpu_the_report_says_what_is_missing(tmp_path: Path) -> None:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", "out"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not document["ok"]
    assert document["environment"]["GPU"] == "none"
    assert any("no NVIDIA GPU" in what for what in document["missing"])
    assert {step["status"] for step in document["steps"]} == {"skipped"}
    assert all("no NVIDIA GPU" in step["why"] for step in document["steps"])
    text = (tmp_path / "out" / "report.md").read_text()
    assert text in done.stdout
    assert "serve_tensorrt | skipped" in text


@pytest.mark.usefixtures("gpu")
def test_with_a_gpu_each_step_is_run_as_a_process(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real script for each step: without TensorRT the build fails and is reported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "find_missing", lambda config: {"TensorRT": "not installed"})
    result = CliRunner().invoke(script.main, ["--output", "out", "--only", "onnxruntime_cuda"])
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert result.exit_code == 1
    assert document["title"] == "GPU check on NVIDIA H200, compute capability 9.0"
    (step,) = document["steps"]
    assert step["status"] == "failed"
    assert step["why"]


@dataclass
class Plan:
    """A plan that is an ONNX network, run by ONNX Runtime."""

    session: onnxruntime.InferenceSession
    offset: float

    def run(self, inputs: Arrays) -> Arrays:
        names = [output.name for output in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(names, inputs), strict=True))
        return {
            n: a + a.dtype.type(self.offset) if a.dtype.kind == "f" else a for n, a in found.items()
        }

    def latency_ms(self, inputs: Arrays) -> float:
        return 0.5

    def close(self) -> None:
        pass


@dataclass
class Builder:
    """Takes the place of TensorRT."""

    offset: float = 0.0

    def version(self) -> str:
        return "11.4.0.106"

    def build(self, onnx: Path, spec: PlanSpec, progress: Progress) -> bytes:
        return onnx.read_bytes()

    def load(self, plan: Path, spec: PlanSpec) -> Plan:
        return Plan(onnxruntime.InferenceSession(plan.read_bytes()), self.offset)


@pytest.fixture
def check(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The check of one small stage."""

    def stages(self: Any) -> list[Stage]:
        return [self.registry.stages["validity_mask_onnx"]]

    monkeypatch.setattr(script.Check, "stages", stages)
    return script.Check(load_config(root=tmp_path, environ={}), tmp_path / "work")


@pytest.mark.usefixtures("gpu")
def test_the_build_and_the_parity_step(script: Any, check: Any) -> None:
    with replaced(Builder()):
        built = script.build_plans(check)
        assert built["validity_mask_onnx_trt"]["tensorrt"] == "11.4.0.106"
        assert built["validity_mask_onnx_trt"]["latency_ms"]["engine"] == 0.5
        assert check.plans()["validity_mask_onnx"].name == "sm90.plan"
        assert script.parity(check)["validity_mask_onnx"]["worst"] == 0.0
    # What the build writes is what the preflight and the fleet's state read.
    server = ServerFacts("11.4.0.106")
    config = check.config
    assert preflight(config.repository, server, [Gpu("9.0")]) == []
    digests = FileDigests()
    sources = sources_of(config, check.registry, digests)
    assert preflight(config.repository, server, [Gpu("9.0")], sources=sources) == []
    (other,) = preflight(config.repository, ServerFacts("10.14.1.48"), [Gpu("9.0")])
    assert "built by TensorRT 11.4.0.106" in other.reason
    states = {entry.stage: entry.state for entry in fleet(config, check.registry)}
    assert states["validity_mask_onnx"] == "built"
    assert states["preprocessing_onnx"] == "missing"
    with replaced(Builder(offset=1.0)), pytest.raises(BuilderError, match="differs by up to 1"):
        script.parity(check)


@pytest.mark.usefixtures("gpu")
def test_a_build_that_fails_is_an_error_of_the_step(script: Any, check: Any) -> None:
    with replaced(Builder(offset=1.0)), pytest.raises(BuilderError, match="validity_mask_onnx_trt"):
        script.build_plans(check)
    with pytest.raises(BuilderError, match="was not built"):
        script.parity(check)


def test_the_check_never_touches_what_is_published(script: Any, tmp_path: Path) -> None:
    config = load_config(root=tmp_path, environ={})
    check = script.Check(config, tmp_path / "work", device="gpu")
    for folder in (check.config.exports, check.config.repository, check.config.build_dir):
        assert folder.is_relative_to(tmp_path / "work")
    assert check.config.stage_options("any").device == "gpu"
    assert config.stage_options("any").device == "auto"
    graphs = [stage.name for stage in check.stages()]
    assert sum(name.startswith("SMAP_") for name in graphs) == 1


@pytest.mark.e2e
def test_the_serving_step_on_the_cpu(
    script: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same step as on a GPU, but for the device: a real server answers."""
    backends = SCRIPT.parents[1] / "build" / "backends"
    backends.mkdir(parents=True, exist_ok=True)
    check.config.build_dir.mkdir(parents=True)
    (check.config.build_dir / "backends").symlink_to(backends)
    result = script.serve_onnx_on_gpu(check)
    assert result["server"].startswith("embedded")
    assert result["validity_mask_onnx"]["ok"]

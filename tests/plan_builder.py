"""Stand-ins for what needs a GPU: `nvidia-smi`, and the plan builder behind the seam.

A "plan" of the stand-in holds the ONNX network that it was built from, and ONNX Runtime runs it:
casts, profiles and parity are real, only TensorRT is not.
"""

import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime
import pytest

from builder.engines.trt import seam
from builder.engines.trt.seam import PlanSpec, Progress
from builder.errors import EngineError
from builder.stage import Arrays

H100 = "0, GPU-1111, NVIDIA H100 PCIe, 9.0, 580.65.06, 81559"
A100 = "0, GPU-2222, NVIDIA A100-SXM4-80GB, 8.0, 580.65.06, 81920"


def install_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Put an `nvidia-smi` that lists these GPUs first on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "nvidia-smi"
    body = "\n".join(f"echo '{line}'" for line in lines)
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@dataclass
class FakePlan:
    path: Path
    spec: PlanSpec
    offset: float = 0.0
    closed: bool = False

    def __post_init__(self) -> None:
        try:
            with zipfile.ZipFile(self.path) as archive:
                network = archive.read("network")
        except zipfile.BadZipFile as error:
            raise EngineError("the plan cannot be read", where=self.path) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(network, options)

    def run(self, inputs: Arrays) -> Arrays:
        assert not self.closed
        assert any(profile.admits_arrays(inputs) for profile in self.spec.profiles)
        names = [o.name for o in self.session.get_outputs()]
        results = self.session.run(names, inputs)
        return {
            n: r + r.dtype.type(self.offset) if r.dtype.kind == "f" else r
            for n, r in zip(names, results, strict=True)
        }

    def latency_ms(self, inputs: Arrays) -> float:
        self.run(inputs)
        return 0.125

    def close(self) -> None:
        self.closed = True


@dataclass
class FakePlanBuilder:
    """Builds plans that ONNX Runtime runs.

    Attributes:
        error: Raised instead of building.
        offset: Added to every floating-point output, to make plans that are wrong.
    """

    tensorrt: str = "11.4.0.106"
    error: Exception | None = None
    offset: float = 0.0
    built: list[PlanSpec] = field(default_factory=list)
    networks: list[onnx.ModelProto] = field(default_factory=list)
    loaded: list[FakePlan] = field(default_factory=list)

    def version(self) -> str:
        return self.tensorrt

    def build(self, path: Path, spec: PlanSpec, progress: Progress) -> bytes:
        for step in range(3):
            progress("Building engine", step + 1, 3)
        if self.error is not None:
            raise self.error
        self.built.append(spec)
        model = onnx.load(str(path))
        self.networks.append(model)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("network", model.SerializeToString())
            archive.writestr("spec", json.dumps([p.to_json() for p in spec.profiles]))
        return buffer.getvalue()

    def load(self, plan: Path, spec: PlanSpec) -> FakePlan:
        self.loaded.append(FakePlan(plan, spec, self.offset))
        return self.loaded[-1]


__all__ = ["A100", "H100", "FakePlan", "FakePlanBuilder", "install_gpu", "seam"]

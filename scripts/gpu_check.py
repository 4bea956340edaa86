#!/usr/bin/env python
"""Check on a GPU machine what cannot be checked without a GPU, and write a report.

    .venv/bin/python scripts/gpu_check.py

Builds TensorRT plans for the GPU here, compares them with ONNX Runtime and PyTorch, serves them,
runs the ONNX models with the CUDA provider, and times all of it. Every step runs in a process of
its own: one that fails is reported, the others still run. Nothing that is published is touched.
The report (JSON and Markdown) is written in any case; the exit code is 1 if a step failed, or if
there was nothing to check because there is no GPU.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from builder.build.action import Action
from builder.build.execute import execute
from builder.build.export_action import export_folder
from builder.build.plan import Context, make_context, make_plan
from builder.config import Config, load_config
from builder.digest import version_of
from builder.engines.trt.gpu import local_gpus, local_targets, tensorrt_version
from builder.errors import BuilderError
from builder.export.exporter import MODEL
from builder.export.precision import tolerance_at
from builder.family import Registry
from builder.preflight.isolated import Report, run_isolated
from builder.preflight.plan import read_plan_record
from builder.record import Record
from builder.serving.installations import find_installation
from builder.stage import Stage, TorchSource


class Check:
    """What the steps share: a configuration whose folders are all below `work`."""

    def __init__(self, config: Config, work: Path, *, device: str | None = None):
        tables = {**config.tables}
        if device is not None:
            stages = {name: dict(table) for name, table in tables.get("stages", {}).items()}
            tables["stages"] = {**stages, "*": {**stages.get("*", {}), "device": device}}
        paths = {name: (work / name).resolve() for name in ("exports", "repository", "build")}
        targets = tuple(target.name for target in local_targets())
        changed = config.replace("paths", **paths).replace("build", targets=("cpu", *targets))
        self.config = Config(
            root=changed.root,
            paths=changed.paths,
            build=changed.build,
            server=changed.server,
            tables=tables,
            environ=changed.environ,
        )
        self.registry = Registry.load(self.config)

    def context(self) -> Context:
        """A context for a build."""
        return make_context(self.config, self.registry)

    def stages(self) -> list[Stage]:
        """One stage for each graph that is meant for TensorRT: the others differ in weights."""
        found: dict[str, Stage] = {}
        for stage in self.registry.stages.values():
            graph = stage.source.graph if isinstance(stage.source, TorchSource) else None
            if "tensorrt" in stage.engines:
                found.setdefault(graph or stage.name, stage)
        return list(found.values())

    def export(self, stage: Stage) -> Path:
        """The ONNX file of a stage."""
        return export_folder(self.config.exports, stage) / MODEL

    def plans(self) -> dict[str, Path]:
        """The plan of each stage for the GPU here, where it was built."""
        found = {}
        for stage in self.stages():
            for target in local_targets():
                folder = self.config.repository / "tensorrt" / f"{stage.name}_trt" / "1"
                if (folder / target.plan).is_file():
                    found[stage.name] = folder / target.plan
        return found


def build_plans(check: Check) -> dict[str, Any]:
    """Export and build; parity against ONNX Runtime is part of the build."""
    built = _make(check, lambda action: True)
    return {
        name: {"tensorrt": r.details["tensorrt"], "flags": r.details["flags"], **r.measured}
        for name, r in built.items()
    }


def parity(check: Check) -> dict[str, Any]:
    """Plans against PyTorch itself (the build compares them with ONNX Runtime)."""
    from builder.engines.engine import engine_kind
    from builder.export.parity import check_parity, torch_runner

    found: dict[str, Any] = {}
    plans = check.plans()
    for stage in check.stages():
        source = stage.source
        if stage.name not in plans:
            raise BuilderError("was not built", where=f"{stage.name}_trt")
        run = engine_kind("tensorrt").runner(stage, [plans[stage.name]])
        if isinstance(source, TorchSource):
            reference = torch_runner(stage, source.load())
        else:
            reference = source.reference
        shapes = tuple(
            shape
            for shape in stage.shapes
            if all(
                r.min <= shape.get(symbol, r.opt) <= r.max for symbol, r in stage.profile.items()
            )
        )
        result, _ = check_parity(
            stage,
            run,
            reference,
            what="the TensorRT plan",
            shapes=shapes,
            tolerance=tolerance_at(_precision(plans[stage.name]), stage.tolerance),
        )
        found[stage.name] = result.to_json()
    return found


def _precision(plan: Path) -> str:
    record = read_plan_record(plan)
    return str(record.record.details.get("precision", "fp32")) if record else "fp32"


def serve_tensorrt(check: Check) -> dict[str, Any]:
    """Serve the plans with a server that has TensorRT, and send golden requests."""
    return _serve(check, {f"{stage.name}_trt": stage for stage in check.stages()})


def onnxruntime_cuda(check: Check) -> dict[str, Any]:
    """The exports with the CUDA provider: parity with the CPU, and times of both."""
    import numpy as np
    import onnxruntime

    from builder.engines.trt.latency import median_ms
    from builder.export.parity import check_parity, onnx_runner

    _make(check, lambda action: action.artefact == "export")
    found: dict[str, Any] = {}
    # TF32 rounds to 10 bits, which no tolerance of an FP32 export allows for.
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    for stage in check.stages():
        path = check.export(stage)
        session = onnxruntime.InferenceSession(str(path), providers=[cuda])
        if session.get_providers()[0] != "CUDAExecutionProvider":
            raise BuilderError("ONNX Runtime fell back to the CPU", where=stage.name)
        names = [output.name for output in session.get_outputs()]

        def on_gpu(inputs: Any, session: Any = session, names: list[str] = names) -> Any:
            return dict(zip(names, session.run(names, inputs), strict=True))

        on_cpu = onnx_runner(path)
        result, _ = check_parity(
            stage,
            on_gpu,
            on_cpu,
            what="the CUDA provider's answer",
            tolerance=tolerance_at("fp32", stage.tolerance),
        )
        inputs = stage.example(stage.shapes[0], np.random.default_rng(0))
        found[stage.name] = {
            "parity": result.to_json(),
            "cuda_ms": median_ms(partial(on_gpu, inputs)),
            "cpu_ms": median_ms(partial(on_cpu, inputs)),
        }
    return found


def serve_onnx_on_gpu(check: Check) -> dict[str, Any]:
    """The ONNX models on instances of KIND_GPU, with the server that is here."""
    _make(check, lambda action: not action.target)
    return _serve(check, {stage.name: stage for stage in check.stages()})


def _make(check: Check, wanted: Callable[[Action], bool]) -> dict[str, Record]:
    """Take those of the actions that are wanted and return the records of plans, by model.

    Raises:
        BuilderError: One failed.
    """
    context = check.context()
    plan = make_plan(context, [stage.name for stage in check.stages()])
    outcomes = execute([action for action in plan if wanted(action)], context.digests)
    failed = {str(a): str(o.error or o.reasons) for a, o in outcomes.items() if not o.ok}
    if failed:
        raise BuilderError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return {a.model: o.record for a, o in outcomes.items() if a.target and o.record}


def _serve(check: Check, models: Mapping[str, Stage]) -> dict[str, Any]:
    from builder.golden import GOLDEN, read_golden
    from builder.serving.client import connect
    from builder.serving.golden import GoldenRequest, check_golden
    from builder.serving.launch import make_server

    precision = {f"{name}_trt": _precision(plan) for name, plan in check.plans().items()}
    server, _ = make_server(check.config, models=list(models), free_ports=True)
    with server:
        client = connect(server.grpc_url)
        requests = []
        for name, stage in models.items():
            inputs, outputs = read_golden(check.export(stage).parent / GOLDEN)
            tolerance = tolerance_at(precision.get(name, "fp32"), stage.tolerance)
            requests.append(GoldenRequest(name, inputs, outputs, tolerance))
        check_golden(client, requests)  # the first request of a model may still set something up
        results = check_golden(client, requests)
        client.close()
    if wrong := [f"{result.model}: {result.error}" for result in results if not result.ok]:
        raise BuilderError("; ".join(wrong))
    return {
        "server": f"{server.installation.kind} {server.installation.version or ''}".strip(),
        **{result.model: result.to_json() for result in results},
    }


STEPS: Mapping[str, tuple[Callable[[Check], dict[str, Any]], tuple[str, ...]]] = {
    "build": (build_plans, ("GPU", "TensorRT")),
    "parity": (parity, ("GPU", "TensorRT")),
    "serve_tensorrt": (serve_tensorrt, ("GPU", "TensorRT", "server with TensorRT")),
    "onnxruntime_cuda": (onnxruntime_cuda, ("GPU", "onnxruntime-gpu")),
    "serve_onnx_on_gpu": (serve_onnx_on_gpu, ("GPU", "onnxruntime-gpu")),
}
"""Name -> the step and what it needs."""


def find_missing(config: Config) -> dict[str, str]:
    """What is not here -> why, for what the steps need."""
    missing = {}
    if not local_gpus():
        missing["GPU"] = "no NVIDIA GPU here (nvidia-smi lists none)"
    if tensorrt_version() is None:
        missing["TensorRT"] = "TensorRT is not installed: make engines EXTRAS=gpu"
    if version_of("onnxruntime-gpu") == "none":
        missing["onnxruntime-gpu"] = "onnxruntime-gpu is not installed: make engines EXTRAS=gpu"
    options = config.server
    try:
        server = find_installation(options.server, release=options.container)
        if not server.has_backend("tensorrt"):
            missing["server with TensorRT"] = f"the {server.kind} server has no tensorrt backend"
    except BuilderError as error:
        missing["server with TensorRT"] = error.what
    return missing


def environment() -> dict[str, str]:
    """The hardware by name, and versions."""
    gpus = local_gpus()
    names = [f"{g.name}, compute capability {g.compute_capability}" for g in gpus]
    packages = ("torch", "onnxruntime", "onnxruntime-gpu", "polygraphy")
    return {
        "GPU": "; ".join(names) or "none",
        "driver": gpus[0].driver if gpus else "none",
        "processor": f"{os.cpu_count()} cores, {os.uname().machine}",
        "TensorRT": tensorrt_version() or "none",
        **{package: version_of(package) for package in packages},
    }


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder.  [default: build/gpu-check]"
)
@click.option("--only", multiple=True, type=click.Choice(list(STEPS)), help="Only this step.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds that a step may take.")
@click.option("--step", type=click.Choice(list(STEPS)), hidden=True)
@click.option("--result", type=click.Path(path_type=Path), hidden=True)
def main(
    output: Path | None,
    only: tuple[str, ...],
    timeout: float,
    step: str | None,
    result: Path | None,
) -> None:
    """Check everything that takes a GPU, and write a report."""
    config = load_config()
    folder = output or config.build_dir / "gpu-check"
    if step is not None and result is not None:
        on_gpu = step == "serve_onnx_on_gpu"
        work = folder / ("onnx-on-gpu" if on_gpu else "work")
        measured = STEPS[step][0](Check(config, work, device="gpu" if on_gpu else None))
        result.write_text(json.dumps(measured, default=str))
        return
    missing = find_missing(config)

    def command(name: str, file: Path) -> list[str]:
        script = str(Path(__file__).resolve())
        return [sys.executable, script, f"--output={folder}", f"--step={name}", f"--result={file}"]

    def skip(name: str) -> str:
        return "; ".join(missing[need] for need in STEPS[name][1] if need in missing)

    def started(name: str) -> None:
        click.echo(f"{name} ...", err=True)

    steps = run_isolated(
        only or tuple(STEPS), command, folder / "steps", skip=skip, timeout=timeout, started=started
    )
    report = Report(
        title=f"GPU check on {environment()['GPU']}",
        environment=environment(),
        missing=tuple(missing.values()),
        steps=steps,
    )
    paths = report.write(folder)
    click.echo(report.to_markdown())
    click.echo(f"written to {paths[0]} and {paths[1]}")
    if not report.ok:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except BuilderError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)

"""ONNX Runtime engines: the export, optimised offline for the server's CPU or GPU provider."""

from collections.abc import Sequence
from pathlib import Path

from builder.engines.engine import EngineJob, EngineKind
from builder.errors import ConfigError, EngineError
from builder.export.external import external_files, link_file, outline
from builder.export.operators import operator_libraries
from builder.export.parity import Runner, onnx_runner
from builder.stage import Stage
from builder.target import Target

FILE = "model.onnx"


def build(job: EngineJob) -> list[Path]:
    """Optimise the export at the stage's `graph_level`.

    `basic` folds constants and removes what is redundant, with standard operators only, so the
    file runs on every ONNX Runtime and every provider. `extended` fuses into operators of ONNX
    Runtime's own; the file then loads faster but needs an ONNX Runtime at least as new. `none`
    publishes the export as it is; so is an export whose weights were left in the checkpoint's
    files, which are linked: folding would hold all of them in memory.

    Raises:
        EngineError: ONNX Runtime cannot load or optimise the export.
        ConfigError: The level is unknown.
    """
    import onnxruntime

    levels = {
        "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    level = job.options.graph_level
    if level not in levels:
        raise ConfigError(
            f"graph_level is {level!r}",
            where=f"builder.toml [stages.{job.stage.name}]",
            hint=f"use one of {', '.join(levels)}",
        )
    target = job.folder / FILE
    if shards := _shards(job.export):
        for file in (job.export, *shards):
            link_file(file, job.folder / file.name)
        return [target, *(job.folder / file.name for file in shards)]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = levels[level]
    options.optimized_model_filepath = str(target)
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    for library in operator_libraries(job.export).values():
        options.register_custom_ops_library(str(library))
    data = job.export.with_name(job.export.name + ".data")
    if data.is_file():
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{FILE}.data"
        )
    try:
        onnxruntime.InferenceSession(str(job.export), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime cannot optimise the export: {error}", where=f"stage {job.stage.name}"
        ) from error
    return sorted(job.folder.iterdir(), key=lambda path: len(path.name))


def _shards(export: Path) -> list[Path]:
    """The external data of an export whose weights lie in a checkpoint's files; else nothing."""
    if not any(file.suffix == ".safetensors" for file in export.parent.iterdir()):
        return []
    return list(external_files(outline(export), export.parent))


def runner(stage: Stage, files: Sequence[Path]) -> Runner:
    """Run the engine on one CPU thread."""
    return onnx_runner(files[0])


def supports(target: Target) -> bool:
    """One file serves the CPU and, through the CUDA provider, every GPU."""
    return not target.is_gpu


KIND = EngineKind(
    name="onnxruntime",
    backend="onnxruntime",
    group="onnx",
    suffix="",
    libraries=("onnxruntime",),
    build=build,
    runner=runner,
    supports=supports,
)

"""Checking, proving and publishing one pipeline, as an action."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from builder.build.action import Action
from builder.digest import code_digest, sha256_bytes, sha256_value
from builder.engines.engine import engine_kind
from builder.errors import PipelineError
from builder.export.chain import run_chained
from builder.export.exporter import MODEL
from builder.export.parity import compare_outputs
from builder.golden import GOLDEN, golden_bytes
from builder.pipeline import Pipeline
from builder.record import NAME, Record, read_record

if TYPE_CHECKING:
    from builder.build.plan import Context

GROUP = "ensemble"

VARIANT = "configs/trt.pbtxt"
"""The same pipeline on TensorRT plans, chosen with `--model-config-name=trt`."""

_NO_TWINS: Mapping[str, Sequence[Action]] = MappingProxyType({})


def plan(
    context: "Context",
    pipeline: Pipeline,
    exports: Mapping[str, Action],
    engines: Mapping[str, Action],
    twins: Mapping[str, Sequence[Action]] = _NO_TWINS,
) -> Action:
    """`model_repository/ensemble/<pipeline>/`, with `configs/trt.pbtxt` where stages have twins.

    Args:
        exports: Stage -> its export.
        engines: Model -> its engine.
        twins: Stage -> the TensorRT plans that this build makes of it. A pipeline waits for
            them, but does not need them.

    Raises:
        PipelineError: A step names a model that no family declares.
    """
    from builder.repository.publish import versions

    for step in pipeline.steps:
        if step.model not in engines:
            raise PipelineError(
                f"step {step.model} is no stage with an ONNX engine",
                where=f"pipeline {pipeline.name}",
                hint="declare the stage, or name one of `builder list`",
            )
    members = sorted({step.model for step in pipeline.steps})
    repository = context.config.repository
    version = max(versions(repository / GROUP / pipeline.name), default=1)

    def ingredients() -> dict[str, str]:
        present = published_twins(context, pipeline)
        return {
            **({"twins": sha256_value(present)} if present else {}),
            "wiring": sha256_value(
                [
                    [str(t) for t in (*pipeline.inputs, *pipeline.outputs)],
                    [[s.model, dict(s.inputs), dict(s.outputs)] for s in pipeline.steps],
                    [pipeline.max_batch_size, pipeline.atol, pipeline.levels],
                    dict(pipeline.metadata),
                ]
            ),
            "stages": sha256_value([_export_digest(exports[name]) for name in members]),
            "code": code_digest(
                "builder.repository.ensemble",
                "builder.golden",
                *sorted({_module_of(pipeline.reference), _module_of(pipeline.example)}),
            ),
        }

    def make(made_from: Mapping[str, str]) -> Record:
        return prove_and_publish(context, pipeline, exports, version, made_from)

    return Action(
        artefact=GROUP,
        model=pipeline.name,
        folder=repository / GROUP / pipeline.name / str(version),
        needs=tuple(engines[name] for name in members),
        after=tuple(action for name in members for action in twins.get(name, ())),
        ingredients=ingredients,
        make=make,
    )


def published_twins(context: "Context", pipeline: Pipeline) -> dict[str, str]:
    """Stage -> its TensorRT twin, for the stages of a pipeline that have one in the repository."""
    from builder.repository.publish import CONFIG

    kind = engine_kind("tensorrt")
    found = {}
    for name in sorted({step.model for step in pipeline.steps}):
        twin = kind.model_name(context.registry.stages[name])
        if (context.config.repository / kind.group / twin / CONFIG).is_file():
            found[name] = twin
    return found


def _module_of(function: Callable[..., object]) -> str:
    """The module that a function, or what a partial one calls, is written in."""
    return str(getattr(function, "func", function).__module__)


def _export_digest(export: Action) -> list[object] | None:
    record = read_record(export.folder)
    return [record.made_from, record.files] if record else None


def prove_and_publish(
    context: "Context",
    pipeline: Pipeline,
    exports: Mapping[str, Action],
    version: int,
    made_from: Mapping[str, str],
) -> Record:
    """Check the DAG, compare it with the reference implementation, then publish the ensemble.

    Raises:
        PipelineError: The steps do not fit together.
        ParityError: The chained stages compute something else than the reference.
        RepositoryError: The repository cannot be written.
    """
    import numpy as np

    from builder.repository.ensemble import check_pipeline, ensemble_config
    from builder.repository.model_config import config_text
    from builder.repository.publish import publish
    from builder.repository.signature import Signature

    stages = {step.model: context.registry.stages[step.model] for step in pipeline.steps}
    signatures = {name: Signature(s.inputs, s.outputs) for name, s in stages.items()}
    check_pipeline(pipeline, signatures, {name: s.max_batch_size for name, s in stages.items()})
    inputs = pipeline.example(np.random.default_rng(0))
    expected = pipeline.reference(inputs)
    got = run_chained(pipeline, {name: exports[name].folder / MODEL for name in stages}, inputs)
    differences = compare_outputs(
        got,
        expected,
        pipeline.outputs,
        pipeline.tolerance,
        where=f"pipeline {pipeline.name}",
    )
    golden = golden_bytes(inputs, expected)
    record = Record(
        artefact=GROUP,
        model=pipeline.name,
        made_from=dict(made_from),
        measured={
            "parity": {"max_abs": differences, "worst": max(differences.values(), default=0.0)}
        },
        files={GOLDEN: {"sha256": sha256_bytes(golden), "size": len(golden)}},
        details={"family": pipeline.family, "steps": [step.model for step in pipeline.steps]},
    )
    twins = published_twins(context, pipeline)
    variant = config_text(ensemble_config(pipeline, names=twins)).encode() if twins else None
    publish(
        context.config.repository,
        GROUP,
        pipeline.name,
        version=version,
        files={GOLDEN: golden, NAME: record.to_bytes()},
        config=config_text(ensemble_config(pipeline)),
        extra={VARIANT: variant},
    )
    return record

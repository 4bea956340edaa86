"""Building, proving and publishing one TensorRT plan, as an action."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.build.action import Action
from builder.digest import code_digest, sha256_value, version_of
from builder.engines.engine import EngineJob, EngineKind
from builder.engines.tensorrt import Plan, build_plan, precision_of, runner_of
from builder.engines.trt.gpu import local_targets, tensorrt_version
from builder.engines.trt.options import SERVING, TensorRTOptions
from builder.engines.trt.profiles import ShapeProfile, stage_profiles
from builder.engines.trt.seam import plan_builder
from builder.errors import BuilderError, ParityError, from_os_error
from builder.export.exporter import MODEL
from builder.export.parity import check_parity, onnx_runner
from builder.export.precision import tolerance_at
from builder.preflight.failures import clear_failure, record_failure
from builder.record import Record, describe_files, read_record
from builder.repository.plans import record_name
from builder.stage import Stage, Tolerance
from builder.target import Target

if TYPE_CHECKING:
    from builder.build.plan import Context

_PLAN_CODE = (
    *("builder.engines.tensorrt", "builder.engines.trt"),
    *("builder.export.casting", "builder.export.precision"),
)
_CONFIG_CODE = ("builder.repository.model_config", "builder.repository.tensorrt_config")

SERVING_KEY = "serving"
"""The ingredient that only the config depends on: a change of it does not cost a build."""


def options_of(context: "Context", stage: Stage) -> TensorRTOptions:
    """Settings for the plans of a stage, from `[tensorrt."<pattern>"]` in builder.toml."""
    return context.config.matching("tensorrt", stage.name, TensorRTOptions)


def plan(
    context: "Context", stage: Stage, kind: EngineKind, target: Target, export: Action
) -> Action:
    """`model_repository/tensorrt/<model>/<version>/<target>.plan`."""
    from builder.repository.publish import versions

    model = kind.model_name(stage)
    repository = context.config.repository
    version = context.version or max(versions(repository / kind.group / model), default=1)
    folder = repository / kind.group / model / str(version)
    name = record_name(target.plan)

    def ingredients() -> dict[str, str]:
        options = asdict(options_of(context, stage))
        record = read_record(export.folder)
        return {
            "export": sha256_value([record.made_from, record.files] if record else None),
            "options": sha256_value(
                [
                    {k: v for k, v in options.items() if k not in SERVING},
                    precision_of(stage, target, options_of(context, stage)),
                    {symbol: asdict(r) for symbol, r in stage.profile.items()},
                    stage.max_batch_size,
                ]
            ),
            SERVING_KEY: sha256_value(
                [
                    {k: options[k] for k in SERVING},
                    asdict(context.config.stage_options(stage.name, stage.serving)),
                    dict(stage.metadata),
                    code_digest(*_CONFIG_CODE),
                ]
            ),
            "code": code_digest(*_PLAN_CODE),
            **_libraries(target, read_record(folder, name)),
        }

    def make(made_from: Mapping[str, str]) -> Record:
        try:
            record = _make(context, stage, kind, target, export.folder / MODEL, version, made_from)
        except (BuilderError, OSError) as error:
            record_failure(context.config.build_dir, model, target, error)
            raise
        clear_failure(context.config.build_dir, model, target)
        return record

    return Action(
        artefact=kind.name,
        model=model,
        folder=folder,
        needs=(export,),
        ingredients=ingredients,
        make=make,
        record_name=name,
        target=target.name,
    )


def _libraries(target: Target, record: Record | None) -> dict[str, str]:
    """Versions that decide a plan: those here, if it is built here; else those that built it.

    A machine with another GPU, or with none, cannot say whether a plan of the fleet should be
    made with another TensorRT. `builder doctor --repository` compares it with the server.
    """
    version = tensorrt_version()
    here = version is not None and target in local_targets()
    built = record.made_from if record else {}
    return {
        "tensorrt": version if here and version else built.get("tensorrt", "none"),
        "polygraphy": version_of("polygraphy") if here else built.get("polygraphy", "none"),
    }


def _make(
    context: "Context",
    stage: Stage,
    kind: EngineKind,
    target: Target,
    export: Path,
    version: int,
    made_from: Mapping[str, str],
) -> Record:
    """Build a plan, compare it with the export on ONNX Runtime, and only then publish it.

    Where only the config has changed, the plan that is there is published again.

    Raises:
        EngineError: It cannot be built.
        ParityError: It computes something else than the export.
        RepositoryError: The repository cannot be written.
    """
    from builder.repository.publish import publish

    model, config = kind.model_name(stage), context.config
    options = options_of(context, stage)
    profiles = stage_profiles(stage, options.profiles)
    folder = config.repository / kind.group / model / str(version)
    try:
        config.build_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.build_dir, prefix="plan-") as scratch:
            record = _only_config(context, folder, target, made_from)
            files: dict[str, Path | bytes] = {}
            if record is None:
                job = EngineJob(
                    stage=stage,
                    target=target,
                    export=export,
                    options=config.stage_options(stage.name, stage.serving),
                    folder=Path(scratch),
                    tensorrt=options,
                    cache=config.build_dir,
                    progress=context.progress,
                )
                start = time.perf_counter()
                built = build_plan(job)
                seconds = time.perf_counter() - start
                measured = {"seconds": round(seconds, 3), **_prove(stage, built, export)}
                record = Record(
                    artefact=kind.name,
                    model=model,
                    made_from=dict(made_from),
                    measured=measured,
                    files=describe_files([built.path], context.digests),
                    details={
                        "family": stage.family,
                        "stage": stage.name,
                        "target": target.name,
                        "tolerance": asdict(_tolerance(stage, built)),
                        **built.details(),
                    },
                )
                files[target.plan] = built.path
            files[record_name(target.plan)] = record.to_bytes()
            publish(
                config.repository,
                kind.group,
                model,
                version=version,
                files=files,
                config=lambda tree: _config_text(context, stage, model, export, tree, profiles),
                clear_pin=context.version is not None,
                merge=True,
            )
    except OSError as error:
        raise from_os_error(error, "building", f"{kind.name} engine {model}") from error
    return record


def _only_config(
    context: "Context", folder: Path, target: Target, made_from: Mapping[str, str]
) -> Record | None:
    """The record of the present plan with today's ingredients, if the plan itself is right."""
    record = read_record(folder, record_name(target.plan))
    if record is None or context.force or record.damage(folder, context.digests):
        return None
    present = {**record.made_from, SERVING_KEY: made_from[SERVING_KEY]}
    return replace(record, made_from=dict(made_from)) if present == dict(made_from) else None


def _tolerance(stage: Stage, built: Plan) -> Tolerance:
    usual, options = tolerance_at(built.precision, stage.tolerance), built.spec.options
    return replace(
        usual,
        atol=usual.atol if options.atol is None else options.atol,
        rtol=usual.rtol if options.rtol is None else options.rtol,
    )


def _prove(stage: Stage, built: Plan, export: Path) -> dict[str, Any]:
    """Parity with ONNX Runtime at every shape that a profile admits, and latencies.

    Raises:
        ParityError: The plan computes something else, or no shape could be compared.
    """
    from builder.engines.trt.latency import reference_latencies

    shapes = tuple(
        shape for shape in stage.shapes if any(p.admits(shape) for p in built.spec.profiles)
    )
    if stage.shapes and not shapes:
        raise ParityError(
            "the profiles admit none of its shapes, so nothing could be compared",
            where=f"stage {stage.name}",
        )
    loaded = plan_builder().load(built.path, built.spec)
    try:
        parity, (inputs, _) = check_parity(
            stage,
            runner_of(loaded),
            onnx_runner(export),
            what="the TensorRT plan",
            shapes=shapes or ({},),
            tolerance=_tolerance(stage, built),
        )
        latency = {
            "engine": loaded.latency_ms(inputs),
            **reference_latencies(stage, export, inputs),
        }
    finally:
        loaded.close()
    return {
        "parity": parity.to_json(),
        "latency_ms": {k: round(v, 4) for k, v in latency.items()},
    }


def _config_text(
    context: "Context",
    stage: Stage,
    model: str,
    export: Path,
    tree: Path,
    profiles: tuple[ShapeProfile, ...],
) -> str:
    from builder.repository.model_config import config_text
    from builder.repository.plans import plan_table
    from builder.repository.signature import onnx_signature
    from builder.repository.tensorrt_config import plan_config

    return config_text(
        plan_config(
            model,
            onnx_signature(export),
            plan_table(tree),
            profiles,
            max_batch_size=stage.max_batch_size,
            options=context.config.stage_options(stage.name, stage.serving),
            tensorrt=options_of(context, stage),
            metadata={"family": stage.family, **stage.metadata},
        )
    )

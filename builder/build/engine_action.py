"""Building, proving and publishing one engine, as an action."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from builder.build.action import Action
from builder.digest import code_digest, describe_platform, sha256_value, versions_of
from builder.engines.engine import EngineJob, EngineKind
from builder.errors import BuilderError, from_os_error
from builder.export.exporter import MODEL
from builder.export.parity import check_parity, onnx_runner
from builder.record import NAME, Record, describe_files, read_record
from builder.stage import Stage
from builder.target import Target

if TYPE_CHECKING:
    from builder.build.plan import Context


def plan(
    context: "Context", stage: Stage, kind: EngineKind, target: Target, export: Action
) -> Action:
    """`model_repository/<group>/<model>/<version>/`."""
    from builder.repository.publish import versions

    model = kind.model_name(stage)
    repository = context.config.repository
    version = context.version or max(versions(repository / kind.group / model), default=1)
    options = context.config.stage_options(stage.name, stage.serving)

    def ingredients() -> dict[str, str]:
        record = read_record(export.folder)
        return {
            "export": sha256_value([record.made_from, record.files] if record else None),
            "options": sha256_value([asdict(options), stage.max_batch_size, dict(stage.metadata)]),
            "code": code_digest(f"builder.engines.{kind.name}", "builder.repository.model_config"),
            **versions_of(*kind.libraries),
        }

    def make(made_from: Mapping[str, str]) -> Record:
        return build_and_publish(
            context, stage, kind, target, export.folder / MODEL, version, made_from
        )

    return Action(
        artefact=kind.name,
        model=model,
        folder=repository / kind.group / model / str(version),
        needs=(export,),
        ingredients=ingredients,
        make=make,
    )


def build_and_publish(
    context: "Context",
    stage: Stage,
    kind: EngineKind,
    target: Target,
    export: Path,
    version: int,
    made_from: Mapping[str, str],
) -> Record:
    """Build an engine, compare it with its export at every shape, and only then publish it.

    Raises:
        EngineError: It cannot be built.
        ParityError: It computes something else than the export.
        RepositoryError: The repository cannot be written.
    """
    from builder.export.operators import operator_libraries, served_name
    from builder.repository.model_config import config_text, stage_config
    from builder.repository.publish import publish
    from builder.repository.signature import onnx_signature

    model = kind.model_name(stage)
    config = context.config
    options = config.stage_options(stage.name, stage.serving)
    libraries = operator_libraries(export)
    start = time.perf_counter()
    try:
        config.build_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=config.build_dir, prefix="engine-") as scratch:
            folder = Path(scratch)
            files = kind.build(EngineJob(stage, target, export, options, folder))
            seconds = time.perf_counter() - start
            parity, _ = check_parity(
                stage,
                kind.runner(stage, files),
                onnx_runner(export),
                what=f"the {kind.name} engine",
            )
            record = Record(
                artefact=kind.name,
                model=model,
                made_from=dict(made_from),
                measured={"parity": parity.to_json(), "seconds": round(seconds, 3)},
                files=describe_files(files, context.digests),
                details={
                    "family": stage.family,
                    "stage": stage.name,
                    "target": target.name,
                    "platform": describe_platform(),
                    "options": asdict(options),
                },
            )
            publish(
                config.repository,
                kind.group,
                model,
                version=version,
                files={**{path.name: path for path in files}, NAME: record.to_bytes()},
                config=config_text(
                    stage_config(
                        model,
                        onnx_signature(export),
                        backend=kind.backend,
                        max_batch_size=stage.max_batch_size,
                        options=options,
                        metadata={"family": stage.family, **stage.metadata},
                        warmup_sizes=stage.shapes[0] if stage.shapes else None,
                        operator_libraries=map(served_name, libraries),
                    )
                ),
                extra={served_name(d): file.read_bytes() for d, file in libraries.items()},
                # Asking for a version by number asks for it to be served.
                clear_pin=context.version is not None,
            )
    except BuilderError:
        raise
    except OSError as error:
        raise from_os_error(error, "building", f"{kind.name} engine {model}") from error
    return record

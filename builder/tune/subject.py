"""What is tuned: a stage, or a pipeline with its stages, and the requests that judge it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from builder.bench.case import Load, all_cases
from builder.config import Config
from builder.engines.engine import engine_kind
from builder.errors import RepositoryError, UsageError
from builder.family import Registry
from builder.pipeline import Pipeline
from builder.repository.layout import PYTHON_GROUP
from builder.serving.states import models_in
from builder.stage import Arrays, Stage

DISTINCT = 16
"""Different requests, where no benchmark of the family says what to send."""

GROUP = "onnx"
"""Where the engines are whose settings are searched."""

_ENSEMBLES = "ensemble"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to tune.

    Attributes:
        load: What is sent, and to whom.
        stages: Stages whose settings are searched.
        request: One line about the requests.
    """

    name: str
    load: Load
    stages: tuple[Stage, ...]
    request: str


def find_subject(config: Config, registry: Registry, name: str) -> Subject:
    """The stage or pipeline of that name, which has been built.

    Raises:
        UsageError: There is no such model, or its settings are not in builder.toml.
        RepositoryError: It has not been built.
    """
    if name in registry.pipelines:
        pipeline = registry.pipelines[name]
        names = dict.fromkeys(step.model for step in pipeline.steps)
        stages = tuple(registry.stages[model] for model in names)
        _check_built(config, _ENSEMBLES, name)
        example = partial(_pipeline_requests, pipeline)
    elif name in registry.stages:
        stages = (registry.stages[name],)
        example = partial(_stage_requests, stages[0])
    else:
        raise _unknown(config, registry, name)
    for stage in stages:
        if "onnxruntime" not in stage.engines:
            raise UsageError("has no ONNX engine, whose settings could be searched", where=name)
        _check_built(config, GROUP, stage.name)
    declared = _declared_load(config, name)
    if declared is not None:
        return Subject(name, declared[0], stages, declared[1])
    return Subject(name, Load(name, example), stages, f"{DISTINCT} examples of the family")


def _check_built(config: Config, group: str, name: str) -> None:
    folder = config.repository / group / name
    if not (folder / "config.pbtxt").is_file():
        raise RepositoryError("has not been built", where=folder, hint=f"run: builder build {name}")


def _unknown(config: Config, registry: Registry, name: str) -> UsageError:
    known = [*registry.stages, *registry.pipelines]
    if name in models_in(config.repository / PYTHON_GROUP):
        return UsageError(
            "is a python twin: its settings are in its own config.pbtxt, written by hand",
            where=name,
            hint="tune what it is the twin of; builder list says what there is",
        )
    for stage in registry.stages.values():
        for kind in stage.engines:
            if engine_kind(kind).model_name(stage) == name:
                return UsageError(
                    f"is an engine of the stage {stage.name}, which shares its settings",
                    where=name,
                    hint=f"run: builder tune {stage.name}",
                )
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "builder list says what there is"
    return UsageError(f"no stage or pipeline {name!r}", hint=hint)


def _declared_load(config: Config, name: str) -> tuple[Load, str] | None:
    """What the family's benchmark sends to the model."""
    for case in all_cases(config):
        if case.config.repository != config.repository or case.prepare is not None:
            continue
        for variant in case.variants:
            if variant.served and variant.models == (name,) and not variant.config_name:
                return variant.loads[0], case.request
    return None


def _stage_requests(stage: Stage) -> Sequence[Arrays]:
    import numpy as np

    return [stage.example(_usual(stage), np.random.default_rng(n)) for n in range(DISTINCT)]


def _usual(stage: Stage) -> dict[str, int]:
    """The usual size of each symbol, one sample of it."""
    sizes = dict(stage.shapes[0]) if stage.shapes else {}
    if {d for t in stage.inputs for d in t.dims if isinstance(d, str)} <= stage.profile.keys():
        sizes |= {symbol: sizes_of.opt for symbol, sizes_of in stage.profile.items()}
    if stage.max_batch_size > 0:
        sizes[str(stage.inputs[0].dims[0])] = 1
    return sizes


def _pipeline_requests(pipeline: Pipeline) -> Sequence[Arrays]:
    import numpy as np

    return [pipeline.example(np.random.default_rng(n)) for n in range(DISTINCT)]

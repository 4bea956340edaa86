"""What every engine kind has in common."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.config import StageOptions
from builder.engines.trt.options import TensorRTOptions
from builder.errors import UsageError
from builder.export.parity import Runner
from builder.stage import Stage
from builder.target import Target


@dataclass(frozen=True, slots=True)
class EngineJob:
    """One engine to build.

    Attributes:
        stage: The stage.
        target: Where the engine is to run.
        export: The stage's ONNX file.
        options: How it is to be built and served.
        folder: An empty folder for the files of the version directory.
        tensorrt: Settings for plans.
        cache: Folder for what a later build may use again; None keeps nothing.
        progress: Told about the phases of a long build: name, steps done, steps in all.
    """

    stage: Stage
    target: Target
    export: Path
    options: StageOptions
    folder: Path
    tensorrt: TensorRTOptions = TensorRTOptions()
    cache: Path | None = None
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A kind of engine.

    Attributes:
        name: The kind, as in `Stage.engines`.
        backend: The Triton backend that loads it.
        group: Folder of the model repository.
        suffix: What is added to the stage's name to make the model's name.
        libraries: Distributions whose versions decide what is built.
        build: Makes the files, the one that the backend opens first.
        runner: Runs the files in this process; raises ParityError if they do not load.
        supports: Whether the kind can be built for a target.
        per_target: Whether each target needs an engine of its own (`sm90.plan`), with a record
            of its own, all of which share one version folder.
    """

    name: str
    backend: str
    group: str
    suffix: str
    libraries: tuple[str, ...]
    build: Callable[[EngineJob], list[Path]]
    runner: Callable[[Stage, Sequence[Path]], Runner]
    supports: Callable[[Target], bool]
    per_target: bool = False

    def model_name(self, stage: Stage) -> str:
        """Name of the model in the repository."""
        return stage.name + self.suffix


def engine_kind(name: str) -> EngineKind:
    """The engine kind of that name.

    Raises:
        UsageError: There is no module of that name in `builder.engines`.
    """
    try:
        module = importlib.import_module(f"builder.engines.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"builder.engines.{name}":
            raise
        raise UsageError(f"unknown engine kind {name!r}") from error
    kind: EngineKind = module.KIND
    return kind

"""Families, and the registry that finds what they declare.

A family is a folder below `builder/families/`. Its `__init__` holds `FAMILY`; every module in
its `models` folder is imported and may define

    def stages(config: Config) -> Iterable[Stage]
    def pipelines(config: Config) -> Iterable[Pipeline]

so adding a model means adding a file there, and adding a family means adding a folder. These
modules must not import torch at the top: `builder status` reads all of them.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType

from builder import families
from builder.config import Config
from builder.errors import UsageError
from builder.pipeline import Pipeline
from builder.stage import Stage


@dataclass(frozen=True, slots=True)
class Family:
    """A group of models that belong together.

    Attributes:
        name: Name of the folder.
        title: One line for people.
        commands: Command line words -> `module:object` of a click command, for example
            `{"train anomaly": "builder.families.anomaly.commands:train_command"}`.
    """

    name: str
    title: str
    commands: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registry:
    """All stages and pipelines by name, for one configuration."""

    stages: Mapping[str, Stage]
    pipelines: Mapping[str, Pipeline]

    @classmethod
    def load(cls, config: Config) -> "Registry":
        """Collect what the configured families declare.

        Raises:
            UsageError: Two models have the same name, or a configured family does not exist.
        """
        known = {family.name: family for family in all_families()}
        wanted = config.build.families or tuple(known)
        for name in wanted:
            if name not in known:
                raise UsageError(
                    f"unknown family {name!r}", hint=f"families: {', '.join(sorted(known))}"
                )
        stages: dict[str, Stage] = {}
        pipelines: dict[str, Pipeline] = {}
        for module in (m for name in wanted for m in _model_modules(name)):
            for stage in getattr(module, "stages", lambda _: ())(config):
                _add(stages, pipelines, stage.name, module)
                stages[stage.name] = stage
            for pipeline in getattr(module, "pipelines", lambda _: ())(config):
                _add(stages, pipelines, pipeline.name, module)
                pipelines[pipeline.name] = pipeline
        return cls(stages, pipelines)


def all_families() -> Iterator[Family]:
    """The families that are installed, by name."""
    for info in sorted(pkgutil.iter_modules(families.__path__), key=lambda i: i.name):
        if info.ispkg:
            yield importlib.import_module(f"{families.__name__}.{info.name}").FAMILY


def _model_modules(family: str) -> Iterator[ModuleType]:
    package = importlib.import_module(f"{families.__name__}.{family}.models")
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        yield importlib.import_module(f"{package.__name__}.{info.name}")


def _add(
    stages: Mapping[str, Stage], pipelines: Mapping[str, Pipeline], name: str, module: ModuleType
) -> None:
    if name in stages or name in pipelines:
        raise UsageError(f"two models are named {name}", where=module.__name__)

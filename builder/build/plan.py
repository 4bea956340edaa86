"""The plan: every action that the registry and the configuration ask for, in build order."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from builder.build import engine_action, ensemble_action, export_action
from builder.build.action import Action
from builder.config import Config
from builder.digest import FileDigests
from builder.engines.engine import engine_kind
from builder.errors import UsageError
from builder.export.exporter import Exporter
from builder.family import Registry
from builder.stage import Stage
from builder.target import Target, parse_target


@dataclass(slots=True)
class Context:
    """What actions share while they are planned and taken.

    Attributes:
        version: The version directory to write; None means the newest there is, or 1.
    """

    config: Config
    registry: Registry
    digests: FileDigests
    exporter: Exporter
    version: int | None = None
    targets: tuple[Target, ...] = field(default=())


def make_context(config: Config, registry: Registry, version: int | None = None) -> Context:
    """A context for one build.

    Raises:
        UsageError: A configured target has no such name, or the version is not positive.
    """
    if version is not None and version < 1:
        raise UsageError("a version is a positive number", where="--as-version")
    digests = FileDigests(config.build_dir / "digests.json")
    return Context(
        config=config,
        registry=registry,
        digests=digests,
        exporter=Exporter(digests),
        version=version,
        targets=tuple(parse_target(name) for name in config.build.targets),
    )


def make_plan(context: Context, names: Iterable[str] = ()) -> list[Action]:
    """All actions for the named models (patterns allowed; none means all), needs first.

    Raises:
        UsageError: A name matches nothing, or an engine kind does not exist.
    """
    registry = context.registry
    chosen = select(names, registry)
    members = {
        step.model
        for name in chosen
        if name in registry.pipelines
        for step in registry.pipelines[name].steps
    }
    exports: dict[str, Action] = {}
    engines: dict[str, Action] = {}
    plan: list[Action] = []
    for name, stage in registry.stages.items():
        if name not in chosen and name not in members:
            continue
        exports[name] = export_action.plan(context, stage)
        plan.append(exports[name])
        for action in _engine_actions(context, stage, exports[name]):
            engines[action.model] = action
            plan.append(action)
    for name, pipeline in registry.pipelines.items():
        if name in chosen:
            plan.append(ensemble_action.plan(context, pipeline, exports, engines))
    return plan


def _engine_actions(context: Context, stage: Stage, export: Action) -> Iterable[Action]:
    for kind in map(engine_kind, stage.engines):
        for target in context.targets:
            if kind.supports(target):
                yield engine_action.plan(context, stage, kind, target, export)


def select(names: Iterable[str], registry: Registry) -> Mapping[str, None]:
    """Names of the stages and pipelines that match; all of them if no name is given.

    Raises:
        UsageError: A name matches nothing.
    """
    known = [*registry.stages, *registry.pipelines]
    chosen: dict[str, None] = {}
    for pattern in names:
        found = fnmatch.filter(known, pattern)
        if not found:
            raise UsageError(f"no model matches {pattern!r}", hint="see `builder list`")
        chosen |= dict.fromkeys(found)
    return chosen or dict.fromkeys(known)

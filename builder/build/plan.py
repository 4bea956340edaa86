"""The plan: every action that the registry and the configuration ask for, in build order."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from builder.build import engine_action, ensemble_action, export_action, tensorrt_action
from builder.build.action import Action
from builder.config import Config
from builder.digest import FileDigests
from builder.engines.engine import engine_kind
from builder.engines.trt.gpu import local_targets, tensorrt_version
from builder.errors import UsageError
from builder.export.exporter import Exporter
from builder.family import Registry
from builder.stage import Stage
from builder.target import AUTO, CPU, Target, parse_target


@dataclass(slots=True)
class Context:
    """What actions share while they are planned and taken.

    Attributes:
        version: The version directory to write; None means the newest there is, or 1.
        targets: What to build for. The CPU is always among them: the ONNX engines run anywhere,
            and the pipelines need those that have no TensorRT twin.
        force: Build even what is up to date.
        progress: Told about the phases of a long build: name, steps done, steps in all.
    """

    config: Config
    registry: Registry
    digests: FileDigests
    exporter: Exporter
    version: int | None = None
    targets: tuple[Target, ...] = field(default=())
    force: bool = False
    progress: Callable[[str, int, int], None] = field(default=lambda phase, done, total: None)


def make_context(config: Config, registry: Registry, version: int | None = None) -> Context:
    """A context for one build.

    Raises:
        UsageError: A configured target has no such name, or the version is not positive.
    """
    if version is not None and version < 1:
        raise UsageError("a version is a positive number", where="--as-version")
    digests = FileDigests(config.build_dir / "digests.json")
    context = Context(
        config=config,
        registry=registry,
        digests=digests,
        exporter=Exporter(digests, stream_from=config.build.stream_from_mib << 20),
        version=version,
        targets=expand_targets(config.build.targets),
    )
    digests.progress = lambda phase, done, total: context.progress(phase, done, total)
    return context


def expand_targets(names: Iterable[str]) -> tuple[Target, ...]:
    """Targets by name, the CPU first; `auto` adds the GPUs here if TensorRT is installed.

    Raises:
        UsageError: There is no target of such a name.
    """
    targets = {CPU: None}
    for name in names:
        if name.strip().lower() != AUTO:
            targets[parse_target(name)] = None
        elif tensorrt_version() is not None:
            targets |= dict.fromkeys(local_targets())
    return tuple(targets)


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
    twins: dict[str, list[Action]] = {}
    plan: list[Action] = []
    for name, stage in registry.stages.items():
        if name not in chosen and name not in members:
            continue
        exports[name] = export_action.plan(context, stage)
        plan.append(exports[name])
        for action in _engine_actions(context, stage, exports[name]):
            if action.target:
                twins.setdefault(name, []).append(action)
            else:
                engines[action.model] = action
            plan.append(action)
    for name, pipeline in registry.pipelines.items():
        if name in chosen:
            plan.append(ensemble_action.plan(context, pipeline, exports, engines, twins))
    return plan


def _engine_actions(context: Context, stage: Stage, export: Action) -> Iterable[Action]:
    for kind in map(engine_kind, stage.engines):
        for target in context.targets:
            if kind.supports(target):
                module = tensorrt_action if kind.per_target else engine_action
                yield module.plan(context, stage, kind, target, export)


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

"""The fleet: which plan there is for which kind of GPU, and what is wrong with the others.

Everything is read from the repository, its records and the remembered failures; neither a GPU
nor TensorRT is needed, so the state of the whole fleet can be seen on any machine.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from builder.build.export_action import export_folder
from builder.config import Config
from builder.digest import FileDigests
from builder.engines.tensorrt import KIND
from builder.engines.trt.gpu import local_targets
from builder.errors import RepositoryError, UsageError
from builder.export.exporter import MODEL
from builder.family import Registry
from builder.preflight.failures import Failure, read_failures
from builder.preflight.plan import read_plan_record
from builder.preflight.sources import Sources
from builder.repository.plans import GROUP
from builder.repository.publish import versions
from builder.target import AUTO, Target, parse_target

State = Literal["built", "stale", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model on one kind of GPU.

    Attributes:
        model: Name of the model in the repository, for example `SMAP_A-1_trt`.
        stage: Name of the stage.
        target: Name of the target, for example `sm90`.
        state: `built`; `stale` (there is a plan, but not of today's ONNX model); `missing`; or
            `failed`, where the last attempt did (an older plan may still be served).
        why: What is wrong; empty where the state is `built`.
        tensorrt: Version of TensorRT that built the present plan; empty if there is none.
        gpu: Name of the GPU that built it.
    """

    model: str
    stage: str
    target: str
    state: State
    why: str = ""
    tensorrt: str = ""
    gpu: str = ""

    def to_json(self) -> dict[str, str]:
        """For `builder fleet status --json`."""
        return asdict(self)


def stages_for_plans(registry: Registry) -> list[str]:
    """Names of the stages that are built for TensorRT."""
    return [name for name, stage in registry.stages.items() if KIND.name in stage.engines]


def fleet_targets(config: Config) -> tuple[Target, ...]:
    """The GPU targets of the configuration and those that the repository holds plans for.

    `auto` stands for the GPUs of this machine.

    Raises:
        UsageError: A configured target has no such name.
    """
    targets = {parse_target(name) for name in config.build.targets if name != AUTO}
    if AUTO in config.build.targets:
        targets |= set(local_targets())
    for plan in (config.repository / GROUP).glob("*/*/sm*.plan"):
        try:
            targets.add(parse_target(plan.stem))
        except UsageError:  # a plan with a name of somebody else's making
            continue
    return tuple(sorted((t for t in targets if t.is_gpu), key=lambda t: int(t.name[2:])))


def fleet(
    config: Config,
    registry: Registry,
    targets: Iterable[Target] | None = None,
    *,
    digests: FileDigests | None = None,
) -> list[Entry]:
    """Every stage that is built for TensorRT on every target, by stage and compute capability.

    Args:
        targets: By default `fleet_targets`.

    Raises:
        UsageError: A configured target has no such name.
    """
    chosen = fleet_targets(config) if targets is None else tuple(t for t in targets if t.is_gpu)
    digests = digests or FileDigests(config.build_dir / "digests.json")
    sources = sources_of(config, registry, digests)
    failures = read_failures(config.build_dir)
    entries = [
        _entry(config, stage, target, sources, failures, digests)
        for stage in stages_for_plans(registry)
        for target in chosen
    ]
    digests.save()
    return entries


def missing(
    config: Config, registry: Registry, targets: Iterable[Target] | None = None
) -> list[tuple[str, Target]]:
    """Stages and targets that have no plan of today's ONNX model: what is still to be built.

    Args:
        targets: By default `fleet_targets`.
    """
    entries = fleet(config, registry, targets)
    return [(e.stage, Target(e.target)) for e in entries if e.state != "built"]


def sources_of(config: Config, registry: Registry, digests: FileDigests) -> Sources:
    """The exports that the plans of a configuration should come from."""
    exports: Mapping[str, Path] = {
        stage.name: export_folder(config.exports, stage) / MODEL
        for stage in registry.stages.values()
    }
    return Sources(config.repository, exports, digests)


def counts(entries: Collection[Entry]) -> dict[State, int]:
    """How many entries are in which state."""
    states: tuple[State, ...] = ("built", "stale", "missing", "failed")
    return {state: sum(entry.state == state for entry in entries) for state in states}


def _entry(
    config: Config,
    stage: str,
    target: Target,
    sources: Sources,
    failures: Mapping[tuple[str, str], Failure],
    digests: FileDigests,
) -> Entry:
    model = stage + KIND.suffix
    folder = config.repository / GROUP / model
    version = max(versions(folder), default=1) if folder.is_dir() else 1
    plan = folder / str(version) / target.plan
    failure = failures.get((model, target.name))
    record = read_plan_record(plan) if plan.is_file() else None
    built_by = (record.tensorrt, record.gpu) if record else ("", "")
    if failure is not None:
        kept = "; the last good plan is still there" if plan.is_file() else ""
        return Entry(model, stage, target.name, "failed", failure.reason + kept, *built_by)
    if not plan.is_file():
        return Entry(model, stage, target.name, "missing", "not built yet")
    if record is None:
        why = f"{plan.name} has no readable record"
        return Entry(model, stage, target.name, "stale", why)
    problems = [*record.record.damage(plan.parent, digests)]
    problems += sources.changes(stage, version, record)
    if not _listed(folder, target, plan.name):
        problems.append(f"config.pbtxt does not list it for {target.compute_capability}")
    state: State = "stale" if problems else "built"
    return Entry(model, stage, target.name, state, "; ".join(problems), *built_by)


def _listed(folder: Path, target: Target, name: str) -> bool:
    from builder.repository.model_config import read_config

    try:
        files = read_config(folder / "config.pbtxt").cc_model_filenames
    except RepositoryError:
        return False
    return bool(files.get(target.compute_capability or "") == name)

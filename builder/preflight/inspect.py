"""The preflight of a configuration: its repository, its server, its GPUs, its exports."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.config import Config
from builder.digest import FileDigests
from builder.errors import BuilderError, RepositoryError, UsageError
from builder.family import Registry
from builder.preflight.check import Refusal, check, plan_models
from builder.preflight.facts import (
    Gpu,
    ServerFacts,
    facts_of_installation,
    facts_of_release,
    local_gpus,
    parse_gpus,
)
from builder.preflight.fleet import sources_of
from builder.preflight.plan import read_plan_record
from builder.preflight.sources import Sources
from builder.repository.plans import GROUP
from builder.serving.installations import Installation, find_installation

BACKEND_FLAG = "--backend-config=tensorrt,version-compatible=true"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `builder doctor --repository` found.

    Attributes:
        models: Names of the models with plans.
        server: What the plans were compared with.
        gpus: Likewise; None if they are not known.
        refusals: Why the server must not be started with these plans.
        notes: What could not be found out.
    """

    repository: Path
    models: tuple[str, ...]
    server: ServerFacts
    gpus: tuple[Gpu, ...] | None
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every plan would load."""
        return not self.refusals

    def to_json(self) -> dict[str, Any]:
        """For `builder doctor --repository --json`."""
        return {
            "ok": self.ok,
            "repository": str(self.repository),
            "models": list(self.models),
            "server": asdict(self.server),
            "gpus": None if self.gpus is None else [asdict(gpu) for gpu in self.gpus],
            "refusals": [refusal.to_json() for refusal in self.refusals],
            "notes": list(self.notes),
        }


def inspect(
    config: Config,
    repository: Path | None = None,
    *,
    release: str | None = None,
    gpus: Sequence[str] = (),
) -> Inspection:
    """Compare the plans of a repository with the server and the GPUs at hand, or those named.

    Args:
        repository: By default the configured one.
        release: Compare with this container release instead of the server that is installed.
        gpus: Compare with these GPUs instead of those of this machine: `9.0`, `sm90`, or a line
            of nvidia-smi.

    Raises:
        UsageError: The folder does not exist, the release is unknown, or a text is no GPU.
        RepositoryError: The repository cannot be read.
    """
    root = repository or config.repository
    if repository is not None and not repository.is_dir():
        raise UsageError("there is no such folder", where=repository)
    notes: list[str] = []
    server = facts_of_release(release) if release else _server(config, notes)
    known: tuple[Gpu, ...] | None = parse_gpus(gpus) or local_gpus()
    if not known:
        notes.append("there is no GPU here, so nothing was asked about one: name it with --gpu")
        known = None
    if server.tensorrt is None:
        notes.append(
            f"TensorRT versions were not compared ({server.source}): name a release with --release"
        )
    digests = FileDigests(config.build_dir / "digests.json")
    refusals = check(root, server, known, sources=_sources(config, root, digests), digests=digests)
    if config.build_dir.is_dir():
        digests.save()
    models = tuple(model.name for model in plan_models(root))
    return Inspection(root, models, server, known, tuple(refusals), tuple(notes))


def server_options(
    config: Config, installation: Installation, models: Collection[str]
) -> list[str]:
    """Refuse plans that the server and the GPUs at hand cannot run, before the server starts.

    Returns:
        More arguments for tritonserver, which the plans need.

    Raises:
        RepositoryError: There is a reason to refuse; the message names them all.
    """
    compatible = _any_version_compatible(config.repository, models)
    facts = facts_of_installation(installation)
    server = ServerFacts(facts.tensorrt, facts.source, facts.platform, compatible)
    digests = FileDigests(config.build_dir / "digests.json")
    sources = _sources(config, config.repository, digests)
    refusals = check(
        config.repository, server, local_gpus(), models=models, sources=sources, digests=digests
    )
    digests.save()
    if refusals:
        raise RepositoryError(_sentence(refusals), where=config.repository / GROUP, hint=_HINT)
    return [BACKEND_FLAG] if compatible else []


_HINT = (
    "`builder doctor --repository` explains each one; `--models` serves others, and the ONNX "
    "models need no plan"
)
_SHOWN = 10


def _sentence(refusals: Sequence[Refusal]) -> str:
    lines = [f"{r.model}: {r.reason}\n       {r.remedy}" for r in refusals[:_SHOWN]]
    if len(refusals) > _SHOWN:
        lines.append(f"and {len(refusals) - _SHOWN} more")
    return "the plans do not fit this machine\n     " + "\n     ".join(lines)


def _server(config: Config, notes: list[str]) -> ServerFacts:
    options = config.server
    try:
        return facts_of_installation(find_installation(options.server, release=options.container))
    except BuilderError as error:
        notes.append(f"no server was found: {error.what}")
        return ServerFacts(None, "no server")


def _sources(config: Config, repository: Path, digests: FileDigests) -> Sources:
    """The exports, if the repository is the one that this configuration builds."""
    if repository.resolve() != config.repository.resolve():
        return Sources(repository, digests=digests)
    return sources_of(config, Registry.load(config), digests)


def _any_version_compatible(repository: Path, models: Collection[str]) -> bool:
    for model in plan_models(repository, models):
        for plan in model.folder.glob("*/*.plan"):
            record = read_plan_record(plan)
            if record is not None and record.version_compatible:
                return True
    return False

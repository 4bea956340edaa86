"""From the configuration to the server that serves the model repository."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.config import Config
from builder.errors import ConfigError, UsageError
from builder.family import Registry, all_families
from builder.repository.layout import NATIVE_GROUPS, PYTHON_GROUP
from builder.serving.backends import prepare_backends
from builder.serving.installations import OFFICIAL_ROOT, Installation, find_installation
from builder.serving.server import TritonServer
from builder.serving.states import models_in

# Backends that the groups need. Ensembles need none.
_BACKENDS: Mapping[str, str] = {
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
    "pytorch": "pytorch",
    "python": "python",
}
_PARAMETER = r'key\s*:\s*"%s"\s*,?\s*value\s*:?\s*\{\s*string_value\s*:\s*"([^"]*)"'


@dataclass(frozen=True, slots=True)
class Selection:
    """What is going to be served.

    Attributes:
        groups: Group -> names of its models that are served.
        load: Models to load explicitly; None where whole groups are served.
        skipped: Group -> why it is left out.
    """

    groups: Mapping[str, tuple[str, ...]]
    load: tuple[str, ...] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every model that is served, by group."""
        return tuple(name for names in self.groups.values() for name in names)


def select(
    config: Config,
    installation: Installation,
    *,
    python: bool = False,
    family: str | None = None,
    models: Sequence[str] = (),
) -> Selection:
    """Choose groups and models.

    Args:
        python: Whether to serve the python-backend twins, too.
        family: Only models of this family.
        models: Only these models: names, or patterns such as `SMAP_*`.

    Raises:
        UsageError: There is nothing to serve, or an unknown family or model is named.
    """
    wanted = (*NATIVE_GROUPS, PYTHON_GROUP) if python else NATIVE_GROUPS
    groups = {group: tuple(models_in(config.repository / group)) for group in wanted}
    groups = {group: names for group, names in groups.items() if names}
    skipped = {}
    # Plans need TensorRT, which only the official builds of the server have.
    if "tensorrt" in groups and not installation.has_backend("tensorrt"):
        del groups["tensorrt"]
        skipped["tensorrt"] = f"the {installation.kind} server has no tensorrt backend"
    if not groups:
        raise UsageError(
            "there is no model to serve", where=config.repository, hint="run builder build first"
        )
    if family is None and not models:
        return Selection(groups, None, skipped)
    if family is not None:
        belongs = _belongs_to(config, family)
        groups = {
            group: tuple(n for n in names if belongs(config.repository / group / n))
            for group, names in groups.items()
        }
    if models:
        everything = [name for names in groups.values() for name in names]
        chosen = _match(models, everything, config, python)
        if python:
            twins = config.repository / PYTHON_GROUP
            chosen |= {called for name in chosen for called in _calls(twins / name)}
        groups = {g: tuple(n for n in names if n in chosen) for g, names in groups.items()}
    selection = Selection({g: n for g, n in groups.items() if n}, None, skipped)
    if not selection.names:
        raise UsageError(
            f"there is no model of family {family!r} to serve",
            where=config.repository,
            hint="run builder build first",
        )
    return Selection(selection.groups, tuple(dict.fromkeys(selection.names)), skipped)


def _belongs_to(config: Config, family: str) -> Callable[[Path], bool]:
    """A function that says whether the model in a folder belongs to the family.

    The registry knows the stages, the pipelines and their twins (`X_trt`, `X_py`). Models written
    by hand name their family in the `parameters` of config.pbtxt.
    """
    known = sorted(f.name for f in all_families())
    if family not in known:
        raise UsageError(f"unknown family {family!r}", hint=f"families: {', '.join(known)}")
    registry = Registry.load(config)
    owners = {stage.name: stage.family for stage in registry.stages.values()}
    owners |= {pipeline.name: pipeline.family for pipeline in registry.pipelines.values()}

    def belongs(folder: Path) -> bool:
        if found := _string_parameter(folder, "family"):
            return found == family
        stem = folder.name.rpartition("_")[0]
        return owners.get(folder.name, owners.get(stem)) == family

    return belongs


def _string_parameter(folder: Path, key: str) -> str:
    """A parameter in the config.pbtxt of a model written by hand; empty where there is none."""
    pbtxt = folder / "config.pbtxt"
    if not pbtxt.is_file():
        return ""
    found = re.search(_PARAMETER % key, pbtxt.read_text(errors="replace"))
    return found[1] if found else ""


def _calls(folder: Path) -> tuple[str, ...]:
    """Models that a python-backend model calls by itself; the server does not know of them."""
    return tuple(name.strip() for name in _string_parameter(folder, "calls").split(",") if name)


def _match(
    patterns: Iterable[str], everything: Sequence[str], config: Config, python: bool
) -> set[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = fnmatch.filter(everything, pattern)
        if not found:
            if not python and fnmatch.filter(models_in(config.repository / PYTHON_GROUP), pattern):
                hint = "it is a python twin: add --with-python"
            elif close := difflib.get_close_matches(pattern, everything, n=3):
                hint = f"did you mean {' or '.join(close)}?"
            else:
                hint = "builder list says what there is"
            raise UsageError(f"no model {pattern!r}", where=config.repository, hint=hint)
        chosen.update(found)
    return chosen


def backend_directory(
    config: Config, installation: Installation, groups: Iterable[str]
) -> Path | None:
    """Backends for the groups: those of the installation, or ours where it lacks some.

    Returns:
        The directory; None if the server's default one does.

    Raises:
        MissingDependencyError: A backend has to be made, and what it takes is missing.
    """
    if installation.image is not None:
        return None
    needed = {_BACKENDS[group] for group in groups if group in _BACKENDS}
    own = installation.backends
    if installation.kind == "native" and all(installation.has_backend(b) for b in needed):
        return None if own is None or own.parent == OFFICIAL_ROOT else own
    base = own if installation.kind == "native" else None
    python = bool(needed & {"python", "pytorch"})
    return prepare_backends(
        config.build_dir, python=python, onnxruntime="onnxruntime" in needed, base=base
    )


def make_server(
    config: Config,
    *,
    python: bool = False,
    family: str | None = None,
    models: Sequence[str] = (),
    model_config_name: str | None = None,
    poll: bool = False,
    strict: bool = True,
    free_ports: bool = False,
    check_plans: bool = True,
    log_file: Path | None = None,
) -> tuple[TritonServer, Selection]:
    """The server for the repository, not yet started, with the settings of `config.server`.

    Args:
        python: Whether to serve the python-backend twins, too.
        family: Only models of this family.
        models: Only these models: names, or patterns such as `SMAP_*`.
        model_config_name: Serve `configs/<name>.pbtxt` where a model has one.
        poll: Follow changes in the repository.
        strict: Whether a model that fails to load is an error.
        free_ports: Use any free ports instead of the configured ones.
        check_plans: Refuse plans that do not fit; a caller that loads none has no need to.
        log_file: Where the log goes; by default a temporary file.

    Raises:
        UsageError: There is nothing to serve, or an unknown family or model is named.
        MissingDependencyError: The server, or what it takes to make a backend, is missing.
        RepositoryError: Plans that would be served do not fit the server or the GPUs at hand.
    """
    options = config.server
    installation = find_installation(options.server, release=options.container)
    selection = select(config, installation, python=python, family=family, models=models)
    if poll and selection.load is not None:
        raise ConfigError(
            "polling follows whole groups", hint="leave out --poll, or --family and --models"
        )
    # With a list of models, the steps of a chosen ensemble may be in any group.
    groups = _folders(config, selection, python)
    backends = backend_directory(config, installation, groups)
    extra: list[str] = []
    if check_plans and "tensorrt" in groups:
        from builder.preflight.inspect import server_options

        extra += server_options(config, installation, _plan_names(config, selection))
    ours = backends and backends / "onnxruntime"
    if ours and ours.is_dir() and not ours.is_symlink():
        from builder.serving import native_build

        extra += native_build.server_args()
    metrics = None if options.metrics_port == 0 else options.metrics_port
    server = TritonServer(
        [config.repository / group for group in groups],
        backend_directory=backends,
        installation=installation,
        host=options.host,
        http_port=0 if free_ports else options.http_port,
        grpc_port=0 if free_ports else options.grpc_port,
        metrics_port=0 if free_ports and metrics else metrics,
        load=selection.load,
        model_config_name=model_config_name,
        model_control="poll" if poll else "none",
        log_level=options.log_level,
        response_cache_mib=options.response_cache_mib if installation.has_local_cache else 0,
        extra_args=extra,
        timeout=options.timeout,
        exit_timeout=options.exit_timeout,
        log_file=log_file,
        strict=strict,
    )
    return server, selection


def _plan_names(config: Config, selection: Selection) -> tuple[str, ...]:
    """Models of the group tensorrt that would be loaded."""
    if selection.load is None:
        return selection.groups["tensorrt"]
    # The steps of a chosen ensemble are loaded with it, and any of them may be a plan.
    if "ensemble" in selection.groups:
        return tuple(models_in(config.repository / "tensorrt"))
    return selection.groups.get("tensorrt", ())


def _folders(config: Config, selection: Selection, python: bool) -> list[str]:
    if selection.load is None:
        return list(selection.groups)
    wanted = (*NATIVE_GROUPS, PYTHON_GROUP) if python else NATIVE_GROUPS
    return [g for g in wanted if models_in(config.repository / g) and g not in selection.skipped]

"""The one typed configuration: builder.toml, then the environment, then flags.

Each section is a frozen dataclass whose fields carry their documentation. A family defines a
section of its own and reads it with `Config.section`. The environment variable of a setting is
`BUILDER_<SECTION>_<SETTING>`, for example `BUILDER_SERVER_HTTP_PORT=9000`.
"""

import dataclasses
import difflib
import fnmatch
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from builder.errors import ConfigError

T = TypeVar("T")


def setting(default: Any, doc: str) -> Any:
    """A dataclass field with a default and its documentation."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class PathOptions:
    """Where things are kept; relative paths start at the folder of builder.toml."""

    exports: Path = setting(Path("exports"), "ONNX exports and their records")
    repository: Path = setting(Path("model_repository"), "the model repository to write")
    build: Path = setting(Path("build"), "compiled backends, caches, logs and reports")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What is built."""

    targets: tuple[str, ...] = setting(
        ("auto",), "targets to build for: cpu, sm90, ...; auto is the CPU and the GPUs found here"
    )
    families: tuple[str, ...] = setting((), "families to build; empty means all")
    stream_from_mib: int = setting(
        1024, "weights of so many MiB and more are exported without being held in memory"
    )


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How tritonserver is started."""

    server: str = setting("auto", "auto, native (on PATH), container or embedded")
    host: str = setting("127.0.0.1", "address to bind to")
    http_port: int = setting(8000, "HTTP port")
    grpc_port: int = setting(8001, "gRPC port")
    metrics_port: int = setting(8002, "metrics port; 0 switches metrics off")
    log_level: str = setting("warning", "error, warning, info or verbose")
    timeout: float = setting(300.0, "seconds to wait until every model is ready")
    exit_timeout: int = setting(10, "seconds that requests in flight get at shutdown")
    response_cache_mib: int = setting(64, "size of the local response cache; 0 switches it off")
    container: str = setting("26.07", "release of the official container to run")


@dataclass(frozen=True, slots=True)
class StageOptions:
    """How one stage is built and served; `[stages."SMAP_*"]` sets it for names that match."""

    instances: int = setting(1, "model instances")
    device: str = setting(
        "auto", "where ONNX models run: cpu, gpu (CUDA provider), or auto, which is the CPU"
    )
    intra_op_threads: int = setting(1, "ONNX Runtime threads within an operator; 0 means cores")
    inter_op_threads: int = setting(1, "ONNX Runtime threads between operators")
    graph_level: str = setting("basic", "offline optimisation: none, basic or extended")
    dynamic_batching: bool | None = setting(
        None, "batch requests together; unset means yes where the stage has a batch dim"
    )
    preferred_batch_sizes: tuple[int, ...] = setting((), "batch sizes the batcher prefers")
    max_queue_delay_us: int = setting(0, "microseconds a request may wait for company")
    response_cache: bool = setting(False, "answer repeated requests from the response cache")
    version_policy: str = setting("latest:1", "latest:N, all, or specific:1,3")
    warmup: bool = setting(True, "run one request before the model reports ready")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a user may set.

    Attributes:
        root: Folder that relative paths start at.
        tables: The parsed builder.toml, for the sections that families own.
    """

    root: Path
    paths: PathOptions
    build: BuildOptions
    server: ServerOptions
    tables: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def exports(self) -> Path:
        """Absolute folder of the exports."""
        return self.root / self.paths.exports

    @property
    def repository(self) -> Path:
        """Absolute folder of the model repository."""
        return self.root / self.paths.repository

    @property
    def build_dir(self) -> Path:
        """Absolute folder for compiled backends, caches and reports."""
        return self.root / self.paths.build

    def section(self, name: str, cls: type[T]) -> T:
        """Read section `name` as the dataclass `cls`, environment included.

        Raises:
            ConfigError: An unknown setting, or a value of the wrong type.
        """
        return _read_section(cls, name, self.tables.get(name, {}), self.environ)

    def stage_options(
        self, name: str, defaults: Mapping[str, Any] = MappingProxyType({})
    ) -> StageOptions:
        """Options of the stage `name`: every matching pattern applies, in the file's order.

        Args:
            defaults: What the stage itself prefers where the file says nothing.
        """
        return self.matching("stages", name, StageOptions, defaults)

    def matching(
        self,
        section: str,
        name: str,
        cls: type[T],
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> T:
        """Options in `[section."pattern"]`: every pattern that `name` matches applies, in order.

        Raises:
            ConfigError: An unknown setting, or a value of the wrong type.
        """
        merged: dict[str, Any] = dict(defaults)
        tables = self.tables.get(section, {})
        if not isinstance(tables, dict):
            raise ConfigError("must be a table of tables", where=f"builder.toml [{section}]")
        for pattern, table in tables.items():
            if not isinstance(table, dict):
                raise ConfigError("must be a table", where=f"builder.toml [{section}.{pattern}]")
            if fnmatch.fnmatchcase(name, pattern):
                merged |= table
        return _read_section(cls, f"{section}.{name}", merged, {})

    def replace(self, section: str, **values: Any) -> "Config":
        """A copy in which the given settings of a core section are set; None leaves one as is."""
        given = {k: v for k, v in values.items() if v is not None}
        changed = dataclasses.replace(getattr(self, section), **given)
        return dataclasses.replace(self, **{section: changed})


CORE_SECTIONS: Mapping[str, type[Any]] = {
    "paths": PathOptions,
    "build": BuildOptions,
    "server": ServerOptions,
}


def load_config(
    path: Path | None = None, *, environ: Mapping[str, str] | None = None, root: Path | None = None
) -> Config:
    """Read builder.toml, if there is one, and the environment.

    Args:
        path: The file; by default `builder.toml` in `root`.
        environ: Environment variables; by default those of the process.
        root: Where relative paths start; by default the file's folder, or the current one.

    Raises:
        ConfigError: The file is named but missing, is no TOML, or holds an unknown setting.
    """
    env = dict(os.environ if environ is None else environ)
    file = path or (root or Path.cwd()) / "builder.toml"
    tables: dict[str, Any] = {}
    if file.is_file():
        try:
            tables = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"is not valid TOML: {error}", where=file) from error
    elif path is not None:
        raise ConfigError("no such file", where=path, hint="check --config")
    sections = {
        name: _read_section(cls, name, tables.get(name, {}), env)
        for name, cls in CORE_SECTIONS.items()
    }
    base = (root or file.parent).resolve()
    return Config(root=base, tables=tables, environ=env, **sections)


def _read_section(cls: type[T], name: str, table: Any, environ: Mapping[str, str]) -> T:
    where = f"builder.toml [{name}]"
    if not isinstance(table, dict):
        raise ConfigError("must be a table", where=where)
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            known = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(hints))}"
            raise ConfigError(f"unknown setting {key!r}", where=where, hint=known)
        values[key] = _convert(value, hints[key], f"{where} {key}")
    for key, hint in hints.items():
        variable = f"BUILDER_{name}_{key}".upper()
        if variable in environ:
            values[key] = _convert(environ[variable], hint, variable, text=True)
    return cls(**values)


def _convert(value: Any, hint: Any, where: str, *, text: bool = False) -> Any:
    """Check `value` against the type hint; with `text`, parse it from an environment variable."""
    if get_origin(hint) in (Union, UnionType):
        options = [h for h in get_args(hint) if h is not type(None)]
        return None if value == "" and text else _convert(value, options[0], where, text=text)
    if get_origin(hint) is tuple:
        items = [v for v in value.split(",") if v] if text else value
        if not isinstance(items, list):
            raise ConfigError(f"expected a list, got {value!r}", where=where)
        return tuple(_convert(v, get_args(hint)[0], where, text=text) for v in items)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is bool and text:
        words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if value.lower() in words:
            return words[value.lower()]
    elif hint in (int, float) and (text or hint is float):
        try:
            return hint(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"expected {hint.__name__}, got {value!r}", where=where)

"""What the rules work on: models, their configs, and findings."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from builder.digest import FileDigests
from builder.errors import BuilderError, RepositoryError
from builder.repository.names import unsafe

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from builder.repository.signature import ValueInfo

# Backend of each platform, the older way to choose one.
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
    "ensemble": "ensemble",
}


class Severity(StrEnum):
    """How bad a finding is: an error makes `builder lint` fail."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule found: where, what is wrong, and what to do about it."""

    path: Path
    message: str
    remedy: str
    line: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A hit with the code and the severity of its rule."""

    path: Path
    line: int
    code: str
    severity: Severity
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{where} {self.code} {self.message} -> {self.remedy}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to look for.

    Attributes:
        code: `TR` and three digits.
        title: One line that says what the rule finds.
        check: Looks at everything at once and yields what it finds.
    """

    code: str
    title: str
    severity: Severity
    check: Callable[["Context"], Iterator[Hit]]


@dataclass(frozen=True, eq=False)
class ConfigFile:
    """A config.pbtxt, or an alternative in `configs/`.

    Attributes:
        config: None if it could not be parsed.
        error: Why it could not be parsed.
    """

    path: Path
    text: str
    config: "ModelConfig | None"
    error: RepositoryError | None = None

    def line(self, *words: str) -> int | None:
        """Number of the first line that holds all these words."""
        patterns = [re.compile(rf"(?<![\w.-]){re.escape(word)}(?![\w-])") for word in words]
        for number, line in enumerate(self.text.splitlines(), 1):
            if all(pattern.search(line) for pattern in patterns):
                return number
        return None


@dataclass(frozen=True, eq=False)
class Model:
    """The folder of one model.

    Attributes:
        versions: Numbers of the version folders, in ascending order.
        configs: config.pbtxt first, if there is one; then the alternatives.
    """

    folder: Path
    versions: tuple[int, ...]
    configs: tuple[ConfigFile, ...]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """What a finding about the whole model points at."""
        return self.configs[0].path if self.configs else self.folder

    @property
    def parsed(self) -> "Iterator[tuple[ConfigFile, ModelConfig]]":
        """The configs that could be parsed."""
        return ((f, f.config) for f in self.configs if f.config is not None)

    @property
    def main(self) -> "ModelConfig | None":
        """The message of config.pbtxt, if there is one that could be parsed."""
        if self.configs and self.configs[0].path.name == "config.pbtxt":
            return self.configs[0].config
        return None

    def version_folders(self) -> Iterator[Path]:
        """The version folders, in ascending order."""
        return (self.folder / str(version) for version in self.versions)


def backend_of(config: "ModelConfig") -> str:
    """The backend that a config chooses; empty if it leaves that to auto-completion."""
    return str(config.backend or _PLATFORMS.get(config.platform, config.platform))


def model_file(folder: Path, config: "ModelConfig", default: str) -> Path | None:
    """The file of a version that its backend loads; None if it is missing or its name unsafe."""
    name = config.default_model_filename or default
    path = folder / name
    return path if unsafe(name) is None and path.is_file() else None


@dataclass(frozen=True)
class Context:
    """Everything that is linted, with what several rules need kept.

    Attributes:
        models: All models, by folder.
        roots: Folders that symbolic links may not leave.
    """

    models: tuple[Model, ...]
    roots: tuple[Path, ...]
    digests: FileDigests = field(default_factory=FileDigests)

    @cached_property
    def by_name(self) -> Mapping[str, list[Model]]:
        """Models by name: more than one where groups share a name."""
        found: dict[str, list[Model]] = {}
        for model in self.models:
            found.setdefault(model.name, []).append(model)
        return found

    @cached_property
    def _infos(self) -> dict[Path, "tuple[list[ValueInfo], list[ValueInfo]] | BuilderError"]:
        return {}

    def onnx_infos(self, path: Path) -> "tuple[list[ValueInfo], list[ValueInfo]]":
        """Inputs and outputs of an ONNX file; read once.

        Raises:
            RepositoryError: It is no ONNX file.
        """
        from builder.repository.signature import read_value_infos

        if path not in self._infos:
            try:
                self._infos[path] = read_value_infos(path)
            except BuilderError as error:
                self._infos[path] = error
        result = self._infos[path]
        if isinstance(result, BuilderError):
            raise result
        return result

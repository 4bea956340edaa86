"""Publishing: a model changes from one complete state to the next, and never shows a mixture.

A publish writes the whole folder of the model anew in a staging folder (what stays the same is
hard-linked, which costs nothing), flushes it to the disk and swaps it in. A reader sees the old
tree or the new one, and so does whoever looks after a crash.
"""

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from builder.errors import RepositoryError, from_os_error
from builder.repository.names import check_name
from builder.repository.pins import NAME as PIN_FILE
from builder.repository.pins import pin, read_pin, unpin
from builder.repository.staging import copy, fsync, link_or_copy, new_tree, remove_tree, write_new

CONFIG = "config.pbtxt"

# Files from this size on are linked rather than copied. Whoever makes them must replace them by
# renaming, never write into them: the link in the repository would change with them.
LINK_FROM = 64 << 20

# Git and buckets keep no empty folders, but Triton wants a version folder for an ensemble, too.
PLACEHOLDER = "ensemble.txt"
_PLACEHOLDER_TEXT = b"An ensemble has no model file; this file keeps its version folder.\n"

_NO_EXTRA: Mapping[str, bytes | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model that is in the repository.

    Attributes:
        versions: In ascending order.
        config: Path of its config.pbtxt, whether or not it is there.
        pinned: Version that a rollback has pinned.
    """

    group: str
    name: str
    versions: tuple[int, ...]
    config: Path
    pinned: int | None

    @property
    def folder(self) -> Path:
        """Folder of the model."""
        return self.config.parent


def publish(
    repository: Path,
    group: str,
    model: str,
    *,
    version: int | None,
    files: Mapping[str, Path | bytes],
    config: str | Callable[[Path], str],
    extra: Mapping[str, bytes | None] = _NO_EXTRA,
    clear_pin: bool = False,
    merge: bool = False,
) -> Path:
    """Publish a model, atomically and durably.

    Versions and files that are not named stay as they are. A version that is pinned by a
    rollback stays pinned.

    Args:
        repository: Root of the repository; made if it is not there.
        group: Folder of the group, for example `onnx`.
        model: Name of the model.
        version: Version to write; None only writes the config and `extra`.
        files: File name inside the version folder -> its source or content. A version without
            files, as an ensemble has it, gets a placeholder.
        config: Text of config.pbtxt, or what makes it from the model's new folder, in which all
            files lie already. It is called while the model is locked, so it sees what other
            processes have published, and none can publish until it is done.
        extra: Path inside the model's folder (`labels.txt`, `configs/trt.pbtxt`) -> content, or
            None to remove it.
        clear_pin: Serve what `config` says even if a rollback pinned a version.
        merge: Keep the other files of the version, instead of replacing all of it.

    Returns:
        The folder of the model.

    Raises:
        RepositoryError: A name is unsafe, a source is missing or the disk is full. What was
            published before is untouched then, and nothing is left behind.
    """
    _check_names(group, model, version, files, extra)
    target = repository / group / model
    skip = {CONFIG, *extra}
    if version is not None:
        skip |= {f"{version}/{name}" for name in files} if merge else {str(version)}
    try:
        with new_tree(repository, group, model, frozenset(skip)) as new:
            if version is not None:
                _write_version(new / str(version), files or {PLACEHOLDER: _PLACEHOLDER_TEXT})
            text = config if isinstance(config, str) else config(new)
            for name, data in {CONFIG: text.encode(), **extra}.items():
                if data is not None:
                    write_new(new / name, data)
            present = read_pin(new)
            if present is not None and (clear_pin or present.version not in versions(new)):
                unpin(new)
            elif present is not None:
                pin(new, present.version)
    except OSError as error:
        missing = error.filename if error.errno == errno.ENOENT else None
        raise from_os_error(error, f"publishing {model}", missing or target) from error
    return target


def unpublish(repository: Path, group: str, model: str) -> None:
    """Remove a model, in one step.

    Raises:
        RepositoryError: It is not there, or may not be removed.
    """
    check_name(group, "group name")
    check_name(model, "model name")
    target = repository / group / model
    if not target.is_dir():
        raise RepositoryError("there is no such model", where=target, hint="see `builder versions`")
    try:
        remove_tree(repository, group, model)
    except OSError as error:
        raise from_os_error(error, f"removing {model}", target) from error


def published(repository: Path) -> list[PublishedModel]:
    """Every model of every group, by group and name."""
    models = []
    for group in _folders(repository):
        for folder in _folders(group):
            numbers = versions(folder)
            if numbers or (folder / CONFIG).is_file():
                config = folder / CONFIG
                present = read_pin(folder)
                version = present.version if present else None
                models.append(PublishedModel(group.name, folder.name, numbers, config, version))
    return models


def versions(folder: Path) -> tuple[int, ...]:
    """Versions of the model in a folder, in ascending order."""
    return tuple(sorted(int(f.name) for f in _folders(folder) if is_version(f.name)))


def next_version(folder: Path) -> int:
    """The version after the newest one of the model in a folder; 1 if there is none."""
    return max(versions(folder), default=0) + 1


def is_version(name: str) -> bool:
    """Whether Triton takes a folder of this name for a version: a number without leading 0."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _check_names(
    group: str,
    model: str,
    version: int | None,
    files: Mapping[str, Path | bytes],
    extra: Mapping[str, bytes | None],
) -> None:
    check_name(group, "group name")
    check_name(model, "model name")
    if version is not None and version < 1:
        raise RepositoryError(f"version {version} is not 1 or more", where=model)
    if files and version is None:
        raise RepositoryError("files are given without a version", where=model)
    for name in files:
        check_name(name, "file name")
    for name in extra:
        parts = name.split("/")
        for part in parts:
            check_name(part, "file name")
        if len(parts) > 2 or is_version(parts[0]) or name in (CONFIG, PIN_FILE):
            raise RepositoryError(f"{name!r} cannot be written as an extra file", where=model)


def _write_version(folder: Path, files: Mapping[str, Path | bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            write_new(folder / name, content)
        elif content.stat().st_size >= LINK_FROM:
            link_or_copy(content, folder / name)
            fsync(folder / name)
        else:
            copy(content, folder / name)


def _folders(path: Path) -> Iterable[Path]:
    """Folders that are not hidden, by name."""
    if not path.is_dir():
        return []
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))

"""Versions of a published model: what there is, what is served, and going back."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.errors import RepositoryError, from_os_error
from builder.repository.pins import pin, read_pin, unpin
from builder.repository.publish import CONFIG, PublishedModel, published
from builder.repository.staging import new_tree


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a model.

    Attributes:
        served: Whether the version policy selects it.
        pinned: Whether a rollback pinned it.
        size: Bytes of its files.
        modified: When its folder last changed, in seconds since 1970.
    """

    version: int
    served: bool
    pinned: bool
    size: int
    modified: float


def find_model(repository: Path, name: str) -> PublishedModel:
    """The published model of that name, given as `model` or `group/model`.

    Raises:
        RepositoryError: There is none, or several groups have one.
    """
    models = published(repository)
    found = [m for m in models if name in (m.name, f"{m.group}/{m.name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise RepositoryError(
            f"several groups have a model {name}",
            where=repository,
            hint="name one of " + ", ".join(f"{m.group}/{m.name}" for m in found),
        )
    close = difflib.get_close_matches(name, [m.name for m in models], n=1)
    raise RepositoryError(
        f"there is no model {name}",
        where=repository,
        hint=f"did you mean {close[0]}?" if close else "`builder build` publishes models",
    )


def pinned_version(folder: Path) -> int | None:
    """The version that a rollback pinned, or None."""
    present = read_pin(folder)
    return present.version if present else None


def served_versions(model: PublishedModel) -> tuple[int, ...]:
    """The versions that the model's policy selects among those that are there.

    Raises:
        RepositoryError: The config cannot be read.
    """
    from builder.repository.model_config import policy_text, read_config

    policy = policy_text(read_config(model.config)) if model.config.is_file() else "latest:1"
    kind, _, numbers = policy.partition(":")
    if kind == "all":
        return model.versions
    if kind == "latest":
        return model.versions[-int(numbers) :]
    chosen = {int(n) for n in numbers.split(",")}
    return tuple(v for v in model.versions if v in chosen)


def list_versions(model: PublishedModel) -> list[VersionInfo]:
    """All versions of a model, newest first.

    Raises:
        RepositoryError: The config cannot be read.
    """
    served = served_versions(model)
    infos = []
    for version in reversed(model.versions):
        folder = model.folder / str(version)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        infos.append(
            VersionInfo(
                version,
                served=version in served,
                pinned=version == model.pinned,
                size=size,
                modified=folder.stat().st_mtime,
            )
        )
    return infos


def rollback(repository: Path, name: str, to: int | None = None) -> int:
    """Serve an older version only, until `undo_rollback` or a build of a new version.

    The files of every version stay.

    Args:
        repository: Root of the repository.
        name: The model, or `group/model`.
        to: The version; by default the newest one before those that are served now.

    Returns:
        The version that is pinned now.

    Raises:
        RepositoryError: There is no such model or version, or it cannot be written.
    """
    model = find_model(repository, name)
    available = ", ".join(map(str, model.versions)) or "none"
    if to is None:
        current = max(served_versions(model), default=0)
        older = [v for v in model.versions if v < current]
        if not older:
            raise RepositoryError(
                f"there is no version older than {current} (available: {available})",
                where=model.folder,
                hint="`builder build --as-version N` keeps the present version beside the new one",
            )
        to = older[-1]
    elif to not in model.versions:
        raise RepositoryError(
            f"there is no version {to}", where=model.folder, hint=f"available: {available}"
        )
    with _rewritten(repository, model) as tree:
        pin(tree, to)
    return to


def undo_rollback(repository: Path, name: str) -> tuple[int, ...]:
    """Serve again what the model's own version policy says.

    Returns:
        The versions that are served now.

    Raises:
        RepositoryError: There is no such model, or no version of it is pinned.
    """
    model = find_model(repository, name)
    if model.pinned is None:
        raise RepositoryError(
            "no version is pinned", where=model.folder, hint="there is nothing to undo"
        )
    with _rewritten(repository, model) as tree:
        unpin(tree)
    return served_versions(model)


@contextmanager
def _rewritten(repository: Path, model: PublishedModel) -> Iterator[Path]:
    if not model.config.is_file():
        raise RepositoryError(
            f"there is no {CONFIG} to write the version into",
            where=model.folder,
            hint="`builder build` writes one",
        )
    try:
        with new_tree(repository, model.group, model.name, frozenset()) as tree:
            yield tree
    except OSError as error:
        raise from_os_error(error, f"changing the version of {model.name}", model.folder) from error

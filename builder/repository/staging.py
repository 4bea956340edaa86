"""The part of a repository that no server reads: locks, and trees that are being written.

    <repository>/.locks/<group>/<model>.lock      held (flock) by whoever writes the model
    <repository>/.staging/<group>/<model>/new     the tree that is being written
    <repository>/.staging/<group>/<model>/old     the tree that was moved out of the way
    <repository>/.staging/<group>/<model>/trash   a model that is being removed

A process that is killed gives its lock back, so whatever lies in the staging folder of a model
whose lock is free was left by a process that is gone. That also holds among containers that
share the repository, where process ids mean nothing.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.errors import RepositoryError
from builder.repository.swap import exchange

LOCKS, STAGING = ".locks", ".staging"
LOCK_TIMEOUT = 600.0  # seconds; longer than copying the largest model takes
_RETRY = 0.05  # seconds


@contextmanager
def locked(
    repository: Path, group: str, model: str, timeout: float = LOCK_TIMEOUT
) -> Iterator[None]:
    """Hold the lock of a model inside the block.

    Raises:
        RepositoryError: Somebody else held it for `timeout` seconds.
        OSError: The lock file cannot be made.
    """
    path = repository / LOCKS / group / f"{model}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() > deadline:
                raise RepositoryError(
                    f"another process has been writing this model for {timeout:g} s",
                    where=repository / group / model,
                    hint=f"wait for it, or end it: `fuser {path}` names it",
                )
            time.sleep(_RETRY)
        yield


@contextmanager
def new_tree(repository: Path, group: str, model: str, skip: frozenset[str]) -> Iterator[Path]:
    """Change a model inside the block: what it yields takes the model's place at the end.

    The yielded folder starts as the present tree, as hard links: files in it are replaced, never
    written into. If the block raises, nothing has changed.

    Args:
        repository: Root of the repository; made if it is not there.
        group: Folder of the group.
        model: Name of the model.
        skip: Paths relative to the model that are not taken over.

    Raises:
        RepositoryError: The lock is not to be had.
        OSError: Something cannot be written.
    """
    target = repository / group / model
    with locked(repository, group, model):
        staging = repository / STAGING / group / model
        _discard(staging, target)
        _sweep(repository)
        try:
            new = staging / "new"
            new.mkdir(parents=True)
            if target.exists():
                _link_tree(target, new, skip)
            yield new
            for folder, _, _ in os.walk(new):
                fsync(Path(folder))
            target.parent.mkdir(exist_ok=True)
            _replace(new, target, staging / "old")
            fsync(target.parent)
        finally:
            _discard(staging, target)


def remove_tree(repository: Path, group: str, model: str) -> None:
    """Remove a model: readers see all of it or nothing.

    Raises:
        OSError: It may not be removed.
    """
    target = repository / group / model
    with locked(repository, group, model):
        staging = repository / STAGING / group / model
        _discard(staging, target)
        staging.mkdir(parents=True)
        target.rename(staging / "trash")
        fsync(target.parent)
        shutil.rmtree(staging, ignore_errors=True)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that shares nothing with one that was there before, and flush it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    fsync(path)


def link_or_copy(source: Path, path: Path) -> None:
    """Hard-link a file, or copy it where that is impossible."""
    with suppress(OSError):  # another file system, too many links, or links not allowed
        path.hardlink_to(source)
        return
    copy(source, path)


def copy(source: Path, path: Path) -> None:
    """Copy the content of a file and flush it."""
    shutil.copyfile(source, path)
    fsync(path)


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(new: Path, target: Path, old: Path) -> None:
    """Put the tree `new` in the place of `target`; the replaced tree ends at `new` or `old`.

    In one step where the file system can exchange two folders (ext4, xfs, btrfs, tmpfs). Else
    in two renames, between which the model is missing for some microseconds: a server that
    polls at this very moment unloads the model, and loads it at its next poll.
    """
    if not target.exists():
        new.rename(target)
    elif not exchange(new, target):
        target.rename(old)
        new.rename(target)


def _discard(staging: Path, target: Path) -> None:
    """Remove the staging folder; if it holds the only tree that was ever complete, restore it."""
    if (staging / "old").exists() and not target.exists():
        (staging / "old").rename(target)
    if staging.exists():
        shutil.rmtree(staging, ignore_errors=True)


def _sweep(repository: Path) -> None:
    """Clear up what processes that were killed left for other models."""
    for staging in (repository / STAGING).glob("*/*"):
        group, model = staging.parent.name, staging.name
        lock = repository / LOCKS / group / f"{model}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            if _try_lock(file.fileno()):
                _discard(staging, repository / group / model)


def _link_tree(source: Path, new: Path, skip: frozenset[str], prefix: str = "") -> None:
    for path in source.iterdir():
        name = prefix + path.name
        if name in skip:
            continue
        if path.is_symlink():
            (new / path.name).symlink_to(path.readlink())
        elif path.is_dir():
            (new / path.name).mkdir()
            _link_tree(path, new / path.name, skip, f"{name}/")
        else:
            link_or_copy(path, new / path.name)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

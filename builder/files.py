"""Writing files so that a reader, or a machine that loses power, never sees half of one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import from_os_error


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _fsync(Path(parent) / name)
        _fsync(Path(parent))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it, then rename.

    Raises:
        BuilderError: The file cannot be written; an existing one is untouched.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise from_os_error(error, "writing", path) from error


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Fill a new folder inside the block; it takes the place of `folder` only if that succeeds.

    The rest of an earlier, killed attempt is removed first.

    Raises:
        BuilderError: The folder cannot be written; an existing one is untouched.
    """
    staged = folder.with_name(f".{folder.name}.new")
    retired = folder.with_name(f".{folder.name}.old")
    with _explained(folder):
        if not folder.exists() and retired.exists():  # killed between the two renames
            retired.rename(folder)
        for leftover in (staged, retired):
            shutil.rmtree(leftover, ignore_errors=True)
        staged.mkdir(parents=True)
    try:
        yield staged
        with _explained(folder):
            fsync_tree(staged)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    with _explained(folder):
        if folder.exists():
            folder.rename(retired)
        staged.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
        _fsync(folder.parent)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os_error(error, "writing", folder) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

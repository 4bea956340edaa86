"""The backend directory of the embedded server: what its wheel has, and what it lacks.

    <build>/backends/onnxruntime/   compiled from builder/serving/native
    <build>/backends/python/        the wheel's backend with the stub for this interpreter beside it
    <build>/backends/pytorch/       `pytorch/model.py` of this package, run by the python backend

Files are only written where they differ, each one by an atomic rename: a running server that
loads a model meanwhile sees the old file or the new one.
"""

import filecmp
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.errors import MissingDependencyError, from_os_error
from builder.serving.installations import PYTHON_STUB, find_embedded, is_backend

_PYTORCH_MODEL = Path(__file__).with_name("pytorch") / "model.py"


def prepare_backends(
    build_dir: Path, *, python: bool, onnxruntime: bool = True, base: Path | None = None
) -> Path:
    """Make, or bring up to date, the backend directory.

    Args:
        build_dir: Folder for compiled things; the directory is `backends` in it.
        python: Whether python and pytorch models are going to be served, too.
        onnxruntime: Whether ONNX models are.
        base: Backends of an installation, to be linked where it has them; those that it lacks
            are added.

    Returns:
        The directory for `--backend-directory`.

    Raises:
        MissingDependencyError: The compiler or the embedded server is missing, or the wheel has
            no stub for this version of Python.
        RepositoryError: The directory cannot be written.
    """
    out = Path(build_dir) / "backends"
    try:
        out.mkdir(parents=True, exist_ok=True)
        linked = _link(base, out) if base else set()
        for path in out.iterdir():
            if path.is_symlink() and path.name not in linked:
                path.unlink()  # of an installation that was used before
        if onnxruntime and "onnxruntime" not in linked:
            from builder.serving import native_build

            native_build.build(out)
        if python and "python" not in linked:
            _update(out / "python", _python_files())
        if python and "pytorch" not in linked:
            _update(out / "pytorch", {"model.py": _PYTORCH_MODEL})
    except OSError as error:
        raise from_os_error(error, "preparing the backends", out) from error
    return out


def built(build_dir: Path) -> dict[str, bool]:
    """Which backends of the directory are there."""
    out = Path(build_dir) / "backends"
    files = {
        "onnxruntime": ("libtriton_onnxruntime.so",),
        "python": ("libtriton_python.so", PYTHON_STUB),
        "pytorch": ("model.py",),
    }
    return {name: all((out / name / f).exists() for f in needed) for name, needed in files.items()}


def _python_files() -> dict[str, Path]:
    """File name -> source, for the python backend with the stub of this interpreter."""
    embedded = find_embedded()
    if embedded is None or embedded.backends is None:
        raise MissingDependencyError(
            "the python backend comes with nvidia-pytriton, which is missing",
            hint="install it with: pip install nvidia-pytriton==0.7.0",
        )
    stubs = embedded.backends.parent / "python_backend_stubs"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = stubs / version / PYTHON_STUB
    if not stub.is_file():
        have = ", ".join(sorted(p.name for p in stubs.glob("*") if p.is_dir())) or "none"
        raise MissingDependencyError(
            f"the python backend has no stub for Python {version}, only for {have}",
            where=stubs,
            hint="make the environment with one of these versions",
        )
    source = embedded.backends / "python"
    return {PYTHON_STUB: stub} | {p.name: p for p in sorted(source.iterdir()) if p.is_file()}


def _update(folder: Path, files: Mapping[str, Path]) -> None:
    """Make `folder` hold exactly these files, touching only those that differ."""
    folder.mkdir(exist_ok=True)
    for name, source in files.items():
        target = folder / name
        if target.is_file() and filecmp.cmp(source, target, shallow=False):
            continue
        staged = folder / f".{name}.{os.getpid()}"
        try:
            shutil.copy2(source, staged)
            staged.chmod(0o755 if name == PYTHON_STUB or target.suffix == ".so" else 0o644)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
    _remove_others(folder, files)


def _remove_others(folder: Path, keep: Iterable[str]) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.name not in keep and not path.name.startswith("."):
            path.unlink(missing_ok=True)


def _link(base: Path, out: Path) -> set[str]:
    """Link every backend of `base` into `out`; the names."""
    names = {p.name for p in base.iterdir() if is_backend(p)}
    for name in names:
        link = out / name
        if link.is_symlink() and link.readlink() == base / name:
            continue
        if link.is_dir() and not link.is_symlink():
            shutil.rmtree(link)
        staged = out / f".{name}.{os.getpid()}"
        staged.symlink_to(base / name)
        staged.replace(link)
    return names

"""Finding the models below some paths and reading their configs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.digest import FileDigests
from builder.errors import RepositoryError, UsageError, from_os_error
from builder.lint.model import ConfigFile, Context, Model
from builder.repository.publish import CONFIG, is_version


def scan(paths: Sequence[Path], digests: FileDigests | None = None) -> Context:
    """Read the models below the paths.

    Args:
        paths: Each a model, a Triton repository (a folder of models), or a folder of such
            repositories. Ensembles find the models of their steps among all of them.
        digests: Digests of files that are known already.

    Raises:
        UsageError: A path does not exist.
        RepositoryError: A folder cannot be read, or there is no model at all.
    """
    folders: dict[Path, Path] = {}
    try:
        for path in paths:
            if not path.is_dir():
                raise UsageError("there is no such folder", where=path)
            folders.update({f.resolve(): f for f in _model_folders(path)})
        if not folders:
            where = ", ".join(map(str, paths))
            raise RepositoryError("there are no models", where=where, hint="`builder build` first")
        models = tuple(_read_model(folder) for folder in sorted(folders.values()))
    except OSError as error:
        raise from_os_error(error, "reading", error.filename or paths[0]) from error
    roots = tuple(path.resolve() for path in paths)
    return Context(models, roots, digests or FileDigests())


def _model_folders(path: Path) -> Iterator[Path]:
    if _is_model(path):
        yield path
        return
    children = _folders(path)
    if any(map(_is_model, children)):
        yield from children  # Triton takes every folder of a repository for a model
        return
    for group in children:
        models = _folders(group)
        if any(map(_is_model, models)):
            yield from models


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() or any(is_version(f.name) for f in _folders(folder))


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_model(folder: Path) -> Model:
    versions = sorted(int(f.name) for f in _folders(folder) if is_version(f.name))
    paths = [folder / CONFIG, *sorted((folder / "configs").glob("*.pbtxt"))]
    configs = tuple(_read_config(p) for p in paths if p.is_file())
    return Model(folder, tuple(versions), configs)


def _read_config(path: Path) -> ConfigFile:
    from builder.repository.model_config import parse_config

    text = path.read_bytes().decode(errors="replace")
    try:
        return ConfigFile(path, text, parse_config(text, path))
    except RepositoryError as error:
        return ConfigFile(path, text, None, error)

"""Digests: of files, of code and of settings.

Hashing a checkpoint of 24 GB takes a minute, and `builder status` wants an answer at once, so
the digest of a file is remembered with its size, inode and modification time.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from builder.errors import from_os_error
from builder.files import write_atomic

_CHUNK = 1 << 20

LARGE = 64 << 20
"""From this size on a file is hashed once, whatever it is called afterwards."""


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_value(value: Any) -> str:
    """SHA-256 of a value made of dicts, lists, strings and numbers; the order of keys is free."""
    return sha256_bytes(json.dumps(value, sort_keys=True, default=str).encode())


class FileDigests:
    """SHA-256 of files, remembered between runs.

    Args:
        cache_file: Where to remember them; None remembers nothing.

    Attributes:
        progress: Told about large files: what is done, and MiB done and in all.
    """

    def __init__(self, cache_file: Path | None = None):
        self._file = cache_file
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        self.progress: Callable[[str, int, int], None] = lambda phase, done, total: None
        if cache_file is not None and cache_file.is_file():
            try:
                self._known = dict(json.loads(cache_file.read_text(encoding="utf-8")))
            except (ValueError, OSError):  # a damaged cache only costs time
                self._known = {}

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file's content.

        Raises:
            BuilderError: The file cannot be read.
        """
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            known = self._known.get(str(path))
            if known is not None and known[:3] == stamp:
                return str(known[3])
            if stat.st_size >= LARGE and (same := self._same_file(path, stamp)):
                return same
            digest, done = hashlib.sha256(), 0
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    if stat.st_size >= LARGE:
                        self.progress(f"hashing {path.name}", done >> 20, stat.st_size >> 20)
        except OSError as error:
            raise from_os_error(error, "reading", path) from error
        self._known[str(path)] = [*stamp, digest.hexdigest()]
        self._changed = True
        return digest.hexdigest()

    def _same_file(self, path: Path, stamp: list[int]) -> str | None:
        """The digest of a large file under another name: a hard link, or before it was renamed."""
        for known in self._known.values():
            if known[:3] == stamp:
                self._known[str(path)] = known
                self._changed = True
                return str(known[3])
        return None

    def combined(self, paths: Iterable[Path]) -> str:
        """One digest of several files, names included; a missing file counts as `missing`."""
        parts: dict[str, str] = {}
        for p in paths:
            same = sum(name.partition("#")[0] == p.name for name in parts)
            name = f"{p.name}#{same}" if same else p.name  # files of several folders
            parts[name] = self.sha256(p) if p.is_file() else "missing"
        return sha256_value(parts)

    def save(self) -> None:
        """Write the cache file, if anything was added."""
        if self._file is not None and self._changed:
            write_atomic(self._file, json.dumps(self._known).encode())
            self._changed = False


@cache
def code_digest(*modules: str) -> str:
    """One digest of the source text of Python modules; a package stands for all its modules."""
    texts: dict[str, str] = {}
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        for file in files:
            texts[f"{name}:{file.name}"] = sha256_bytes(file.read_bytes())
    return sha256_value(texts)


@cache
def version_of(distribution: str) -> str:
    """Installed version of a distribution, or `none`; nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def versions_of(*distributions: str) -> Mapping[str, str]:
    """Installed versions by distribution name."""
    return {name: version_of(name) for name in distributions}


def describe_platform() -> str:
    """Operating system and processor, for records."""
    system = os.uname()
    return f"{system.sysname} {system.machine}"

"""What is served must be what was proven.

`record.json` holds the SHA-256 of every file at the moment when it was compared with the
original. A file that differs was edited, was cut short by a copy, or was exchanged.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from builder.errors import BuilderError
from builder.lint.model import Context, Hit, Rule, Severity
from builder.repository.names import unsafe

_REMEDY = "build the model again, or copy the version again from where it was built"


def check(context: Context) -> Iterator[Hit]:
    """Yield files that differ from the record beside them."""
    for folder in (f for model in context.models for f in (model.folder, *model.version_folders())):
        path = folder / "record.json"
        if path.is_file():
            yield from _check_record(context, path)


def _check_record(context: Context, path: Path) -> Iterator[Hit]:
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        expected = {str(n): (int(f["size"]), str(f["sha256"])) for n, f in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield Hit(path, f"the record cannot be read: {error!r}", _REMEDY)
        return
    for name, (size, sha256) in expected.items():
        file = path.parent / name
        if problem := unsafe(name):
            yield Hit(path, f"the record names {name!r}, which {problem}", _REMEDY)
        elif not file.is_file():
            yield Hit(path, f"{name} is in the record, but missing", _REMEDY)
        elif file.stat().st_size != size:
            yield Hit(file, f"has {file.stat().st_size} bytes, the record says {size}", _REMEDY)
        else:
            try:
                actual = context.digests.sha256(file)
            except BuilderError as error:
                yield Hit(file, error.what, error.hint or _REMEDY)
                continue
            if actual != sha256:
                yield Hit(
                    file, f"has SHA-256 {actual[:12]}…, the record says {sha256[:12]}…", _REMEDY
                )


RULE = Rule("TR011", "file differs from its record", Severity.ERROR, check)

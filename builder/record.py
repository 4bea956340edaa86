"""Records: the JSON beside every artefact that says what it was made from and what was measured."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from builder.digest import FileDigests
from builder.files import write_atomic

NAME = "record.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What an artefact was made from, what was measured, and its files.

    Attributes:
        artefact: What it is: `export`, `engine`, `ensemble` and so on.
        model: Name of the model.
        made_from: Ingredient -> digest, or version for a library. Two artefacts with equal
            ingredients are interchangeable.
        measured: Numbers that were measured when it was made, parity first of all.
        files: File name -> {"sha256": ..., "size": bytes}.
        details: Anything else worth knowing (platform, options in clear text).
    """

    artefact: str
    model: str
    made_from: Mapping[str, str]
    measured: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The record as JSON text."""
        return (json.dumps(asdict(self), indent=2, sort_keys=True) + "\n").encode()

    def write(self, folder: Path) -> None:
        """Write `record.json` into a folder, atomically."""
        write_atomic(folder / NAME, self.to_bytes())

    def changes(self, made_from: Mapping[str, str]) -> list[str]:
        """Why the artefact is out of date, in words; empty if it is not.

        Digests are only said to have changed; of versions both are given.
        """
        reasons = []
        for key in sorted({*self.made_from, *made_from}):
            old, new = self.made_from.get(key), made_from.get(key)
            if old == new:
                continue
            if old is None or new is None or len(new) == len(old) == 64:
                reasons.append(f"{key} changed")
            else:
                reasons.append(f"{key} {old}→{new}")
        return reasons

    def damage(self, folder: Path, digests: FileDigests) -> list[str]:
        """Which files are missing or differ from the record, in words; empty if none."""
        problems = []
        for name, facts in self.files.items():
            path = folder / name
            if not path.is_file():
                problems.append(f"{name} is missing")
            elif path.stat().st_size != facts["size"] or digests.sha256(path) != facts["sha256"]:
                problems.append(f"{name} was modified")
        return problems


def describe_files(paths: Iterable[Path], digests: FileDigests) -> dict[str, dict[str, str | int]]:
    """The `files` entry of a record."""
    return {p.name: {"sha256": digests.sha256(p), "size": p.stat().st_size} for p in paths}


def read_record(folder: Path, name: str = NAME) -> Record | None:
    """The record in a folder; None if there is none or it cannot be read (then it is rebuilt)."""
    try:
        return Record(**json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None

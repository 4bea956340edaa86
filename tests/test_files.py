import errno
import os
from pathlib import Path

import pytest

from builder.errors import BuilderError
from builder.files import replace_folder, write_atomic


def fill(folder: Path, text: str) -> None:
    with replace_folder(folder) as staged:
        (staged / "file").write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path / "a", "one")
    (tmp_path / "a" / "extra").write_text("left over")
    fill(tmp_path / "a", "two")
    assert {p.name: p.read_text() for p in (tmp_path / "a").iterdir()} == {"file": "two"}
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "a", "one")

    def fill_half() -> None:
        with replace_folder(tmp_path / "a") as staged:
            (staged / "file").write_text("half")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fill_half()
    assert (tmp_path / "a" / "file").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_kill_between_the_two_renames_is_mended(tmp_path: Path) -> None:
    fill(tmp_path / "a", "one")
    (tmp_path / "a").rename(tmp_path / ".a.old")
    with pytest.raises(ValueError, match="again"), replace_folder(tmp_path / "a"):
        raise ValueError("again")
    assert (tmp_path / "a" / "file").read_text() == "one"


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuilderError, match="No space left on device") as error:
        write_atomic(tmp_path / "f", b"new")
    assert "free some space" in str(error.value)
    with pytest.raises(BuilderError, match="No space left on device"):
        fill(tmp_path / "folder", "text")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_real_full_disk_is_explained() -> None:
    with pytest.raises(BuilderError, match="failed"):
        write_atomic(Path("/proc/nowhere/file"), b"x")

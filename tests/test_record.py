from pathlib import Path

import pytest

from builder.digest import FileDigests, code_digest, sha256_bytes
from builder.record import Record, describe_files, read_record


@pytest.fixture
def digests(tmp_path: Path) -> FileDigests:
    return FileDigests(tmp_path / "digests.json")


def test_a_record_comes_back_as_written(tmp_path: Path) -> None:
    record = Record("export", "m", {"torch": "2.13.0"}, {"parity": 1e-7}, {}, {"a": [1]})
    record.write(tmp_path)
    assert read_record(tmp_path) == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unknown": 1}'])
def test_a_damaged_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    assert read_record(tmp_path) is None


def test_changes_are_told_in_words() -> None:
    a, b = sha256_bytes(b"a"), sha256_bytes(b"b")
    record = Record("export", "m", {"checkpoint": a, "torch": "2.13.0", "code": a})
    assert record.changes({"checkpoint": b, "torch": "2.14.0", "code": a}) == [
        "checkpoint changed",
        "torch 2.13.0→2.14.0",
    ]
    assert record.changes({"checkpoint": a, "torch": "2.13.0", "code": a, "onnx": "1"}) == [
        "onnx changed"
    ]


def test_damage_is_found(tmp_path: Path, digests: FileDigests) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    files = describe_files([tmp_path / name for name in "abc"], digests)
    record = Record("export", "m", {}, files=files)
    assert record.damage(tmp_path, digests) == []
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("longer")
    (tmp_path / "c").write_text("d")  # the same size: only the content differs
    assert record.damage(tmp_path, digests) == [
        "a is missing",
        "b was modified",
        "c was modified",
    ]


def test_digests_are_remembered_until_the_file_changes(
    tmp_path: Path, digests: FileDigests
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert digests.sha256(file) == sha256_bytes(b"one")
    digests.save()
    again = FileDigests(tmp_path / "digests.json")
    file.write_bytes(b"two")
    assert again.sha256(file) == sha256_bytes(b"two")


def test_a_damaged_digest_cache_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{")
    (tmp_path / "f").write_bytes(b"x")
    assert FileDigests(tmp_path / "digests.json").sha256(tmp_path / "f") == sha256_bytes(b"x")


def test_code_digests_follow_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_module.py").write_text("a = 1")
    first = code_digest("some_module")
    (tmp_path / "some_module.py").write_text("a = 2")
    code_digest.cache_clear()
    assert code_digest("some_module") != first
    with pytest.raises(ModuleNotFoundError):
        code_digest("no_such_module")

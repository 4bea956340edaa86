import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.errors import RepositoryError
from builder.repository import publish as module
from builder.repository import staging
from builder.repository.publish import (
    PLACEHOLDER,
    next_version,
    publish,
    published,
    unpublish,
    versions,
)

CONFIG = 'name: "m"\nbackend: "onnxruntime"\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "model_repository"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def put(repository: Path, version: int | None = 1, content: bytes = b"one", **more: object) -> Path:
    files = {"model.onnx": content} if version is not None else {}
    return publish(
        repository, "onnx", "m", **{"version": version, "files": files, "config": CONFIG, **more}
    )  # type: ignore[arg-type]


def nothing_staged(repository: Path) -> bool:
    return not list((repository / staging.STAGING).glob("*/*"))


def test_the_first_publish_makes_the_whole_layout(repository: Path, tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"weights")
    folder = put(
        repository,
        files={"model.onnx": b"graph", "model.onnx.data": source},
        extra={"configs/trt.pbtxt": b"other", "labels.txt": b"cat"},
    )
    assert folder == repository / "onnx" / "m"
    assert tree(folder) == {
        "config.pbtxt": CONFIG.encode(),
        "1/model.onnx": b"graph",
        "1/model.onnx.data": b"weights",
        "configs/trt.pbtxt": b"other",
        "labels.txt": b"cat",
    }
    assert nothing_staged(repository)


def test_other_versions_and_files_stay(repository: Path) -> None:
    folder = put(repository, 1, extra={"labels.txt": b"cat"})
    inode = (folder / "1" / "model.onnx").stat().st_ino
    put(repository, 2, b"two")
    assert tree(folder) == {
        "config.pbtxt": CONFIG.encode(),
        "labels.txt": b"cat",
        "1/model.onnx": b"one",
        "2/model.onnx": b"two",
    }
    assert (folder / "1" / "model.onnx").stat().st_ino == inode  # linked, not copied


def test_a_version_is_replaced_as_a_whole(repository: Path) -> None:
    folder = put(repository, files={"model.onnx": b"a", "model.onnx.data": b"b"})
    put(repository, files={"model.onnx": b"c"})
    assert tree(folder / "1") == {"model.onnx": b"c"}


def test_a_config_alone_can_change(repository: Path) -> None:
    folder = put(repository, extra={"configs/trt.pbtxt": b"other"})
    put(repository, None, config="# new\n", extra={"configs/trt.pbtxt": None})
    assert tree(folder) == {"config.pbtxt": b"# new\n", "1/model.onnx": b"one"}


def test_a_version_without_files_is_not_empty(repository: Path) -> None:
    folder = put(repository, files={})
    assert list(tree(folder / "1")) == [PLACEHOLDER]


def test_large_sources_are_linked_and_small_ones_are_copied(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINK_FROM", 100)
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(100))
    small.write_bytes(bytes(99))
    folder = put(repository, files={"large": large, "small": small}) / "1"
    assert (folder / "large").samefile(large)
    assert not (folder / "small").samefile(small)


def test_a_source_on_another_file_system_is_copied(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(target))

    monkeypatch.setattr(module, "LINK_FROM", 1)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    source = tmp_path / "source"
    source.write_bytes(b"data")
    put(repository, 1, files={"model.onnx": source})
    folder = put(repository, 2, files={"model.onnx": source})
    assert versions(folder) == (1, 2)
    assert tree(folder)["1/model.onnx"] == tree(folder)["2/model.onnx"] == b"data"


@pytest.mark.parametrize(
    "given",
    [
        {"files": {"../model.onnx": b""}},
        {"files": {"a/b": b""}},
        {"files": {".hidden": b""}},
        {"extra": {"../x": b""}},
        {"extra": {"1/model.onnx": b""}},
        {"extra": {"config.pbtxt": b""}},
        {"extra": {"/etc/x": b""}},
        {"version": 0},
        {"version": None, "files": {"model.onnx": b""}},
    ],
)
def test_unsafe_requests_touch_nothing(repository: Path, given: dict[str, object]) -> None:
    with pytest.raises(RepositoryError):
        put(repository, **given)  # type: ignore[arg-type]
    assert not repository.exists()


@pytest.mark.parametrize(("group", "model"), [("onnx", "../m"), ("..", "m"), ("onnx", "a/b")])
def test_unsafe_models_touch_nothing(repository: Path, group: str, model: str) -> None:
    with pytest.raises(RepositoryError):
        publish(repository, group, model, version=1, files={}, config=CONFIG)
    with pytest.raises(RepositoryError):
        unpublish(repository, group, model)
    assert not repository.exists()


def test_a_full_disk_leaves_everything_as_it_was(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(repository)
    before = tree(folder)

    def full(source: Path, path: Path) -> None:
        Path(path).write_bytes(b"hal")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    monkeypatch.setattr(shutil, "copyfile", full)
    source = tmp_path / "source"
    source.write_bytes(b"half")
    with pytest.raises(RepositoryError, match="No space left") as caught:
        put(repository, 2, files={"model.onnx": source})
    assert caught.value.where == str(folder)
    assert "free some space" in (caught.value.hint or "")
    assert tree(folder) == before
    assert nothing_staged(repository)


def test_a_source_that_is_missing_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="nowhere"):
        put(repository, files={"model.onnx": tmp_path / "nowhere"})
    assert not (repository / "onnx" / "m").exists()
    assert nothing_staged(repository)


def test_without_exchange_two_renames_do(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "exchange", lambda a, b: False)
    put(repository, 1, b"one")
    folder = put(repository, 1, b"two")
    assert tree(folder)["1/model.onnx"] == b"two"
    assert nothing_staged(repository)


def test_without_exchange_a_failed_second_rename_is_undone(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(repository, 1, b"one")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(staging, "exchange", lambda a, b: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RepositoryError, match="Input/output error"):
        put(repository, 1, b"two")
    assert tree(folder)["1/model.onnx"] == b"one"


def test_a_process_killed_between_two_renames_is_repaired(repository: Path) -> None:
    """By the next publish of any model."""
    folder = put(repository, 1, b"one")
    stale = repository / staging.STAGING / "onnx" / "m"
    (stale / "new").mkdir(parents=True)
    folder.rename(stale / "old")
    publish(repository, "onnx", "other", version=1, files={}, config=CONFIG)
    assert tree(folder)["1/model.onnx"] == b"one"
    assert nothing_staged(repository)


def test_staging_of_a_living_process_is_left_alone(repository: Path) -> None:
    with staging.new_tree(repository, "onnx", "busy", frozenset()) as new:
        (new / "config.pbtxt").write_text(CONFIG)
        put(repository)
        assert (new / "config.pbtxt").is_file()
    assert (repository / "onnx" / "busy" / "config.pbtxt").is_file()


def test_a_lock_that_is_held_for_too_long_is_explained(repository: Path) -> None:
    with (
        staging.locked(repository, "onnx", "m"),
        pytest.raises(RepositoryError, match="another process") as caught,
        staging.locked(repository, "onnx", "m", timeout=0.1),
    ):
        pass
    assert "fuser" in (caught.value.hint or "")


def test_concurrent_builders_lose_nothing(repository: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: put(repository, n, str(n).encode()), range(1, 21)))
    folder = repository / "onnx" / "m"
    assert versions(folder) == tuple(range(1, 21))
    assert all((folder / str(n) / "model.onnx").read_text() == str(n) for n in range(1, 21))


def test_what_is_published_can_be_listed_and_removed(repository: Path) -> None:
    assert published(repository) == []
    put(repository, 1)
    put(repository, 10)
    publish(repository, "ensemble", "p", version=1, files={}, config=CONFIG)
    found = published(repository)
    assert [(m.group, m.name, m.versions) for m in found] == [
        ("ensemble", "p", (1,)),
        ("onnx", "m", (1, 10)),
    ]
    assert found[1].config == repository / "onnx" / "m" / "config.pbtxt"
    assert next_version(repository / "onnx" / "m") == 11
    assert next_version(repository / "onnx" / "new") == 1
    unpublish(repository, "onnx", "m")
    assert [m.name for m in published(repository)] == ["p"]
    assert nothing_staged(repository)
    with pytest.raises(RepositoryError, match="no such model"):
        unpublish(repository, "onnx", "m")


def state(generation: int) -> dict[str, object]:
    """A model whose config names the digest of its file."""
    content = str(generation).encode() * 1000
    digest = hashlib.sha256(content).hexdigest()
    config = f'name: "m"\nparameters {{ key: "sha" value {{ string_value: "{digest}" }} }}\n'
    return {
        "version": 1,
        "files": {"model.onnx": content, "record.json": json.dumps({"sha": digest}).encode()},
        "config": config,
    }


def consistent(folder: Path) -> bool:
    digest = hashlib.sha256((folder / "1" / "model.onnx").read_bytes()).hexdigest()
    record = json.loads((folder / "1" / "record.json").read_text())["sha"]
    return digest == record and digest in (folder / "config.pbtxt").read_text()


def test_a_watcher_never_sees_a_mixture(repository: Path) -> None:
    """Through a folder that it opened, every reader sees one state of the model."""
    publish(repository, "onnx", "m", **state(0))  # type: ignore[arg-type]
    group = repository / "onnx"
    stop = threading.Event()
    looks = 0
    wrong: list[str] = []

    def watch() -> None:
        nonlocal looks
        while not stop.is_set():
            names = sorted(p.name for p in group.iterdir())
            if names != ["m"]:
                wrong.append(f"saw {names}")
            handle = os.open(group / "m", os.O_RDONLY)  # pins one tree, as it is at this moment
            try:
                if not consistent(Path(f"/proc/self/fd/{handle}")):
                    wrong.append("mixture")
                looks += 1
            except FileNotFoundError:
                pass  # the tree was replaced and removed meanwhile
            finally:
                os.close(handle)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for generation in range(1, 201):
            publish(repository, "onnx", "m", **state(generation))  # type: ignore[arg-type]
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert looks > 20


PUBLISHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_publish import state
from builder.repository.publish import publish
print("ready", flush=True)
generation = 0
while True:
    generation += 1
    publish(Path({repository!r}), "onnx", "m", **state(generation))
"""


def test_kill_9_at_any_point_leaves_a_complete_version(repository: Path) -> None:
    publish(repository, "onnx", "m", **state(0))  # type: ignore[arg-type]
    folder = repository / "onnx" / "m"
    code = PUBLISHER.format(tests=str(Path(__file__).parent), repository=str(repository))
    rng = random.Random(0)
    left_behind = 0
    for _ in range(30):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert consistent(folder)
        left_behind += not nothing_staged(repository)
    assert left_behind > 0  # else no kill ever hit a publish
    publish(repository, "onnx", "m", **state(99))  # type: ignore[arg-type]
    assert consistent(folder)
    assert nothing_staged(repository)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where the machine allows one to be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(small_disk: Path) -> None:
    repository = small_disk / "repository"
    folder = put(repository)
    before = tree(folder)
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    (small_disk / "ballast").write_bytes(bytes(free - 50_000))
    with pytest.raises(RepositoryError, match="No space left"):
        put(repository, 2, bytes(100_000))
    assert tree(folder) == before
    (small_disk / "ballast").unlink()
    put(repository, 2, b"two")
    assert versions(folder) == (1, 2)
    assert nothing_staged(repository)

"""Compiling the native backend: once, atomically, and with messages that help."""

import json
import stat
from pathlib import Path

import pytest

from builder.errors import MissingDependencyError, ServerError
from builder.serving import native_build


def fake_compiler(folder: Path, body: str) -> str:
    path = folder / "g++-fake"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo fake 1.0; exit; fi\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


COUNT = """echo run >> "$(dirname "$0")/runs"
while [ "$1" != -o ]; do shift; done
echo lib > "$2"
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def runs(folder: Path) -> int:
    file = folder / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """Writes `lib` where the library should be, and counts its runs."""
    return fake_compiler(tmp_path, COUNT)


def test_compiles_without_a_warning(native_backends: Path) -> None:
    """The fixture compiles with -Werror."""
    library = native_build.library_path(native_backends)
    assert library == native_backends / "onnxruntime" / "libtriton_onnxruntime.so"
    assert library.read_bytes()[:4] == b"\x7fELF"


def test_a_second_build_does_nothing(tmp_path: Path, compiler: str) -> None:
    out = tmp_path / "out"
    assert not native_build.is_current(out, compiler=compiler)
    native_build.build(out, compiler=compiler)
    native_build.build(out, compiler=compiler)
    assert runs(tmp_path) == 1
    assert native_build.is_current(out, compiler=compiler)
    native_build.build(out, compiler=compiler, force=True)
    assert runs(tmp_path) == 2
    assert names(out / "onnxruntime") == ["libtriton_onnxruntime.json", "libtriton_onnxruntime.so"]


@pytest.mark.parametrize("change", ["source", "flags", "library", "record", "compiler"])
def test_what_calls_for_another_build(
    tmp_path: Path, compiler: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "a.cc").write_text("int a;")
    monkeypatch.setattr(native_build, "SOURCES", sources)
    library = native_build.build(out, compiler=compiler)
    if change == "source":
        (sources / "b.h").write_text("")
    elif change == "flags":
        monkeypatch.setattr(native_build, "FLAGS", (*native_build.FLAGS, "-g"))
    elif change == "library":
        library.write_text("li")
    elif change == "record":
        library.with_suffix(".json").write_text("{")
    else:
        script = Path(compiler)
        script.write_text(script.read_text().replace("fake 1.0", "fake 2.0"))
    native_build.build(out, compiler=compiler)
    assert runs(tmp_path) == 2


def test_a_missing_compiler_is_named_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        native_build.build(tmp_path, compiler="no-such-compiler")
    assert "no-such-compiler" in str(caught.value)
    assert "apt-get install g++" in str(caught.value)


def test_what_was_built_serves_without_a_compiler(tmp_path: Path, compiler: str) -> None:
    library = native_build.build(tmp_path / "out", compiler=compiler)
    assert native_build.build(tmp_path / "out", compiler="no-such-compiler") == library


def test_a_failing_compiler_shows_its_errors_and_leaves_the_old_library(
    tmp_path: Path, compiler: str
) -> None:
    library = native_build.build(tmp_path / "out", compiler=compiler)
    before = library.read_bytes()
    broken = fake_compiler(tmp_path, "echo 'a.cc:1: error: no such luck' >&2; exit 1")
    with pytest.raises(ServerError, match="no such luck"):
        native_build.build(tmp_path / "out", compiler=broken, force=True)
    assert library.read_bytes() == before
    assert len(names(library.parent)) == 2


def test_the_record_says_what_it_was_built_from(tmp_path: Path, compiler: str) -> None:
    library = native_build.build(tmp_path, compiler=compiler)
    record = json.loads(library.with_suffix(".json").read_text())
    assert record["compiler"] == "fake 1.0"
    assert record["flags"] == list(native_build.FLAGS)


def test_server_args_point_at_existing_libraries() -> None:
    args = native_build.server_args()
    settings = dict(arg.removeprefix("--backend-config=onnxruntime,").split("=", 1) for arg in args)
    assert "libonnxruntime.so" in settings["library"]
    assert all(Path(path).is_file() for path in settings.values())


def test_server_args_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        native_build.server_args()

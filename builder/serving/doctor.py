"""What is here, and what is missing for what: the checks behind `builder doctor`.

Nothing heavy is imported: versions come from the packages' metadata.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from builder.config import Config
from builder.serving import backends, ports, rest
from builder.serving.installations import (
    Installation,
    find_embedded,
    find_native,
    gpus,
    why_no_container,
)

Status = Literal["ok", "missing", "warning", "absent"]

_MIB = 1 << 20
_DISK_NEEDED = 500 * _MIB
_DISK_ADVISED = 2048 * _MIB
_SHM_ADVISED = 128 * _MIB

# Package -> what it is needed for.
_REQUIRED = {
    "torch": "loading checkpoints and exporting them",
    "onnx": "exporting",
    "onnxscript": "exporting",
    "onnxruntime": "optimising and serving ONNX models",
    "tritonclient": "writing configurations, builder detect, golden requests",
    "protobuf": "writing configurations",
    "safetensors": "loading weights",
    "scipy": "calibrating thresholds",
    "matplotlib": "plots",
}
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: What was looked at.
        status: "ok"; "missing" fails the default build or serve; "warning" needs a look;
            "absent" is something optional that is not there.
        found: What was found.
        needed_for: What it is good for.
        hint: What to do about it.
    """

    name: str
    status: Status
    found: str
    needed_for: str = ""
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """For `builder doctor --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks look at; tests put fakes here.

    Attributes:
        python: Version of the interpreter.
        version: Version of an installed package; None if it is not installed.
        embedded: The server in the wheel.
    """

    config: Config
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    python: tuple[int, int, int] = sys.version_info[:3]
    version: Callable[[str], str | None] = lambda name: _installed(name)
    embedded: Callable[[], Installation | None] = find_embedded

    @property
    def path(self) -> str:
        """The search path for programs."""
        return self.environ.get("PATH", "")


def run_checks(here: Surroundings) -> list[Check]:
    """Every check, in the order in which people read them."""
    return [outcome for check in CHECKS for outcome in check(here)]


def passed(checks: Iterable[Check]) -> bool:
    """Whether everything is there that the default build and serve need."""
    return all(check.status != "missing" for check in checks)


def check_python(here: Surroundings) -> Iterable[Check]:
    """Python 3.11 or 3.12."""
    found = ".".join(map(str, here.python)) + f" ({platform.machine()})"
    fits = (3, 11) <= here.python[:2] < (3, 13)
    hint = "" if fits else "make the environment with Python 3.11 or 3.12"
    yield Check("Python", "ok" if fits else "missing", found, "everything", hint)


def check_compiler(here: Surroundings) -> Iterable[Check]:
    """A C++ compiler, or a backend that was compiled before."""
    name = here.environ.get("CXX") or "g++"
    program = shutil.which(name, path=here.path)
    purpose = "compiling the native ONNX Runtime backend"
    if program is not None:
        yield Check("C++ compiler", "ok", _first_line([program, "--version"]) or program, purpose)
        return
    have = backends.built(here.config.build_dir)["onnxruntime"]
    other = find_native(here.path)
    if have or (other is not None and other.has_backend("onnxruntime")):
        yield Check("C++ compiler", "absent", f"no {name}; the backend is there", purpose)
        return
    hint = "apt-get install g++ (Debian, Ubuntu) or dnf install gcc-c++ (Fedora, RHEL)"
    yield Check("C++ compiler", "missing", f"no {name}", purpose, hint)


def check_servers(here: Surroundings) -> Iterable[Check]:
    """The three ways to run tritonserver, of which one has to work."""
    native, embedded = find_native(here.path), here.embedded()
    no_container = why_no_container(here.path)
    ways: dict[str, tuple[str | None, str]] = {
        "native": (_describe(native) if native else None, "no tritonserver on PATH"),
        "container": (
            None if no_container else f"release {here.config.server.container}",
            no_container or "",
        ),
        "embedded": (_describe(embedded) if embedded else None, "nvidia-pytriton is not installed"),
    }
    wanted = here.config.server.server
    if wanted not in ("auto", *ways):
        hint = f"one of: auto, {', '.join(ways)}"
        yield Check("Server", "missing", f"unknown server {wanted!r}", "builder serve", hint)
    candidates = ways if wanted == "auto" else {wanted: ways.get(wanted, (None, ""))}
    chosen = next((kind for kind, (found, _) in candidates.items() if found), None)
    for kind, (found, why) in ways.items():
        used = " (used)" if kind == chosen else ""
        if found:
            yield Check(f"Server: {kind}", "ok", found + used, "builder serve")
        else:
            needed = chosen is None and (wanted == kind or (wanted, kind) == ("auto", "embedded"))
            hint = "pip install nvidia-pytriton==0.7.0" if kind == "embedded" else ""
            yield Check(
                f"Server: {kind}",
                "missing" if needed else "absent",
                why,
                "builder serve",
                hint or ("choose another one with --server" if needed else ""),
            )


def check_backends(here: Surroundings) -> Iterable[Check]:
    """The backends of the embedded server; they are made when they are needed."""
    purposes = {
        "onnxruntime": "serving ONNX models natively",
        "python": "python twins, TorchScript models",
        "pytorch": "TorchScript models",
    }
    for name, there in backends.built(here.config.build_dir).items():
        found = "ready" if there else "not made yet: the first build or serve makes it"
        yield Check(f"Backend: {name}", "ok" if there else "absent", found, purposes[name])


def check_packages(here: Surroundings) -> Iterable[Check]:
    """The Python packages, NumPy 1 among them."""
    numpy = here.version("numpy")
    purpose = "everything; python-backend models need NumPy 1"
    if numpy is None:
        yield Check("numpy", "missing", "not installed", purpose, "pip install 'numpy<2'")
    elif int(numpy.split(".")[0]) >= 2:
        hint = "pip install 'numpy<2': with NumPy 2 the python backend's outputs are empty"
        yield Check("numpy", "missing", numpy, purpose, hint)
    else:
        yield Check("numpy", "ok", numpy, purpose)
    for name, purpose in _REQUIRED.items():
        version = here.version(name)
        if version is None and name == "onnxruntime":
            version = here.version("onnxruntime-gpu")
        hint = "" if version else f"pip install {name}, or run make engines"
        status: Status = "ok" if version else "missing"
        yield Check(name, status, version or "not installed", purpose, hint)


def check_gpu(here: Surroundings) -> Iterable[Check]:
    """NVIDIA GPUs and TensorRT: needed only for targets other than cpu."""
    targets = [name for name in here.config.build.targets if name not in ("cpu", "auto")]
    found = gpus(here.path)
    purpose = f"targets {', '.join(targets)}" if targets else "GPU targets"
    yield Check("GPU", "ok" if found else "absent", "; ".join(found) or "none", purpose)
    version = next((v for name in _TENSORRT if (v := here.version(name))), None)
    if version:
        yield Check("TensorRT", "ok", version, purpose)
    else:
        hint = "pip install 'engine-builder[gpu]'" if targets or found else ""
        status: Status = "missing" if targets else "absent"
        yield Check("TensorRT", status, "not installed", purpose, hint)


def check_optional(here: Surroundings) -> Iterable[Check]:
    """Docker and Ray."""
    docker = shutil.which("docker", path=here.path)
    yield Check(
        "Docker",
        "ok" if docker else "absent",
        (_first_line([docker, "--version"]) or docker) if docker else "not installed",
        "the official container (with a GPU)",
    )
    ray = here.version("ray")
    hint = "" if ray else "pip install 'engine-builder[ray]'"
    yield Check("Ray", "ok" if ray else "absent", ray or "not installed", "scaling out", hint)


def check_disk(here: Surroundings) -> Iterable[Check]:
    """Free space where things are written, and for the python backend's tensors."""
    folder = _existing(here.config.build_dir)
    free = shutil.disk_usage(folder).free
    status: Status = "ok" if free >= _DISK_ADVISED else "warning"
    if free < _DISK_NEEDED:
        status = "missing"
    hint = "" if status == "ok" else f"free some space on the file system of {folder}"
    yield Check("Disk", status, f"{_size(free)} free", "exports and engines", hint)
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        fits = free >= _SHM_ADVISED
        hint = "" if fits else "in a container, run it with --shm-size=1g"
        status = "ok" if fits else "warning"
        yield Check("Shared memory", status, f"{_size(free)} free", "python-backend models", hint)


def check_ports(here: Surroundings) -> Iterable[Check]:
    """Whether the configured ports are free."""
    options = here.config.server
    numbers = {
        "http": options.http_port,
        "grpc": options.grpc_port,
        "metrics": options.metrics_port,
    }
    address = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    triton = rest.triton_version(f"http://{address}:{options.http_port}")
    for name, port in numbers.items():
        label = f"Port: {name}"
        if port == 0:
            yield Check(label, "ok", "off" if name == "metrics" else "any free one")
        elif not (reason := ports.why_unusable(options.host, port)):
            yield Check(label, "ok", f"{port} is free", "builder serve")
        elif triton:
            yield Check(label, "ok", f"{port}: tritonserver {triton} is running", "builder serve")
        else:
            hint = f"set {name}_port in builder.toml [server], or --{name}-port"
            yield Check(label, "warning", f"{port} {reason}", "builder serve", hint)


CHECKS: tuple[Callable[[Surroundings], Iterable[Check]], ...] = (
    check_python,
    check_compiler,
    check_packages,
    check_servers,
    check_backends,
    check_gpu,
    check_optional,
    check_disk,
    check_ports,
)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _describe(installation: Installation) -> str:
    version = f"{installation.version} " if installation.version else ""
    return f"{version}at {installation.program}"


def _first_line(command: list[str]) -> str | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.partition("\n")[0].strip() or None


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / _MIB:.0f} MiB"

"""On what, and with what, the figures were measured."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from builder import __version__
from builder.digest import versions_of
from builder.serving.installations import Installation, gpus


def describe_machine(path: str | None = None) -> dict[str, str]:
    """Cores, processor, memory, GPUs and operating system, by name.

    Args:
        path: Search path for nvidia-smi; by default that of this process.
    """
    machine = {
        "cores": str(len(os.sched_getaffinity(0))),
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "memory": _memory(),
        "system": _system(),
    }
    found = gpus(os.environ.get("PATH", "") if path is None else path)
    return {**machine, "gpu": "; ".join(found) or "none"}


def describe_versions(
    installation: Installation | None, perf_analyzer: str | None
) -> Mapping[str, str]:
    """Versions of what is measured, and of what measures."""
    packages = versions_of("torch", "onnxruntime", "onnxruntime-extensions", "nvidia-pytriton")
    server = "none"
    if installation is not None:
        server = f"{installation.version or 'unknown'} ({installation.kind})"
    return {
        "builder": __version__,
        "tritonserver": server,
        "perf_analyzer": perf_analyzer or "none",
        "python": platform.python_version(),
        **packages,
    }


def _field(path: Path, name: str) -> str | None:
    """The first value of a field in a file of `name : value` lines."""
    try:
        for line in path.read_text(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon and key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return None


def _memory() -> str:
    total = _field(Path("/proc/meminfo"), "MemTotal")
    return f"{int(total.split()[0]) / 2**20:.1f} GiB" if total else "unknown"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    return f"{name}, Linux {platform.release()}" if platform.system() == "Linux" else name

"""The GPUs of this machine, as `nvidia-smi` tells them; no CUDA context is made for that."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from builder.digest import version_of
from builder.errors import EngineError, MissingDependencyError, UsageError
from builder.target import Target, target_of

_QUERY = "index,uuid,name,compute_cap,driver_version,memory.total"
_TIMEOUT = 20.0  # seconds; the first query after boot loads the driver

# Under these names wheels carry TensorRT; containers carry the first one.
_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")

MINIMUM = (10, 8)
"""Oldest TensorRT that the code works with: the first one that takes opset 20 entirely."""

INSTALL = "install it: `make engines EXTRAS=gpu`, or pip install 'engine-builder[gpu]'"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        ordinal: Number that CUDA gives it when devices are ordered by PCI bus, as
            `nvidia-smi` orders them, and CUDA_VISIBLE_DEVICES is obeyed.
        compute_capability: For example `9.0`.
    """

    ordinal: int
    uuid: str
    name: str
    compute_capability: str
    driver: str
    memory_mib: int

    @property
    def target(self) -> Target:
        """The target that plans for this GPU are built for.

        Raises:
            UsageError: The GPU is older than any target.
        """
        return target_of(self.compute_capability)


def local_gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use; none where there is no working driver."""
    return _query(shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES"))


def local_targets() -> tuple[Target, ...]:
    """The targets of the local GPUs, each once; GPUs that are too old are left out."""
    found: dict[Target, None] = {}
    for gpu in local_gpus():
        try:
            found[gpu.target] = None
        except UsageError:
            continue
    return tuple(found)


def gpu_for(target: Target) -> Gpu:
    """The local GPU that plans for a target are built on.

    Raises:
        EngineError: There is none.
    """
    gpus = local_gpus()
    for gpu in gpus:
        if gpu.compute_capability == target.compute_capability:
            return gpu
    if not gpus:
        raise EngineError(
            "there is no NVIDIA GPU here",
            where=f"target {target.name}",
            hint=f"a plan is built on the kind of GPU that runs it: run `builder build --target "
            f"{target.name}` on such a machine, with the same model repository",
        )
    present = ", ".join(f"{gpu.name} (compute capability {gpu.compute_capability})" for gpu in gpus)
    raise EngineError(
        f"the GPU here is another one: {present}",
        where=f"target {target.name}",
        hint=f"run the build on a GPU of compute capability {target.compute_capability}, "
        "with the same model repository",
    )


def tensorrt_version() -> str | None:
    """Version of the installed TensorRT; None if there is none. Nothing is imported."""
    versions = (version_of(name) for name in _DISTRIBUTIONS)
    return next((version for version in versions if version != "none"), None)


def check_version(version: str) -> str:
    """The version, if it is new enough.

    Raises:
        MissingDependencyError: It is not.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        raise MissingDependencyError(
            f"TensorRT {version} is too old, {wanted} or newer is needed", hint=INSTALL
        )
    return version


@cache
def _query(command: str | None, visible: str | None) -> tuple[Gpu, ...]:
    if command is None:
        return ()
    try:
        result = subprocess.run(
            [command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no driver, or one that does not answer
        return ()
    rows = [[field.strip() for field in line.split(",")] for line in result.stdout.splitlines()]
    rows = [row for row in rows if len(row) == 6]
    gpus: list[Gpu] = []
    for row in _visible(rows, visible):
        _, uuid, name, capability, driver, memory = row
        size = int(memory) if memory.isdigit() else 0
        gpus.append(Gpu(len(gpus), uuid, name, capability, driver, size))
    return tuple(gpus)


def _visible(rows: list[list[str]], visible: str | None) -> list[list[str]]:
    """The rows that CUDA_VISIBLE_DEVICES lets through, in its order; it ends at what is unknown."""
    if visible is None:
        return rows
    chosen: list[list[str]] = []
    for word in (w.strip() for w in visible.split(",")):
        found = [r for r in rows if word and (r[0] == word or r[1].startswith(word))]
        if not found:
            break
        chosen.append(found[0])
    return chosen

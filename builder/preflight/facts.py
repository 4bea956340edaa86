"""The facts that plans are compared with: the server and the GPUs at hand, or those told."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.digest import describe_platform
from builder.errors import UsageError
from builder.preflight.releases import find_release, releases
from builder.serving.installations import Installation, gpus
from builder.target import parse_target

_LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/local/tensorrt/lib"),
    Path("/opt/tritonserver/lib"),
)
_LIBRARY = re.compile(r"libnvinfer\.so\.([0-9]+\.[0-9]+\.[0-9]+(?:\.[0-9]+)?)")
_GPU_LINE = re.compile(r"(?P<name>.+),\s*(?P<capability>[0-9]{1,2}\.[0-9])")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What decides whether a server can load a plan.

    Attributes:
        tensorrt: Version of its TensorRT; None where that is not known.
        source: Where the version comes from, for messages.
        platform: Operating system and processor, as `builder.digest.describe_platform` says it.
        version_compatible: Whether it is started so that it takes version-compatible plans
            (`--backend-config=tensorrt,version-compatible=true`).
    """

    tensorrt: str | None
    source: str = ""
    platform: str = "Linux x86_64"
    version_compatible: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU: its compute capability (`9.0`), and its name where that is known."""

    capability: str
    name: str = ""

    def __str__(self) -> str:
        return (
            f"{self.name} (compute capability {self.capability})"
            if self.name
            else (f"compute capability {self.capability}")
        )


def parse_gpus(texts: Iterable[str]) -> tuple[Gpu, ...]:
    """GPUs from lines of nvidia-smi (`NVIDIA H200, 9.0`), capabilities (`9.0`) or targets (`sm90`).

    Raises:
        UsageError: A text is none of these.
    """
    found = []
    for text in texts:
        line = _GPU_LINE.fullmatch(text.strip())
        if line:
            found.append(Gpu(line["capability"], line["name"]))
        elif re.fullmatch(r"[0-9]{1,2}\.[0-9]", text.strip()):
            found.append(Gpu(text.strip()))
        else:
            capability = parse_target(text).compute_capability
            if capability is None:
                raise UsageError("the CPU is no GPU", hint="name a compute capability, as sm90")
            found.append(Gpu(capability))
    return tuple(dict.fromkeys(found))


def local_gpus(path: str | None = None) -> tuple[Gpu, ...]:
    """The GPUs that nvidia-smi lists; one it cannot state the capability of is left out."""
    lines = gpus(os.environ.get("PATH", "") if path is None else path)
    return parse_gpus(line for line in lines if _GPU_LINE.fullmatch(line))


def facts_of_release(name: str) -> ServerFacts:
    """The facts of an official container.

    Raises:
        UsageError: The release is not in the table.
    """
    release = find_release(name)
    return ServerFacts(release.tensorrt, f"container release {release.name}")


def facts_of_installation(
    installation: Installation, environ: Mapping[str, str] | None = None
) -> ServerFacts:
    """The facts of an installed server.

    For a container the table answers (a release that is not there leaves the version unknown);
    for a server on this machine, in this order: the version that NVIDIA's images set in their
    environment (`TRT_VERSION`), the library itself, the image's release
    (`NVIDIA_TRITON_SERVER_VERSION`).
    """
    env = os.environ if environ is None else environ
    if installation.image is not None:
        name = installation.version or ""
        if name in releases():
            return facts_of_release(name)
        return ServerFacts(
            None, f"container release {name or 'unknown'}, which is not in the table"
        )
    if not installation.has_backend("tensorrt"):
        return ServerFacts(None, f"the {installation.kind} server has no tensorrt backend")
    platform = describe_platform()
    if stated := re.match(r"[0-9]+(\.[0-9]+){2,3}", env.get("TRT_VERSION", "")):
        return ServerFacts(stated[0], "TRT_VERSION of the environment", platform)
    if library := _library_version(_LIBRARIES):
        return ServerFacts(library, "the installed libnvinfer", platform)
    name = env.get("NVIDIA_TRITON_SERVER_VERSION", "")
    if name in releases():
        return ServerFacts(releases()[name].tensorrt, f"container release {name}", platform)
    return ServerFacts(None, "nothing states the version of its TensorRT", platform)


def _library_version(folders: Iterable[Path]) -> str | None:
    for folder in folders:
        for file in sorted(folder.glob("libnvinfer.so.*.*.*"), reverse=True):
            if match := _LIBRARY.fullmatch(file.name):
                return match[1]
    return None

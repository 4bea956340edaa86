"""Where a tritonserver comes from: PATH, the official container, or the pytriton wheel.

`find_installation("auto")` prefers the machine's own server, then the official container where
Docker and a GPU are there, then the server inside the nvidia-pytriton wheel ("embedded"), which
needs neither.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from builder.errors import ConfigError, MissingDependencyError

Kind = Literal["native", "container", "embedded"]

CONTAINER_IMAGE = "nvcr.io/nvidia/tritonserver"
OFFICIAL_ROOT = Path("/opt/tritonserver")
PYTHON_STUB = "triton_python_backend_stub"
# The python backend keeps its tensors in /dev/shm, of which Docker grants 64 MiB by default.
CONTAINER_SHM = "1g"

# The server inside each release of the wheel; the wheel does not say.
_EMBEDDED_VERSIONS = {"0.7.0": "2.51.0"}
_INSTALL_EMBEDDED = "install it with: pip install nvidia-pytriton==0.7.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One way to run tritonserver.

    Attributes:
        kind: Where it comes from.
        program: The tritonserver executable, or docker.
        version: Server version, for a container the release; None where it is not known.
        backends: Folder of its own backends, on this machine; None for a container.
        caches: Folder of its response caches, on this machine; None for a container.
        image: Image to run, for a container.
        libraries: Folders for LD_LIBRARY_PATH.
    """

    kind: Kind
    program: Path
    version: str | None = None
    backends: Path | None = None
    caches: Path | None = None
    image: str | None = None
    libraries: tuple[Path, ...] = ()

    def has_backend(self, name: str) -> bool:
        """Whether it carries a backend of that name itself; a container carries them all."""
        if self.image is not None:
            return True
        return self.backends is not None and is_backend(self.backends / name)

    @property
    def has_local_cache(self) -> bool:
        """Whether it has the local response cache."""
        return self.image is not None or (
            self.caches is not None and (self.caches / "local").is_dir()
        )

    def command(
        self,
        arguments: Sequence[str],
        *,
        read: Sequence[Path] = (),
        host: str = "127.0.0.1",
        ports: Sequence[int] = (),
        name: str = "builder",
    ) -> list[str]:
        """The command line that runs the server.

        Args:
            arguments: Arguments of tritonserver.
            read: Folders that it reads; a container sees them, read-only, at the same paths.
            host: Address that a container's ports are published on.
            ports: The ports to publish.
            name: Name for the container.
        """
        if self.image is None:
            return [str(self.program), *arguments]
        mounts = [f"--mount=type=bind,source={p},target={p},readonly" for p in dict.fromkeys(read)]
        published = [f"--publish={host}:{port}:{port}" for port in ports]
        options = ["--rm", "--init", f"--name={name}", "--gpus=all", f"--shm-size={CONTAINER_SHM}"]
        limits = ["--ulimit=memlock=-1", "--ulimit=stack=67108864"]
        return [
            *(str(self.program), "run", *options, *limits, *mounts, *published),
            *(self.image, "tritonserver", *arguments),
        ]

    def cleanup(self, name: str) -> tuple[str, ...]:
        """Command that removes what would outlive the process: the container `name`."""
        return () if self.image is None else (str(self.program), "rm", "--force", name)

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with what the server and the stubs of its python backend need.

        The stub takes its packages from the first python3 on PATH, so this interpreter comes
        first. No bytecode is written: a `__pycache__` in a version folder would look like a
        changed model to a polling server.
        """
        env = dict(environ)
        if self.image is not None:
            return env
        env["PATH"] = os.pathsep.join(_unique(str(Path(sys.executable).parent), env.get("PATH")))
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        if self.libraries:
            folders = map(str, self.libraries)
            env["LD_LIBRARY_PATH"] = os.pathsep.join(_unique(*folders, env.get("LD_LIBRARY_PATH")))
        return env


def _unique(*items: str | None) -> list[str]:
    parts = [part for item in items if item for part in item.split(os.pathsep)]
    return list(dict.fromkeys(parts))


def is_backend(folder: Path) -> bool:
    """Whether the folder holds a backend that the server can load."""
    if (folder / "model.py").is_file():
        return True
    complete = folder.name != "python" or (folder / PYTHON_STUB).is_file()
    return complete and (folder / f"libtriton_{folder.name}.so").is_file()


def find_installation(
    which: str = "auto", *, release: str = "26.07", environ: Mapping[str, str] | None = None
) -> Installation:
    """The installation to use.

    Args:
        which: auto, native, container or embedded.
        release: Release of the official container, for example 26.07.
        environ: Environment that PATH is taken from; by default that of the process.

    Raises:
        ConfigError: `which` is none of the four.
        MissingDependencyError: It is not there; the message names what is missing.
    """
    env = os.environ if environ is None else environ
    path = env.get("PATH", "")
    if which == "native":
        if (found := find_native(path)) is None:
            raise MissingDependencyError(
                "there is no tritonserver on PATH", hint="use --server auto, or extend PATH"
            )
        return found
    if which == "container":
        if missing := why_no_container(path):
            raise MissingDependencyError(
                f"the official container cannot run here: {missing}",
                hint="use --server embedded, which needs neither Docker nor a GPU",
            )
        return container(release, path)
    if which == "embedded":
        if (found := find_embedded()) is None:
            raise MissingDependencyError(
                "the embedded server, package nvidia-pytriton, is missing", hint=_INSTALL_EMBEDDED
            )
        return found
    if which != "auto":
        raise ConfigError(
            f"unknown server {which!r}", hint="one of: auto, native, container, embedded"
        )
    if native := find_native(path):
        return native
    if why_no_container(path) is None:
        return container(release, path)
    if embedded := find_embedded():
        return embedded
    raise MissingDependencyError(
        "no tritonserver: none on PATH, no Docker with a GPU, no nvidia-pytriton",
        hint=_INSTALL_EMBEDDED,
    )


def find_native(path: str) -> Installation | None:
    """The tritonserver on the search path, if there is one."""
    found = shutil.which("tritonserver", path=path)
    if found is None:
        return None
    program = Path(found).resolve()
    root = program.parent.parent if program.parent.name == "bin" else OFFICIAL_ROOT

    def folder(name: str) -> Path | None:
        return next((r / name for r in (root, OFFICIAL_ROOT) if (r / name).is_dir()), None)

    version_file = root / "TRITON_VERSION"
    version = version_file.read_text().strip() if version_file.is_file() else None
    return Installation(
        kind="native",
        program=program,
        version=version,
        backends=folder("backends"),
        caches=folder("caches"),
    )


def container(release: str, path: str) -> Installation:
    """The official container of a release, as `docker` on the search path would run it.

    Only the command line is tested: it has not been run on a machine with Docker and a GPU.
    """
    docker = shutil.which("docker", path=path)
    if docker is None:
        raise MissingDependencyError("there is no docker on PATH", hint="see builder doctor")
    return Installation(
        kind="container",
        program=Path(docker),
        version=release,
        image=f"{CONTAINER_IMAGE}:{release}-py3",
    )


def why_no_container(path: str) -> str | None:
    """What the official container lacks here; None if it can run."""
    docker = shutil.which("docker", path=path)
    if docker is None:
        return "there is no docker on PATH"
    if not gpus(path):
        return "nvidia-smi finds no GPU"
    try:
        answer = subprocess.run(
            [docker, "info", "--format", "{{.ServerVersion}}"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "docker does not answer"
    return None if answer.returncode == 0 else "the Docker daemon does not answer"


def gpus(path: str) -> list[str]:
    """Name and compute capability of each NVIDIA GPU, as nvidia-smi lists them."""
    smi = shutil.which("nvidia-smi", path=path)
    if smi is None:
        return []
    try:
        answer = subprocess.run(
            [smi, "--query-gpu=name,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode != 0:
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def find_embedded() -> Installation | None:
    """The server inside the nvidia-pytriton wheel, found without importing the package."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    program = root / "bin" / "tritonserver"
    if not program.is_file():
        return None
    try:
        wheel = metadata.version("nvidia-pytriton")
    except metadata.PackageNotFoundError:
        wheel = ""
    libraries = (package.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR")))
    return Installation(
        kind="embedded",
        program=program,
        version=_EMBEDDED_VERSIONS.get(wheel),
        backends=root / "backends",
        caches=root / "caches",
        libraries=tuple(folder for folder in libraries if folder.is_dir()),
    )

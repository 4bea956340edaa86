"""Building plans inside the official container, so that they match the server that loads them.

The container brings the right CUDA and driver libraries; the TensorRT wheel of exactly its version
and this package go into an environment below `build/`, once per release.

**Unverified.** The command has not been run: that takes Docker, a GPU and a network.
"""

import os
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

import builder
from builder.config import Config
from builder.errors import ConfigError, UsageError, from_os_error
from builder.preflight.releases import find_release
from builder.serving.installations import CONTAINER_IMAGE, CONTAINER_SHM, why_no_container

# Arguments: environment, source, TensorRT version, then those of `builder build`. Everything that
# a user may choose arrives as an argument, so nothing of it is read as shell text.
_SCRIPT = """\
set -e
venv=$1 source=$2 tensorrt=$3
shift 3
if [ ! -f "$venv/.ready" ]; then
  "$source/scripts/bootstrap.sh" "$venv" gpu
  "$venv/bin/python" -m pip install --quiet "tensorrt==$tensorrt"
  touch "$venv/.ready"
fi
exec "$venv/bin/python" -m builder build "$@"
"""


def container_build_command(config: Config, release: str, args: Sequence[str]) -> list[str]:
    """The docker command that runs `builder build` inside the container of a release.

    It runs as the present user with every GPU; the project, its exports, its repository and its
    build folder are mounted where they are, so that paths mean the same inside and outside.

    Args:
        release: For example `26.07`.
        args: Arguments of `builder build`.

    Raises:
        UsageError: The release is unknown, or this package runs from no source checkout.
        ConfigError: A path cannot be mounted.
    """
    found = find_release(release)
    source = Path(builder.__file__).resolve().parent.parent
    if not (source / "scripts" / "bootstrap.sh").is_file():
        raise UsageError(
            "building in the container needs the source checkout of this package",
            where=source,
            hint="clone the repository and run its .venv/bin/builder",
        )
    venv = config.build_dir / f"container-{found.name}"
    folders = (config.root, config.exports, config.repository, config.build_dir, source)
    settings = sorted(name for name in config.environ if name.startswith("BUILDER_"))
    return [
        *("docker", "run", "--rm", "--init", "--gpus=all", f"--shm-size={CONTAINER_SHM}"),
        *("--ulimit=memlock=-1", "--ulimit=stack=67108864"),
        f"--user={os.getuid()}:{os.getgid()}",
        f"--env=HOME={config.build_dir}",  # the user has no home inside
        *(f"--env={name}" for name in settings),
        *(f"--mount=type=bind,source={f},target={f}" for f in _mounts(folders)),
        f"--workdir={config.root}",
        f"{CONTAINER_IMAGE}:{found.name}-py3",
        *("bash", "-c", _SCRIPT, "bash", str(venv), str(source), found.tensorrt, *args),
    ]


def build_in_container(config: Config, release: str, args: Sequence[str]) -> int:
    """Run `container_build_command`; where Docker or a GPU is missing, print it instead.

    Returns:
        The exit code of the build, or 1 if there was none.

    Raises:
        UsageError: As `container_build_command`.
        ConfigError: As `container_build_command`.
        BuilderError: A folder to mount cannot be made.
    """
    command = container_build_command(config, release, args)
    click.echo(shell_line(command))
    if missing := why_no_container(os.environ.get("PATH", "")):
        click.echo(f"not run: {missing}; run this line where there are Docker and a GPU", err=True)
        return 1
    try:
        for folder in (config.exports, config.repository, config.build_dir):
            folder.mkdir(parents=True, exist_ok=True)  # Docker would make it, as root
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        raise from_os_error(error, "starting", error.filename or "docker") from error


def shell_line(command: Sequence[str]) -> str:
    """A command as one line that can be pasted into a shell."""
    return shlex.join(command)


def _mounts(folders: Iterable[Path]) -> list[Path]:
    """The folders without those that are inside another one.

    Raises:
        ConfigError: Docker cannot mount a path with a comma.
    """
    resolved = sorted({folder.resolve() for folder in folders})
    outer = [f for f in resolved if not any(f != o and f.is_relative_to(o) for o in resolved)]
    for folder in outer:
        if "," in str(folder):
            raise ConfigError("a path with a comma cannot be mounted", where=folder)
    return outer

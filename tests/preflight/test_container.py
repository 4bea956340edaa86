"""The docker command, word by word, and what a fake docker is given by it."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.cli.build import command as build_command
from builder.config import Config, load_config
from builder.errors import ConfigError, UsageError
from builder.preflight.container import container_build_command, shell_line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(root=tmp_path / "project", environ={"BUILDER_X": "1", "SECRET": "2"})


def test_the_command(config: Config) -> None:
    command = container_build_command(config, "26.07", ["net", "--target", "sm90"])
    image = command.index("nvcr.io/nvidia/tritonserver:26.07-py3")
    options, inside = command[:image], command[image + 1 :]
    assert options[:3] == ["docker", "run", "--rm"]
    assert {"--gpus=all", f"--user={os.getuid()}:{os.getgid()}", "--env=BUILDER_X"} <= set(options)
    assert not any("SECRET" in word for word in command)
    assert f"--workdir={config.root}" in options
    mounts = [word for word in options if word.startswith("--mount=")]
    assert mounts == [
        f"--mount=type=bind,source={f},target={f}" for f in sorted([config.root, ROOT])
    ]
    venv = config.build_dir / "container-26.07"
    assert inside[3:] == ["bash", str(venv), str(ROOT), "10.14.1.48", "net", "--target", "sm90"]


def test_folders_outside_the_project_are_mounted_too(config: Config, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    config = config.replace("paths", repository=shared)
    command = container_build_command(config, "26.07", [])
    assert f"--mount=type=bind,source={shared},target={shared}" in command
    config = config.replace("paths", repository=tmp_path / "a,b")
    with pytest.raises(ConfigError, match="comma"):
        container_build_command(config, "26.07", [])


@pytest.mark.parametrize("release", ["26.99", "26.07-py3 && rm -rf /", ""])
def test_unknown_releases_are_refused(config: Config, release: str) -> None:
    with pytest.raises(UsageError, match="unknown container release"):
        container_build_command(config, release, [])


def test_the_script_inside_prepares_once_and_passes_arguments_on(tmp_path: Path) -> None:
    """Run the script itself with a fake source and environment; it is all but the image."""
    config = load_config(root=tmp_path / "project", environ={})
    command = container_build_command(config, "26.07", ["a b", "$(touch pwned)", "--force"])
    script = command[command.index("-c") + 1]
    source, venv = tmp_path / "source", tmp_path / "venv"
    bootstrap = source / "scripts" / "bootstrap.sh"
    bootstrap.parent.mkdir(parents=True)
    bootstrap.write_text(
        '#!/bin/sh\nmkdir -p "$1/bin"\n'
        'printf \'#!/bin/sh\\necho python "$@"\\n\' > "$1/bin/python"\n'
        'chmod +x "$1/bin/python"\necho bootstrap "$2"\n'
    )
    bootstrap.chmod(0o755)

    def run() -> list[str]:
        words = ["bash", "-c", script, "bash", str(venv), str(source), "10.14.1.48"]
        arguments = command[command.index("10.14.1.48") + 1 :]
        done = subprocess.run(
            [*words, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        return done.stdout.splitlines()

    build = "python -m builder build a b $(touch pwned) --force"
    install = "python -m pip install --quiet tensorrt==10.14.1.48"
    assert run() == ["bootstrap gpu", install, build]
    assert run() == [build]
    assert not (tmp_path / "pwned").exists()


def test_the_line_can_be_pasted(config: Config) -> None:
    command = container_build_command(config, "26.07", ["a b"])
    result = subprocess.run(
        ["bash", "-c", f"docker() {{ printf '%s\\0' docker \"$@\"; }}; {shell_line(command)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split("\0")[:-1] == command


def build(config: Config, *words: str) -> Result:
    return CliRunner().invoke(build_command, words, obj=config, catch_exceptions=False)


def test_without_docker_the_command_is_printed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = build(config, "--in-container", "26.07", "SMAP_*", "--target", "sm90", "--force")
    assert result.exit_code == 1
    assert "not run: there is no docker on PATH" in result.stderr
    words = shlex.split(result.stdout)
    assert words[-5:] == ["10.14.1.48", "--target=sm90", "--force", "--", "SMAP_*"]
    assert not config.repository.exists()


def test_with_docker_and_a_gpu_the_command_is_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, seen = tmp_path / "bin", tmp_path / "seen"
    programs.mkdir()
    docker = f'[ "$1" = info ] && exit 0; for a in "$@"; do echo "$a" >> {seen}; done; exit 7'
    for name, script in {"docker": docker, "nvidia-smi": 'echo "NVIDIA H200, 9.0"'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    result = build(config, "--in-container", "26.07", "--as-version", "2", "--missing")
    assert result.exit_code == 7
    given = seen.read_text().split("\n")
    assert given[:2] == ["run", "--rm"]
    assert given[-4:] == ["--as-version=2", "--missing", "--", ""]
    assert config.repository.is_dir()

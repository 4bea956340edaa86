import os
import stat
import sys
from pathlib import Path

import pytest

from builder.errors import ConfigError, MissingDependencyError, ServerError
from builder.serving.installations import find_embedded, find_installation
from builder.serving.server import TritonServer

PYTHON = Path(sys.executable).parent


def program(folder: Path, name: str, script: str = "exit 0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def docker_and_gpu(folder: Path, docker: str = "echo 28.0") -> None:
    program(folder, "docker", docker)
    program(folder, "nvidia-smi", 'echo "NVIDIA H200, 9.0"')


def test_a_server_on_path_comes_first(tmp_path: Path) -> None:
    server = program(tmp_path / "opt" / "bin", "tritonserver")
    (tmp_path / "opt" / "TRITON_VERSION").write_text("2.60.0\n")
    tensorrt = tmp_path / "opt" / "backends" / "tensorrt"
    tensorrt.mkdir(parents=True)
    (tensorrt / "libtriton_tensorrt.so").touch()
    docker_and_gpu(tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:{server.parent}"
    found = find_installation("auto", environ={"PATH": path})
    assert (found.kind, found.program, found.version) == ("native", server, "2.60.0")
    assert found.has_backend("tensorrt")
    assert not found.has_backend("onnxruntime")
    assert found.command(["--id=x"]) == [str(server), "--id=x"]


def test_then_the_container_where_docker_and_a_gpu_are(tmp_path: Path) -> None:
    docker_and_gpu(tmp_path)
    found = find_installation("auto", release="26.07", environ={"PATH": str(tmp_path)})
    assert found.kind == "container"
    assert found.image == "nvcr.io/nvidia/tritonserver:26.07-py3"


@pytest.mark.parametrize("broken", ["no docker", "no gpu", "no daemon"])
def test_else_the_embedded_one(tmp_path: Path, broken: str) -> None:
    docker_and_gpu(tmp_path, "exit 1" if broken == "no daemon" else "echo 28.0")
    if broken != "no daemon":
        (tmp_path / ("docker" if broken == "no docker" else "nvidia-smi")).unlink()
    environ = {"PATH": str(tmp_path)}
    assert find_installation("auto", environ=environ).kind == "embedded"
    with pytest.raises(MissingDependencyError, match="the official container cannot run here"):
        find_installation("container", environ=environ)


def test_what_is_asked_for_but_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="no tritonserver on PATH"):
        find_installation("native", environ={"PATH": str(tmp_path)})
    with pytest.raises(ConfigError, match="unknown server 'other'"):
        find_installation("other")


def test_the_embedded_environment_puts_this_python_first() -> None:
    found = find_embedded()
    assert found is not None
    env = found.environment({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/mine", "HOME": "/h"})
    assert env["PATH"] == f"{PYTHON}:/usr/bin"
    assert env["HOME"] == "/h"
    folders = env["LD_LIBRARY_PATH"].split(":")
    assert folders[0].endswith("nvidia_pytriton.libs")
    assert folders[-1] == "/mine"
    assert env["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_container_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a fake docker and look at what it was given."""
    seen = tmp_path / "seen"
    script = f'[ "$1" = info ] && exit 0; for a in "$@"; do echo "$a" >> {seen}; done; exit 3'
    docker_and_gpu(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    repository = tmp_path / "repository" / "onnx"
    repository.mkdir(parents=True)
    installation = find_installation("container", release="25.01")
    server = TritonServer([repository], installation=installation)
    with pytest.raises(ServerError, match="exit status 3"):
        server.start()
    words = seen.read_text().split("\n")
    run, remove = words[: words.index("rm")], words[words.index("rm") :]
    assert run[0] == "run"
    name = next(w for w in run if w.startswith("--name=")).removeprefix("--name=")
    assert remove[:3] == ["rm", "--force", name]
    image = run.index("nvcr.io/nvidia/tritonserver:25.01-py3")
    options, command = run[:image], run[image + 1 :]
    assert {"--rm", "--init", "--gpus=all", "--shm-size=1g"} <= set(options)
    assert f"--mount=type=bind,source={repository},target={repository},readonly" in options
    published = [w.removeprefix("--publish=") for w in options if w.startswith("--publish=")]
    assert len(published) == 3
    assert all(p.startswith("127.0.0.1:") for p in published)
    # Outside it is loopback only; inside the container it has to be every address.
    assert command[0] == "tritonserver"
    assert "--http-address=0.0.0.0" in command
    assert f"--model-repository={repository}" in command
    port = published[0].split(":")[2]
    assert f"--http-port={port}" in command
    assert not any(w.startswith("--backend-directory") for w in command)


@pytest.mark.e2e
def test_a_tritonserver_on_path_runs_with_its_own_cache(tmp_path: Path) -> None:
    embedded = find_embedded()
    assert embedded is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").symlink_to(embedded.program)
    (tmp_path / "empty").mkdir()
    native = find_installation("auto", environ={"PATH": str(tmp_path / "bin")})
    assert native.kind == "native"
    assert native.has_local_cache
    with TritonServer([tmp_path / "empty"], installation=native, response_cache_mib=1) as server:
        assert server.model_states() == []

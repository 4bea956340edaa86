import dataclasses
import json
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli.doctor import command
from builder.config import Config, load_config
from builder.serving.doctor import Check, Surroundings, passed, run_checks
from builder.serving.installations import Installation

VERSIONS = {
    "numpy": "1.26.4",
    "torch": "2.13.0",
    "onnx": "1.23.2",
    "onnxscript": "0.7",
    "onnxruntime": "1.31.1",
    "tritonclient": "2.73.0",
    "protobuf": "6.0",
    "safetensors": "0.6",
    "scipy": "1.17",
    "matplotlib": "3.11",
    "polygraphy": "0.53",
}


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    """A machine with a compiler, the embedded server and every package, and no GPU."""
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho 'g++ 12.2.0'\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    root = tmp_path / "project"
    root.mkdir()
    server = Installation(kind="embedded", program=Path("/wheel/tritonserver"), version="2.51.0")
    config = load_config(root=root, environ={}).replace(
        "server", http_port=0, grpc_port=0, metrics_port=0
    )
    return Surroundings(
        config,
        environ={"PATH": str(compiler.parent)},
        python=(3, 11, 7),
        version=VERSIONS.get,
        embedded=lambda: server,
    )


def checks(here: Surroundings, **changes: object) -> dict[str, Check]:
    changed = dataclasses.replace(here, **changes)  # type: ignore[arg-type]
    return {check.name: check for check in run_checks(changed)}


def configured(here: Surroundings, section: str, **values: object) -> Config:
    return here.config.replace(section, **values)


def test_all_is_well_without_gpu_docker_and_ray(here: Surroundings) -> None:
    found = checks(here)
    assert passed(found.values())
    assert found["C++ compiler"].found == "g++ 12.2.0"
    assert found["Server: embedded"].found.endswith("(used)")
    absent = {name for name, check in found.items() if check.status == "absent"}
    assert {"GPU", "TensorRT", "Docker", "Ray", "Server: native"} <= absent


@pytest.mark.parametrize(
    ("package", "remedy"),
    [("torch", "pip install torch"), ("numpy", "numpy<2"), ("onnxscript", "pip install onnxscr")],
)
def test_a_missing_package_is_named_with_its_remedy(
    here: Surroundings, package: str, remedy: str
) -> None:
    versions = {name: v for name, v in VERSIONS.items() if name != package}
    found = checks(here, version=versions.get)
    assert not passed(found.values())
    assert [name for name, check in found.items() if check.status == "missing"] == [package]
    assert remedy in found[package].hint


def test_numpy_2_is_refused(here: Surroundings) -> None:
    check = checks(here, version=(VERSIONS | {"numpy": "2.3.1"}).get)["numpy"]
    assert check.status == "missing"
    assert "numpy<2" in check.hint


@pytest.mark.parametrize("version", [(3, 10, 1), (3, 13, 0)])
def test_other_pythons_are_refused(here: Surroundings, version: tuple[int, int, int]) -> None:
    assert checks(here, python=version)["Python"].status == "missing"


def test_without_compiler_a_compiled_backend_does(here: Surroundings, tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path)}
    check = checks(here, environ=bare)["C++ compiler"]
    assert check.status == "missing"
    assert "apt-get install g++" in check.hint
    library = here.config.build_dir / "backends" / "onnxruntime" / "libtriton_onnxruntime.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert checks(here, environ=bare)["C++ compiler"].status == "absent"


def test_no_server_at_all(here: Surroundings) -> None:
    found = checks(here, embedded=lambda: None)
    assert not passed(found.values())
    assert "nvidia-pytriton" in found["Server: embedded"].hint
    other = checks(here, config=configured(here, "server", server="other"))
    assert "unknown server 'other'" in other["Server"].found
    # A server that was asked for by name has to be there, whatever else is.
    native = checks(here, config=configured(here, "server", server="native"))
    assert native["Server: native"].status == "missing"
    assert native["Server: embedded"].status == "ok"


def test_a_gpu_target_needs_tensorrt(here: Surroundings) -> None:
    config = configured(here, "build", targets=("cpu", "sm90"))
    check = checks(here, config=config)["TensorRT"]
    assert check.status == "missing"
    assert check.needed_for == "targets sm90"
    found = checks(here, config=config, version=(VERSIONS | {"tensorrt": "10.9"}).get)
    assert found["TensorRT"].status == "ok"


def test_a_port_in_use_is_a_warning(here: Surroundings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = checks(here, config=configured(here, "server", grpc_port=port))
    assert found["Port: grpc"].status == "warning"
    assert str(port) in found["Port: grpc"].found
    assert passed(found.values())


def test_the_command_prints_json_and_sets_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(root=tmp_path, environ={})
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler
    result = CliRunner().invoke(command, ["--json"], obj=config)
    document = json.loads(result.output)
    assert (result.exit_code, document["ok"]) == (1, False)
    missing = [check["name"] for check in document["checks"] if check["status"] == "missing"]
    assert missing == ["C++ compiler"]
    text = CliRunner().invoke(command, [], obj=config)
    assert text.exit_code == 1
    assert "apt-get install g++" in text.output


def test_it_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from builder.cli.doctor import command\n"
        "try: command(['--json'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'tritonclient'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 5  # usually 0.5 s

"""What `builder doctor --repository` says, and what keeps `builder serve` from starting."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.cli.doctor import command
from builder.config import Config, load_config
from builder.errors import RepositoryError
from builder.preflight import inspect as module
from builder.preflight.facts import parse_gpus
from builder.preflight.inspect import BACKEND_FLAG, server_options
from builder.serving.installations import Installation
from builder.serving.launch import make_server

from .conftest import TENSORRT, edit_record, write_plan


@pytest.fixture
def config(repository: Path) -> Config:
    return load_config(root=repository.parent, environ={})


def doctor(config: Config, *words: str) -> Result:
    return CliRunner().invoke(command, words, obj=config, catch_exceptions=False)


def test_the_doctor_compares_with_a_named_machine(config: Config) -> None:
    fine = doctor(config, "--repository", "--release", "26.07", "--gpu", "9.0")
    assert fine.exit_code == 0, fine.output
    assert "nothing speaks against" in fine.output
    other = doctor(config, "--repository", "--release", "26.02", "--gpu", "sm80", "--json")
    assert other.exit_code == 1
    document = json.loads(other.output)
    assert not document["ok"]
    assert document["models"] == ["net_trt"]
    assert document["server"]["tensorrt"] == "10.13.3.9"
    assert [r["model"] for r in document["refusals"]] == ["net_trt"]
    assert "compute capability 8.0" in document["refusals"][0]["reason"]
    assert document["refusals"][0]["remedy"]


def test_the_doctor_takes_another_folder(config: Config, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_plan(other, "shipped_trt", tensorrt="10.4.0.26")
    words = ("--release", "26.07", "--gpu", "9.0")
    result = doctor(config, "--repository", str(other), *words)
    assert result.exit_code == 1
    assert "shipped_trt" in result.output
    assert "net_trt" not in result.output
    group = doctor(config, "--repository", str(other / "tensorrt"), *words)
    assert "refused: shipped_trt" in group.output


def test_without_gpu_and_server_the_doctor_says_what_it_did_not_compare(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = doctor(config, "--repository", "--json")
    document = json.loads(result.output)
    assert document["gpus"] is None
    assert any("no GPU here" in note for note in document["notes"])
    assert any("TensorRT versions were not compared" in note for note in document["notes"])


def test_the_machine_to_compare_with_belongs_to_a_repository(config: Config) -> None:
    result = CliRunner().invoke(command, ["--gpu", "9.0"], obj=config)
    assert result.exit_code == 2
    assert "go with --repository" in result.output


def container(release: str) -> Installation:
    return Installation(
        kind="container", program=Path("/docker"), version=release, image=f"triton:{release}-py3"
    )


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "local_gpus", lambda: parse_gpus(["NVIDIA H200, 9.0"]))


@pytest.mark.usefixtures("h200")
def test_a_server_that_fits_gets_no_more_arguments(config: Config) -> None:
    assert server_options(config, container("26.07"), ["net_trt"]) == []
    assert (config.build_dir / "digests.json").is_file()


@pytest.mark.usefixtures("h200")
def test_version_compatible_plans_switch_the_server_over(config: Config, repository: Path) -> None:
    for plan in repository.rglob("*.plan"):
        edit_record(plan, flags=["VERSION_COMPATIBLE"])
    assert server_options(config, container("26.02"), ["net_trt"]) == [BACKEND_FLAG]


@pytest.mark.usefixtures("h200")
def test_a_server_that_does_not_fit_is_refused_with_every_reason(
    config: Config, repository: Path
) -> None:
    for number in range(12):
        write_plan(repository, f"more{number:02}_trt")
    names = [folder.name for folder in (repository / "tensorrt").iterdir()]
    with pytest.raises(RepositoryError) as caught:
        server_options(config, container("26.02"), names)
    message = str(caught.value)
    assert TENSORRT in message
    assert "more00_trt" in message
    assert "and 3 more" in message
    assert server_options(config, container("26.02"), []) == []


def test_builder_serve_refuses_before_it_starts_anything(
    config: Config, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a docker that would start, and a GPU that there is no plan for."""
    programs = repository.parent / "bin"
    programs.mkdir()
    for name, script in {"docker": "echo 28.0", "nvidia-smi": 'echo "NVIDIA A100, 8.0"'}.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(RepositoryError, match="no plan for NVIDIA A100"):
        make_server(config.replace("server", server="container"))


def test_a_server_without_tensorrt_leaves_the_plans_out(config: Config, repository: Path) -> None:
    onnx = repository / "onnx" / "net" / "1" / "model.onnx"
    onnx.parent.mkdir(parents=True)
    onnx.touch()
    _, selection = make_server(config.replace("server", server="embedded"), free_ports=True)
    assert selection.names == ("net",)
    assert "no tensorrt backend" in selection.skipped["tensorrt"]

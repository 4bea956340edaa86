import stat
from pathlib import Path

import pytest

from builder.errors import UsageError
from builder.preflight import facts
from builder.preflight.facts import Gpu, facts_of_installation, local_gpus, parse_gpus
from builder.serving.installations import Installation


def test_gpus_are_read_from_nvidia_smi_capabilities_and_targets() -> None:
    assert parse_gpus(["NVIDIA RTX 6000, Ada, 8.9", "sm120", "7.5", "7.5"]) == (
        Gpu("8.9", "NVIDIA RTX 6000, Ada"),
        Gpu("12.0"),
        Gpu("7.5"),
    )


@pytest.mark.parametrize("text", ["cpu", "H200", "9", "sm9", ""])
def test_what_is_no_gpu_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_gpus([text])


def test_local_gpus_come_from_nvidia_smi(tmp_path: Path) -> None:
    assert local_gpus(str(tmp_path)) == ()
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "NVIDIA L4, 8.9"\necho "Broken, [N/A]"\n')
    smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
    assert local_gpus(str(tmp_path)) == (Gpu("8.9", "NVIDIA L4"),)


def container(release: str) -> Installation:
    return Installation(
        kind="container", program=Path("/docker"), version=release, image=f"triton:{release}-py3"
    )


@pytest.fixture
def native(tmp_path: Path) -> Installation:
    library = tmp_path / "backends" / "tensorrt" / "libtriton_tensorrt.so"
    library.parent.mkdir(parents=True)
    library.touch()
    return Installation(kind="native", program=Path("/t"), backends=tmp_path / "backends")


def test_the_table_answers_for_a_container() -> None:
    assert facts_of_installation(container("25.02"), {}).tensorrt == "10.8.0.43"
    unknown = facts_of_installation(container("31.01"), {})
    assert unknown.tensorrt is None
    assert "31.01" in unknown.source


def test_a_native_server_is_asked_in_order(
    native: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = tmp_path / "lib"
    libraries.mkdir()
    monkeypatch.setattr(facts, "_LIBRARIES", (libraries,))
    assert facts_of_installation(native, {}).tensorrt is None
    environ = {"NVIDIA_TRITON_SERVER_VERSION": "26.07"}
    assert facts_of_installation(native, environ).tensorrt == "10.14.1.48"
    (libraries / "libnvinfer.so.10.14.1").touch()
    (libraries / "libnvinfer.so.10").touch()
    assert facts_of_installation(native, environ).tensorrt == "10.14.1"
    environ["TRT_VERSION"] = "10.14.1.48+cuda13.0"
    assert facts_of_installation(native, environ).tensorrt == "10.14.1.48"


def test_a_server_without_the_backend_has_no_tensorrt(tmp_path: Path) -> None:
    server = Installation(kind="embedded", program=Path("/t"), backends=tmp_path)
    found = facts_of_installation(server, {"TRT_VERSION": "10.14.1.48"})
    assert found.tensorrt is None
    assert "embedded server has no tensorrt backend" in found.source

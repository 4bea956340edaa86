"""Each reason to refuse a plan, one at a time, and that a sound repository has none."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.digest import FileDigests
from builder.preflight.check import Refusal, check
from builder.preflight.facts import Gpu, ServerFacts, facts_of_release, parse_gpus
from builder.preflight.sources import Sources
from builder.record import Record

from .conftest import edit_record, write_plan

H200 = parse_gpus(["NVIDIA H200, 9.0"])
SERVER = facts_of_release("26.07")


def only(
    repository: Path,
    server: ServerFacts = SERVER,
    gpus: Sequence[Gpu] | None = H200,
    sources: Sources | None = None,
) -> Refusal:
    """The one refusal."""
    found = check(repository, server, gpus, sources=sources)
    assert len(found) == 1, "\n".join(map(str, found))
    assert found[0].model == "net_trt"
    assert found[0].remedy
    return found[0]


def test_a_sound_repository_is_not_refused(repository: Path) -> None:
    assert check(repository, SERVER, H200) == []
    assert check(repository / "tensorrt", SERVER, parse_gpus(["sm89", "9.0"])) == []


def test_a_repository_without_plans_is_not_refused(tmp_path: Path) -> None:
    assert check(tmp_path, SERVER, H200) == []
    assert check(tmp_path / "absent", SERVER, H200) == []


def test_a_plan_of_another_tensorrt(repository: Path) -> None:
    refusal = only(repository, facts_of_release("26.02"))
    assert "built by TensorRT 10.14.1.48" in refusal.reason
    assert "the server has TensorRT 10.13.3.9 (container release 26.02)" in refusal.reason
    assert "builder build net --target sm90" in refusal.remedy


def test_a_release_that_states_three_parts_is_compared_by_three(
    repository: Path, plan: Path
) -> None:
    edit_record(plan, tensorrt="10.4.0.26")
    assert check(repository, facts_of_release("24.10"), H200) == []


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (ServerFacts("10.13.3.9", version_compatible=True), None),
        (ServerFacts("10.13.3.9"), "without --backend-config=tensorrt,version-compatible=true"),
        (ServerFacts("11.4.0.106", version_compatible=True), "one major version only"),
    ],
)
def test_version_compatible_plans(
    repository: Path, plan: Path, server: ServerFacts, reason: str | None
) -> None:
    edit_record(plan, flags={"VERSION_COMPATIBLE": True, "TF32": False})
    if reason is None:
        assert check(repository, server, H200) == []
    else:
        assert reason in only(repository, server).reason


def test_a_flag_that_is_off_does_not_count(repository: Path, plan: Path) -> None:
    edit_record(plan, flags={"VERSION_COMPATIBLE": False})
    server = ServerFacts("10.13.3.9", version_compatible=True)
    assert "was built by TensorRT" in only(repository, server).reason


def test_an_unknown_server_version_is_no_reason(repository: Path) -> None:
    assert check(repository, ServerFacts(None), H200) == []


def test_a_gpu_without_a_plan(repository: Path) -> None:
    refusal = only(repository, gpus=parse_gpus(["NVIDIA A100, 8.0"]))
    assert "no plan for NVIDIA A100 (compute capability 8.0)" in refusal.reason
    assert "there are: 8.9, 9.0" in refusal.reason
    assert "--target sm80" in refusal.remedy


def test_no_gpu_at_all_and_unknown_gpus(repository: Path) -> None:
    assert "no NVIDIA GPU" in only(repository, gpus=()).reason
    assert check(repository, SERVER, None) == []


def test_plans_of_other_gpus_do_not_matter_here(repository: Path) -> None:
    (repository / "tensorrt" / "net_trt" / "1" / "sm89.plan").write_bytes(b"garbage")
    assert check(repository, SERVER, H200) == []
    assert "sm89.plan is corrupt" in only(repository, gpus=parse_gpus(["8.9"])).reason
    assert "sm89.plan is corrupt" in only(repository, gpus=None).reason


def test_a_plan_that_is_missing(repository: Path, plan: Path) -> None:
    plan.unlink()
    assert "1/sm90.plan, the plan for 9.0, is missing" in only(repository).reason


def test_a_plan_that_was_changed_without_changing_its_size(repository: Path, plan: Path) -> None:
    data = plan.read_bytes()
    plan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "sm90.plan is corrupt: sm90.plan was modified" in only(repository).reason


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"artefact": 1}', '{"files": 3}'])
def test_a_record_that_is_missing_or_unreadable(
    repository: Path, plan: Path, text: str | None
) -> None:
    record = plan.with_name("sm90.plan.json")
    record.unlink() if text is None else record.write_text(text)
    assert "no readable record" in only(repository).reason


def test_a_plan_listed_under_another_capability(repository: Path, plan: Path) -> None:
    edit_record(plan, compute_capability="8.0")
    assert "built for compute capability 8.0, but is listed for 9.0" in only(repository).reason
    edit_record(plan, flags=["HardwareCompatibilityLevel.AMPERE_PLUS"])
    assert check(repository, SERVER, H200) == []


def test_a_plan_of_another_processor(repository: Path, plan: Path) -> None:
    edit_record(plan, os="Linux aarch64")
    assert "built on Linux aarch64" in only(repository).reason


def test_the_onnx_model_is_newer_than_the_plan(repository: Path, tmp_path: Path) -> None:
    export = tmp_path / "model.onnx"
    sources = Sources(repository, {"net": export})
    export.write_bytes(b"onnx")
    assert check(repository, SERVER, H200, sources=sources) == []
    export.write_bytes(b"newer")
    assert "older than the ONNX model" in only(repository, sources=sources).reason


def test_the_onnx_twin_comes_from_another_export(repository: Path) -> None:
    twin = repository / "onnx" / "net" / "1"
    twin.mkdir(parents=True)
    Record("onnxruntime", "net", {"export": "e" * 64}).write(twin)
    assert check(repository, SERVER, H200) == []
    Record("onnxruntime", "net", {"export": "f" * 64}).write(twin)
    assert "another export than the ONNX model net" in only(repository).reason


def test_a_model_plan_beside_the_plans(repository: Path, plan: Path) -> None:
    plan.with_name("model.plan").write_bytes(b"")
    assert "holds a model.plan" in only(repository).reason


def config(repository: Path) -> Path:
    return repository / "tensorrt" / "net_trt" / "config.pbtxt"


def test_a_default_file_name(repository: Path) -> None:
    with config(repository).open("a") as file:
        file.write('default_model_filename: "sm90.plan"\n')
    assert "default_model_filename is set" in only(repository).reason


@pytest.mark.parametrize("name", ["../2/sm90.plan", "/etc/passwd", "a\\\\b.plan", "..", ""])
def test_names_that_lead_elsewhere(repository: Path, name: str) -> None:
    path = config(repository)
    path.write_text(path.read_text().replace('"sm90.plan"', f'"{name}"'))
    assert "Triton would open it unchecked" in only(repository).reason


@pytest.mark.parametrize(
    "again",
    [
        'cc_model_filenames { key: "9.0" value: "sm90.plan" }',
        'cc_model_filenames: [{ key: "8.0" value: "a" }, { key: "9.0" value: "sm90.plan" }]',
    ],
)
def test_two_plans_for_one_key(repository: Path, again: str) -> None:
    with config(repository).open("a") as file:
        file.write(again + "\n")
    reasons = [r.reason for r in check(repository, SERVER, H200)]
    assert any("lists 9.0 2 times" in reason for reason in reasons)


def test_a_key_that_is_no_compute_capability(repository: Path) -> None:
    with config(repository).open("a") as file:
        file.write('cc_model_filenames { key: "sm90" value: "sm90.plan" }\n')
    assert "the key 'sm90'" in only(repository, gpus=H200).reason


def test_a_config_that_cannot_be_parsed_or_is_missing(repository: Path) -> None:
    config(repository).write_text("nonsense {")
    assert "no valid model configuration" in only(repository).reason
    config(repository).unlink()
    assert "config.pbtxt cannot be read" in only(repository).reason


def test_only_versions_that_are_served_matter(repository: Path, plan: Path) -> None:
    broken = plan.parent.with_name("2")
    broken.mkdir()
    assert "2/sm90.plan" in only(repository).reason
    with config(repository).open("a") as file:
        file.write("version_policy { specific { versions: 1 } }\n")
    assert check(repository, SERVER, H200) == []
    text = config(repository).read_text().replace("versions: 1", "versions: 7")
    config(repository).write_text(text)
    assert "no version" in only(repository).reason


def test_only_the_models_that_are_asked_for(repository: Path) -> None:
    write_plan(repository, "other_trt", tensorrt="9.9.9")
    assert [r.model for r in check(repository, SERVER, H200)] == ["other_trt"]
    assert check(repository, SERVER, H200, models={"net_trt"}) == []


def test_models_of_other_backends_are_left_alone(repository: Path) -> None:
    config(repository).write_text('backend: "onnxruntime"\n')
    assert check(repository, SERVER, H200) == []


def test_digests_are_remembered(repository: Path, tmp_path: Path) -> None:
    digests = FileDigests(tmp_path / "digests.json")
    check(repository, SERVER, None, digests=digests)
    digests.save()
    assert "sm90.plan" in (tmp_path / "digests.json").read_text()

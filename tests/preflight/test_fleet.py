"""The state of every plan, from a repository and its records alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.cli.fleet import command
from builder.config import Config, load_config
from builder.digest import sha256_bytes
from builder.errors import EngineError, RepositoryError, UsageError
from builder.family import Registry
from builder.preflight import fleet as module
from builder.preflight.failures import clear_failure, read_failures, record_failure
from builder.preflight.fleet import Entry, fleet, fleet_targets, missing
from builder.stage import OnnxSource, Stage
from builder.target import Target

from .conftest import edit_record, write_plan

SM89, SM90 = Target("sm89"), Target("sm90")


def stage(name: str, *engines: str) -> Stage:
    def nothing(*arguments: object) -> None:
        raise AssertionError("the state of the fleet needs no model")

    return Stage(
        name=name,
        family="toy",
        inputs=(),
        outputs=(),
        source=OnnxSource(build=nothing, reference=nothing),  # type: ignore[arg-type]
        example=nothing,  # type: ignore[arg-type]
        shapes=(),
        engines=("onnxruntime", *engines),
    )


@pytest.fixture
def registry() -> Registry:
    stages = (stage("net", "tensorrt"), stage("other", "tensorrt"), stage("cpu_only"))
    return Registry({s.name: s for s in stages}, {})


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr(module, "local_targets", lambda: ())


@pytest.fixture
def config(repository: Path) -> Config:
    """Plans of `net_trt` for sm89 and sm90, made from the export that is there."""
    export = repository.parent / "exports" / "toy" / "net" / "model.onnx"
    export.parent.mkdir(parents=True)
    export.write_bytes(b"onnx")
    return load_config(root=repository.parent, environ={})


def states(entries: list[Entry]) -> Mapping[tuple[str, str], str]:
    return {(e.stage, e.target): e.state for e in entries}


def test_the_targets_are_those_of_the_config_and_of_the_repository(config: Config) -> None:
    assert fleet_targets(config) == (SM89, SM90)
    changed = config.replace("build", targets=("cpu", "sm120", "sm90"))
    assert fleet_targets(changed) == (SM89, SM90, Target("sm120"))
    stray = config.repository / "tensorrt" / "net_trt" / "1" / "smooth.plan"
    stray.touch()
    assert fleet_targets(config) == (SM89, SM90)
    with pytest.raises(UsageError):
        fleet_targets(config.replace("build", targets=("sm9",)))


def test_auto_means_the_gpus_of_this_machine(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "local_targets", lambda: (Target("sm80"),))
    assert fleet_targets(config.replace("build", targets=("auto",))) == (Target("sm80"), SM89, SM90)
    assert fleet_targets(config.replace("build", targets=("cpu",))) == (SM89, SM90)


def test_built_and_missing(config: Config, registry: Registry) -> None:
    entries = fleet(config, registry)
    assert states(entries) == {
        ("net", "sm89"): "built",
        ("net", "sm90"): "built",
        ("other", "sm89"): "missing",
        ("other", "sm90"): "missing",
    }
    assert entries[0].gpu == "NVIDIA H200"
    assert missing(config, registry) == [("other", SM89), ("other", SM90)]
    assert missing(config, registry, [SM90, Target("cpu")]) == [("other", SM90)]


def test_a_newer_export_makes_every_plan_stale(config: Config, registry: Registry) -> None:
    (config.exports / "toy" / "net" / "model.onnx").write_bytes(b"newer")
    entry = fleet(config, registry, [SM90])[0]
    assert (entry.state, entry.model) == ("stale", "net_trt")
    assert "older than the ONNX model" in entry.why
    assert ("net", SM90) in missing(config, registry, [SM90])


def test_one_plan_goes_stale_without_the_others(
    config: Config, registry: Registry, plan: Path
) -> None:
    edit_record(plan, onnx_sha256=sha256_bytes(b"older"))
    assert [e.state for e in fleet(config, registry)][:2] == ["built", "stale"]


@pytest.mark.parametrize("what", ["garbage", "record", "config"])
def test_a_plan_that_would_not_be_served_is_stale(
    config: Config, registry: Registry, plan: Path, what: str
) -> None:
    if what == "garbage":
        plan.write_bytes(b"garbage")
    elif what == "record":
        plan.with_name("sm90.plan.json").write_text("{")
    else:
        (plan.parent.parent / "config.pbtxt").write_text('backend: "tensorrt"\n')
    entry = fleet(config, registry, [SM90])[0]
    assert entry.state == "stale"
    expected = {"garbage": "modified", "record": "no readable record", "config": "not list it"}
    assert expected[what] in entry.why


def test_a_failed_build_is_remembered_until_it_succeeds(
    config: Config, registry: Registry, plan: Path
) -> None:
    error = EngineError("out of GPU memory", hint="lower the workspace")
    record_failure(config.build_dir, "net_trt", SM90, error)
    record_failure(config.build_dir, "other_trt", SM90, ValueError("new"))
    found = fleet(config, registry, [SM90])
    assert [e.state for e in found] == ["failed", "failed"]
    assert found[0].why == "out of GPU memory; the last good plan is still there"
    assert found[1].why == "ValueError: new"
    assert read_failures(config.build_dir)["net_trt", "sm90"].hint == "lower the workspace"
    clear_failure(config.build_dir, "net_trt", SM90)
    clear_failure(config.build_dir, "net_trt", SM90)
    assert [e.state for e in fleet(config, registry, [SM90])] == ["built", "failed"]


def test_failures_that_cannot_be_read_and_unsafe_names(config: Config) -> None:
    folder = config.build_dir / "failures"
    folder.mkdir(parents=True)
    (folder / "half.sm90.json").write_text('{"model": "half"')
    (folder / "list.sm90.json").write_text("[]")
    assert read_failures(config.build_dir) == {}
    with pytest.raises(RepositoryError):
        record_failure(config.build_dir, "../up", SM90, ValueError())


def status(
    config: Config, registry: Registry, monkeypatch: pytest.MonkeyPatch, *words: str
) -> Result:
    monkeypatch.setattr(Registry, "load", lambda config: registry)
    return CliRunner().invoke(command, ["status", *words], obj=config, catch_exceptions=False)


def test_the_command_prints_a_table_and_the_reasons(
    config: Config, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_failure(config.build_dir, "other_trt", SM90, EngineError("out of [GPU] memory"))
    result = status(config, registry, monkeypatch)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["model", "sm89", "sm90"]
    assert lines[1].split() == ["net_trt", "built", "built"]
    assert lines[2].split() == ["other_trt", "missing", "failed"]
    assert lines[3] == "other_trt sm90: out of [GPU] memory"
    assert "2 built, 1 missing, 1 failed: run `builder build --missing`" in result.output


def test_the_command_prints_json(
    config: Config, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = status(config, registry, monkeypatch, "--json", "--target", "sm90,sm120")
    document = json.loads(result.output)
    assert document["targets"] == ["sm90", "sm120"]
    assert document["counts"] == {"built": 1, "stale": 0, "missing": 3, "failed": 0}
    assert document["plans"][0]["tensorrt"] == "10.14.1.48"


def test_the_command_says_what_to_do_where_there_is_nothing(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(root=tmp_path, environ={})
    assert "--target sm90" in status(config, registry, monkeypatch).output
    none = Registry({"cpu_only": stage("cpu_only")}, {})
    result = status(config, none, monkeypatch, "--target", "sm90")
    assert "no stage is built for TensorRT" in result.output


def test_all_built_needs_nothing(
    config: Config, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(config.repository, "other_trt")
    result = status(config, registry, monkeypatch, "--target", "sm90")
    assert result.output.splitlines()[-1] == "2 built"

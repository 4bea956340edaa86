"""What is built again, what is not, and why."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from builder import digest
from builder.build.action import evaluate
from builder.build.execute import exclusive
from builder.build.plan import Context, make_context, make_plan
from builder.config import Config, load_config
from builder.errors import BuilderError, UsageError
from builder.family import Registry
from builder.record import read_record

from .conftest import Build

ALL = {
    "export double",
    "onnxruntime double",
    "export triple",
    "onnxruntime triple",
    "ensemble sixfold",
}


def made(outcomes: dict) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome.status == "made"}


def run_published(config: Config, model: str, version: int = 1) -> float:
    path = config.repository / "onnx" / model / str(version) / "model.onnx"
    [y] = onnxruntime.InferenceSession(path).run(None, {"x": np.ones((1, 2), np.float32)})
    return float(y[0, 0])


def why(context: Context) -> dict[str, tuple[str, ...]]:
    states = evaluate(make_plan(context), context.digests)
    return {str(a): s.reasons for a, s in states.items() if s.reasons}


def test_the_second_build_makes_nothing(build: Build, context: Context) -> None:
    assert why(context) == dict.fromkeys(ALL, ("not built yet",))
    assert made(build()) == ALL
    assert why(context) == {}
    assert made(build()) == set()


def test_a_changed_checkpoint_rebuilds_what_depends_on_it_and_nothing_else(
    build: Build, context: Context, config: Config, tmp_path: Path
) -> None:
    build()
    (tmp_path / "triple.txt").write_text("5")
    assert why(context) == {
        "export triple": ("checkpoint changed",),
        "onnxruntime triple": ("checkpoint changed",),
        "ensemble sixfold": ("checkpoint changed (onnxruntime triple)",),
    }
    assert made(build()) == {"export triple", "onnxruntime triple", "ensemble sixfold"}
    assert run_published(config, "triple") == 5.0
    assert run_published(config, "double") == 2.0


def test_touching_a_file_without_changing_it_rebuilds_nothing(build: Build, tmp_path: Path) -> None:
    build()
    (tmp_path / "triple.txt").write_text("3")
    assert made(build()) == set()


def test_another_library_version_is_a_reason(
    build: Build, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    real = digest.version_of
    old = real("onnxruntime")
    monkeypatch.setattr(
        digest, "version_of", lambda name: "9.9" if name == "onnxruntime" else real(name)
    )
    assert why(context)["onnxruntime double"] == (f"onnxruntime {old}→9.9",)


def test_changed_options_rebuild_the_engine_only(
    build: Build, config: Config, registry: Registry, tmp_path: Path
) -> None:
    build()
    (tmp_path / "builder.toml").write_text('[stages."double"]\ninstances = 2')
    changed = make_context(load_config(root=tmp_path, environ={}), registry)
    assert set(why(changed)) == {"onnxruntime double", "ensemble sixfold"}
    assert why(changed)["onnxruntime double"] == ("options changed",)


@pytest.mark.parametrize("group", ["onnx/double/1/model.onnx", "ensemble/sixfold/1/golden.npz"])
def test_a_damaged_artefact_is_made_again(
    build: Build, context: Context, config: Config, group: str
) -> None:
    build()
    path = config.repository / group
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    assert any(f"{path.name} was modified" in reason for [reason] in why(context).values())
    build()
    assert len(path.read_bytes()) == len(good)
    assert why(context) == {}


def test_a_removed_model_is_made_again(build: Build, config: Config) -> None:
    build()
    shutil.rmtree(config.repository / "onnx" / "double")
    assert "onnxruntime double" in made(build())
    assert run_published(config, "double") == 2.0


@pytest.mark.parametrize("damage", ["no number", None])
def test_a_failure_keeps_the_last_good_version_and_builds_the_rest(
    build: Build, config: Config, tmp_path: Path, damage: str | None
) -> None:
    build()
    checkpoint = tmp_path / "double.txt"
    checkpoint.unlink() if damage is None else checkpoint.write_text(damage)
    (tmp_path / "triple.txt").write_text("4")
    outcomes = build()
    assert outcomes["export double"].status == "failed"
    assert ("no number" if damage else "double.txt") in str(outcomes["export double"].error)
    assert outcomes["onnxruntime double"].status == "skipped"
    assert outcomes["ensemble sixfold"].status == "skipped"
    assert outcomes["onnxruntime triple"].status == "made"
    assert run_published(config, "double") == 2.0
    assert run_published(config, "triple") == 4.0
    checkpoint.write_text("2")
    assert all(outcome.ok for outcome in build().values())


def test_an_engine_that_computes_something_else_is_not_published(
    build: Build, config: Config, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builder.engines.onnxruntime as kind

    def wrong_runner(stage: object, files: object) -> object:
        return lambda inputs: {"y": inputs["x"] * np.float32(2.001)}

    monkeypatch.setattr(kind, "KIND", dataclasses.replace(kind.KIND, runner=wrong_runner))
    outcome = build("double")["onnxruntime double"]
    assert outcome.status == "failed"
    assert "output y differs by up to" in str(outcome.error)
    assert not (config.repository / "onnx" / "double").exists()


def test_versions_stand_beside_each_other(build: Build, config: Config, tmp_path: Path) -> None:
    build("double")
    (tmp_path / "double.txt").write_text("7")
    build("double", version=2)
    assert (run_published(config, "double", 1), run_published(config, "double", 2)) == (2.0, 7.0)
    # Without a number it is the newest version that is kept up to date.
    (tmp_path / "double.txt").write_text("8")
    build("double")
    assert (run_published(config, "double", 1), run_published(config, "double", 2)) == (2.0, 8.0)
    record = read_record(config.repository / "onnx" / "double" / "2")
    assert record is not None
    assert record.files["model.onnx"]["size"] > 0


def test_force_builds_everything(build: Build) -> None:
    build()
    assert made(build(force=True)) == ALL


def test_only_what_is_named_is_built(build: Build) -> None:
    assert made(build("dou*")) == {"export double", "onnxruntime double"}
    with pytest.raises(UsageError, match="no model matches 'quadruple'"):
        build("quadruple")


def test_two_builds_at_once_are_refused(config: Config) -> None:
    with (
        exclusive(config.build_dir),
        pytest.raises(BuilderError, match=r"another build is running \(process \d+\)"),
        exclusive(config.build_dir),
    ):
        pass
    with exclusive(config.build_dir):
        pass


def test_versions_are_positive(config: Config, registry: Registry) -> None:
    with pytest.raises(UsageError, match="positive"):
        make_context(config, registry, version=0)

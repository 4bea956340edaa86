"""The command, files that are no models, and every stage that this project declares."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from builder.build.export_action import export_folder
from builder.cli.lint import command
from builder.config import Config, load_config
from builder.errors import ExportError, RepositoryError, UsageError
from builder.export.exporter import MODEL
from builder.family import Registry
from builder.lint.model import Severity
from builder.lint.tensorrt.profiles import infer_at, infer_profile, profile_points
from builder.lint.tensorrt.runner import lint_onnx
from builder.stage import OnnxSource, Range, Stage, Tensor

from .conftest import integers, model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node

# Warnings that are known: preprocessing_onnx looks the last valid row up in the list of them.
KNOWN_WARNINGS = {"preprocessing_onnx": {"ON009"}}


def run(config: Config, *words: str) -> Result:
    return CliRunner().invoke(command, words, obj=config, catch_exceptions=False)


@pytest.fixture
def det(config: Config) -> Path:
    """A file with an operator that TensorRT does not take, where exports are."""
    path = config.exports / "toy" / "det" / MODEL
    path.parent.mkdir(parents=True)
    io = ([("x", FLOAT, [4, 4])], [("y", FLOAT, [])])
    onnx.save(model([node("Det", ["x"], ["y"])], *io), str(path))
    return path


def test_the_command_looks_at_the_exports_by_default(config: Config, det: Path) -> None:
    result = run(config, "--tensorrt")
    assert result.exit_code == 1
    assert f"{det} ON002 Det that makes y: TensorRT takes no Det" in result.output
    assert result.output.splitlines()[-1] == "1 error"


def test_the_command_takes_files_rules_and_json(config: Config, det: Path) -> None:
    assert run(config, "--tensorrt", str(det), "--ignore", "ON002").exit_code == 0
    result = run(config, "--tensorrt", str(det), "--json", "--select", "on002")
    (entry,) = json.loads(result.output)
    assert (entry["code"], entry["severity"], entry["count"]) == ("ON002", "error", 1)


def test_the_command_explains_the_rules(config: Config) -> None:
    listed = run(config, "--tensorrt", "--list").output
    assert "ON008 operands of different types (error)" in listed
    assert "strongly typed" in listed
    assert json.loads(run(config, "--tensorrt", "--list", "--json").output)[0]["code"] == "ON001"


def test_only_strict_fails_on_warnings(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "nonzero.onnx"
    io = ([("x", FLOAT, [4])], [("y", INT64, [1, "N"])])
    onnx.save(model([node("NonZero", ["x"], ["y"])], *io), str(path))
    assert run(config, "--tensorrt", str(path)).exit_code == 0
    assert run(config, "--tensorrt", str(path), "--strict").exit_code == 1


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x08\x07"])
def test_files_that_are_no_models(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(RepositoryError, match="no ONNX model"):
        lint_onnx([path])


def test_paths_and_codes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        lint_onnx([tmp_path / "absent.onnx"])
    with pytest.raises(RepositoryError, match="no ONNX file"):
        lint_onnx([tmp_path])
    (tmp_path / "m.onnx").touch()
    with pytest.raises(UsageError, match="no rule 'ON999'"):
        lint_onnx([tmp_path], select=["ON999"])


def toy(*, profile: dict[str, Range]) -> Stage:
    def unused(*arguments: object) -> None:
        raise AssertionError

    return Stage(
        name="toy",
        family="toy",
        inputs=(Tensor("x", "FP32", ("T", 4)),),
        outputs=(Tensor("y", "FP32", ("T", 4)),),
        source=OnnxSource(build=unused, reference=unused),  # type: ignore[arg-type]
        example=unused,  # type: ignore[arg-type]
        shapes=({"T": 100}, {"T": 1}),
        profile=profile,
    )


def test_a_size_that_was_frozen_is_found(tmp_path: Path) -> None:
    """The exporter traced at T=100 and wrote the 100 into a Reshape."""
    path = tmp_path / "m.onnx"
    io = ([("x", FLOAT, ["T", 4])], [("y", FLOAT, ["T", 4])])
    nodes = [node("Reshape", ["x", "sizes"], ["y"])]
    onnx.save(model(nodes, *io, [integers("sizes", [100, 4])]), str(path))
    stage = toy(profile={"T": Range(1, 100, 4096)})
    points = profile_points(stage)
    assert infer_at(stage, path, points["opt"]) == {"y": (100, 4)}
    for point in ("min", "max"):
        with pytest.raises(ExportError, match=r"declared is|do not fit"):
            infer_at(stage, path, points[point])
    onnx.save(model(nodes, *io, [integers("sizes", [-1, 4])]), str(path))
    assert infer_at(stage, path, points["max"]) == {"y": (4096, 4)}


def test_a_profile_without_a_symbol_is_an_error() -> None:
    with pytest.raises(ExportError, match="no sizes for T"):
        profile_points(toy(profile={}))


def test_every_stage_for_tensorrt_passes_the_preflight(built: Config) -> None:
    """Operators, types, strongly typed operands."""
    stages = Registry.load(built).stages
    meant = [stage for stage in stages.values() if "tensorrt" in stage.engines]
    assert meant
    for stage in meant:
        found = lint_onnx([export_folder(built.exports, stage) / MODEL])
        assert not [str(f) for f in found if f.severity is Severity.ERROR]
        assert {f.code for f in found} == KNOWN_WARNINGS.get(stage.name, set())


def test_every_stage_infers_strictly_at_the_ends_of_its_profile(built: Config) -> None:
    for stage in Registry.load(built).stages.values():
        path = export_folder(built.exports, stage) / MODEL
        for point, shapes in infer_profile(stage, path).items():
            sizes = profile_points(stage)[point]
            for tensor in stage.outputs:
                known = all(d in sizes for d in tensor.dims if isinstance(d, str))
                if tensor.name in shapes and known:
                    assert shapes[tensor.name] == tensor.shape(sizes), point


def test_the_default_configuration_is_found_without_a_context(
    det: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = det.parents[3]
    monkeypatch.chdir(root)
    assert load_config(environ={}).exports == root / "exports"
    result = CliRunner().invoke(command, ["--tensorrt"])
    assert "ON002" in result.output

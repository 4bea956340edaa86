"""One test that a sound repository has no finding, and per rule what it finds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto

from builder.lint import Finding, all_rules, lint
from builder.lint.model import Severity

from .conftest import PYTHON, save_onnx, save_record

Edit = Callable[..., Path]


def only(root: Path, code: str, count: int = 1) -> Finding:
    """The finding of a rule; no other rule may find anything."""
    found = lint([root])
    assert [f.code for f in found] == [code] * count, "\n".join(map(str, found))
    assert all(f.remedy for f in found)
    return found[0]


def test_a_sound_repository_has_no_findings(root: Path) -> None:
    assert lint([root]) == []


def test_every_rule_is_tested_and_explained() -> None:
    codes = [rule.code for rule in all_rules()]
    assert codes == [f"TR{n:03}" for n in range(1, len(codes) + 1)]
    text = Path(__file__).read_text()
    assert all(f'"{code}"' in text for code in codes)


def test_syntax_error(root: Path, edit: Edit) -> None:
    path = edit("python/twin_py", add="max_batch: 3\n")
    finding = only(root, "TR001")
    assert (finding.path, finding.line) == (path, 3)
    assert "max_batch" in finding.message


def test_syntax_error_in_an_alternative_config(root: Path) -> None:
    path = root / "ensemble" / "pipe" / "configs" / "trt.pbtxt"
    path.parent.mkdir()
    path.write_text("{")
    assert only(root, "TR001").path == path


def test_other_name(root: Path, edit: Edit) -> None:
    edit("python/twin_py", "twin_py", "twin")
    finding = only(root, "TR002")
    assert finding.line == 1
    assert "'twin'" in finding.message


def test_no_name_is_fine(root: Path, edit: Edit) -> None:
    edit("python/twin_py", 'name: "twin_py"\n', "")
    assert lint([root]) == []


def test_no_version(root: Path) -> None:
    (root / "ensemble" / "pipe" / "1").rename(root / "ensemble" / "pipe" / "01")
    assert only(root, "TR003").path == root / "ensemble" / "pipe"


def test_a_folder_that_is_no_model(root: Path) -> None:
    (root / "onnx" / "notes").mkdir()
    assert only(root, "TR003").path == root / "onnx" / "notes"


def test_policy_names_a_missing_version(root: Path, edit: Edit) -> None:
    edit("onnx/first", add="version_policy { specific { versions: [ 1, 3 ] } }\n")
    finding = only(root, "TR003")
    assert "version 3" in finding.message
    assert finding.line == 6


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ('backend: "onnxruntime"', "model.onnx"),
        ('platform: "tensorrt_plan"', "model.plan"),
        ('backend: "pytorch"', "model.pt"),
        ('backend: "python"', "model.py"),
        ('backend: "onnxruntime" default_model_filename: "m.onnx"', "m.onnx"),
        (
            'backend: "tensorrt" cc_model_filenames { key: "9.0" value: "model_sm90.plan" }',
            "model_sm90.plan",
        ),
    ],
)
def test_missing_model_file(root: Path, config: str, missing: str) -> None:
    folder = root / "onnx" / "third"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    assert missing in only(root, "TR004").message
    (folder / "1" / missing).write_text(PYTHON)
    assert "TR004" not in [f.code for f in lint([root])]


def test_every_version_needs_the_file(root: Path) -> None:
    (root / "onnx" / "first" / "2").mkdir()
    assert only(root, "TR004").path == root / "onnx" / "first" / "2"


def test_a_backend_that_is_not_known_may_load_anything(root: Path, edit: Edit) -> None:
    edit("python/twin_py", '"python"', '"my_backend"')
    (root / "python" / "twin_py" / "1" / "model.py").unlink()
    assert lint([root]) == []


@pytest.mark.parametrize("name", ["../../second/1/model.onnx", "/etc/passwd", "..", "a\\\\b"])
@pytest.mark.parametrize(
    "line", ['default_model_filename: "{}"', 'cc_model_filenames {{ key: "9.0" value: "{}" }}']
)
def test_unsafe_file_name(root: Path, edit: Edit, name: str, line: str) -> None:
    edit("python/twin_py", add=line.format(name) + "\n")
    findings = lint([root], select=["TR005"])
    assert [f.line for f in findings] == [3]
    assert line.partition(" ")[0].rstrip(":") in findings[0].message


def test_a_file_outside_is_not_even_read(root: Path, edit: Edit) -> None:
    (root / "python" / "outside.py").write_text("no python")
    edit("python/twin_py", add='default_model_filename: "../../outside.py"\n')
    assert {f.code for f in lint([root])} == {"TR005"}


def test_silent_fallback(root: Path) -> None:
    folder = root / "tensorrt" / "first_trt"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model_sm90.plan").touch()
    (folder / "config.pbtxt").write_text(
        'backend: "tensorrt"\ncc_model_filenames { key: "9.0" value: "model_sm90.plan" }\n'
    )
    assert lint([root]) == []
    (folder / "1" / "model.plan").touch()
    assert only(root, "TR006").path.name == "model.plan"


def test_unknown_step(root: Path, edit: Edit) -> None:
    edit("ensemble/pipe", '"second"', '"secnd"')
    finding = only(root, "TR007")
    assert finding.line == 13
    assert finding.remedy == "did you mean 'second'?"


def test_unknown_step_in_an_alternative_config(root: Path, edit: Edit) -> None:
    path = root / "ensemble" / "pipe" / "configs" / "trt.pbtxt"
    path.parent.mkdir()
    text = (root / "ensemble" / "pipe" / "config.pbtxt").read_text()
    path.write_text(text.replace('"first"', '"first_trt"'))
    assert only(root, "TR007").path == path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('key: "x" value: "middle"', 'key: "z" value: "middle"', "no input 'z'"),
        ('value: "middle"', 'value: "raw"', "produced by the client and by first.y"),
        ('output { name: "answer"', 'output { name: "result"', "'result' is produced by no step"),
    ],
)
def test_wiring(root: Path, edit: Edit, old: str, new: str, message: str) -> None:
    edit("ensemble/pipe", old, new)
    messages = [f.message for f in lint([root], select=["TR008"])]
    assert any(message in m for m in messages), messages


def test_types_and_sizes_along_the_ensemble(root: Path, edit: Edit) -> None:
    (root / "onnx" / "second" / "1" / "record.json").unlink()
    save_onnx(
        root / "onnx" / "second" / "1" / "model.onnx",
        [("x", TensorProto.DOUBLE, ["T", 38])],
        [("y", TensorProto.DOUBLE, ["T", 25])],
    )
    edit("onnx/second", "TYPE_FP32 dims: [ -1, 25 ]", "TYPE_FP64 dims: [ -1, 38 ]")
    edit("onnx/second", 'name: "y" data_type: TYPE_FP64 dims: [ -1, 38 ]',
         'name: "y" data_type: TYPE_FP64 dims: [ -1, 25 ]')  # fmt: skip
    messages = [f.message for f in lint([root])]
    assert len(messages) == 3
    assert any("first.y FP32" in m and "second.x FP64" in m for m in messages)
    assert any("dim 1 is 25 on the left and 38 on the right" in m for m in messages)
    assert any("second.y FP64" in m and "pipe.answer FP32" in m for m in messages)


def test_ensemble_batches_more_than_its_models(root: Path) -> None:
    dims = "dims: [ 25 ]"
    for name in ("first", "second"):
        folder = root / "onnx" / name
        text = (folder / "config.pbtxt").read_text().replace("dims: [ -1, 25 ]", dims)
        text = text.replace("max_batch_size: 0", "max_batch_size: 4\ndynamic_batching {}")
        (folder / "config.pbtxt").write_text(text)
    path = root / "ensemble" / "pipe" / "config.pbtxt"
    path.write_text(path.read_text().replace("dims: [ -1, 25 ]", dims) + "max_batch_size: 4\n")
    assert lint([root]) == []
    path.write_text(path.read_text().replace("max_batch_size: 4", "max_batch_size: 8"))
    assert "batches of 8, the model of 4" in only(root, "TR008", 2).message


def test_a_model_that_leaves_its_tensors_to_the_server_is_not_judged(
    root: Path, edit: Edit
) -> None:
    (root / "onnx" / "second" / "config.pbtxt").unlink()
    assert lint([root]) == []


def test_cycle(root: Path, edit: Edit) -> None:
    edit("ensemble/pipe", 'key: "x" value: "raw"', 'key: "x" value: "answer"')
    message = lint([root], select=["TR009"])[0].message
    assert "first -> second -> first" in message or "second -> first -> second" in message


@pytest.mark.parametrize(
    ("old", "new", "message", "line"),
    [
        ('input { name: "x"', 'input { name: "z"', "no input 'z' (it has x)", 4),
        ('output { name: "y"', 'output { name: "z"', "no output 'z' (it has y)", 5),
        (
            'name: "y" data_type: TYPE_FP32',
            'name: "y" data_type: TYPE_FP16',
            "output y is FP32, not FP16",
            5,
        ),
        (
            'name: "y" data_type: TYPE_FP32 dims: [ -1, 25 ]',
            'name: "y" data_type: TYPE_FP32 dims: [ -1, 38 ]',
            "the file has dims [-1, 25], the config states [-1, 38]",
            5,
        ),
        (
            'name: "x" data_type: TYPE_FP32 dims: [ -1, 25 ]',
            'name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ]',
            "the file has dims [-1, 25], the config states [-1, -1]",
            4,
        ),
        ("max_batch_size: 0", "max_batch_size: 4", "states [-1, -1, 25]", 4),
    ],
)
def test_onnx_differs(root: Path, edit: Edit, old: str, new: str, message: str, line: int) -> None:
    edit("onnx/first", old, new)
    found = lint([root], select=["TR010"])
    assert any(message in f.message and f.line == line for f in found), found


def test_onnx_input_left_out(root: Path) -> None:
    folder = root / "onnx" / "first" / "1"
    (folder / "record.json").unlink()
    inputs = [("x", TensorProto.FLOAT, ["T", 25]), ("mask", TensorProto.BOOL, ["T"])]
    save_onnx(folder / "model.onnx", inputs)
    assert "leaves out input mask BOOL [T]" in only(root, "TR010").message


def test_onnx_sequence_controls_are_fed_by_the_server(root: Path, edit: Edit) -> None:
    folder = root / "onnx" / "first" / "1"
    (folder / "record.json").unlink()
    inputs = [("x", TensorProto.FLOAT, ["T", 25]), ("start", TensorProto.BOOL, [1])]
    save_onnx(folder / "model.onnx", inputs)
    control = "control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }"
    edit(
        "onnx/first",
        add=f'sequence_batching {{ control_input {{ name: "start" {control} }} }}\n',
    )
    assert lint([root]) == []


def test_onnx_dims_may_be_narrowed(root: Path, edit: Edit) -> None:
    edit("onnx/first", "dims: [ -1, 25 ]", "dims: [ 100, 25 ]")
    assert lint([root]) == []


def test_truncated_onnx(root: Path) -> None:
    path = root / "onnx" / "first" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-20])
    save_record(path.parent)
    finding = only(root, "TR010")
    assert finding.path == path
    assert "truncated" in finding.message


def test_changed_file(root: Path) -> None:
    path = root / "onnx" / "first" / "1" / "model.onnx"
    data = path.read_bytes()
    assert b"g" in data
    path.write_bytes(data.replace(b"g", b"h"))
    finding = only(root, "TR011")
    assert finding.path == path
    assert "SHA-256" in finding.message


def test_cut_file(root: Path) -> None:
    path = root / "onnx" / "first" / "1" / "extra.bin"
    path.write_bytes(bytes(10))
    save_record(path.parent)
    path.write_bytes(bytes(9))
    assert "has 9 bytes, the record says 10" in only(root, "TR011").message


def test_removed_file(root: Path) -> None:
    path = root / "onnx" / "first" / "1" / "extra.bin"
    path.write_bytes(bytes(10))
    save_record(path.parent)
    path.unlink()
    assert "extra.bin is in the record, but missing" in only(root, "TR011").message


@pytest.mark.parametrize("text", ["", "{}", '{"files": []}', '{"files": {"../x": 1}}'])
def test_unreadable_record(root: Path, text: str) -> None:
    (root / "onnx" / "first" / "1" / "record.json").write_text(text)
    assert "cannot be read" in only(root, "TR011").message


def test_a_record_may_not_name_files_elsewhere(root: Path) -> None:
    files = {"../../second/1/model.onnx": {"size": 1, "sha256": "0"}}
    path = root / "onnx" / "first" / "1" / "record.json"
    path.write_text(json.dumps({"files": files}))
    assert "separator" in only(root, "TR011").message


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("class TritonPythonModel:\n    def execute(self:\n", "no valid Python", 2),
        ("class TritonPythonModel:\n    def run(self): ...\n", "no execute", 1),
        ("class Model:\n    def execute(self): ...\n", "no class TritonPythonModel", 0),
    ],
)
def test_broken_python_model(root: Path, text: str, message: str, line: int) -> None:
    (root / "python" / "twin_py" / "1" / "model.py").write_text(text)
    finding = only(root, "TR012")
    assert message in finding.message
    assert finding.line == line


@pytest.mark.parametrize(
    "text",
    [
        "class TritonPythonModel(Base):\n    pass\n",
        "class TritonPythonModel:\n    async def execute(self, requests): ...\n",
        "from shared import TritonPythonModel\n",
        "from shared import Model as TritonPythonModel\n",
    ],
)
def test_python_model_made_elsewhere(root: Path, text: str) -> None:
    (root / "python" / "twin_py" / "1" / "model.py").write_text(text)
    assert lint([root]) == []


def test_duplicate_name(root: Path) -> None:
    (root / "onnx" / "twin_py" / "1").mkdir(parents=True)
    (root / "onnx" / "twin_py" / "config.pbtxt").write_text('backend: "my_backend"\n')
    finding = only(root, "TR013")
    assert finding.path == root / "python" / "twin_py"
    assert str(root / "onnx") in finding.message


def test_no_batcher(root: Path, edit: Edit) -> None:
    edit("python/twin_py", add="max_batch_size: 8\n")
    finding = only(root, "TR014")
    assert finding.severity == "warning"
    assert finding.line == 3
    edit("python/twin_py", add="dynamic_batching {}\n")
    assert lint([root]) == []


def test_preferred_batch_size(root: Path, edit: Edit) -> None:
    edit("python/twin_py", add="max_batch_size: 8\n")
    edit("python/twin_py", add="dynamic_batching { preferred_batch_size: [ 4, 16 ] }\n")
    finding = only(root, "TR015")
    assert finding.line == 4
    assert "16 is above max_batch_size 8" in finding.message


def test_cached_sequences(root: Path, edit: Edit) -> None:
    edit("python/twin_py", add="response_cache { enable: true }\n")
    assert lint([root]) == []
    edit("python/twin_py", add="sequence_batching {}\n")
    assert only(root, "TR016").line == 3


def test_link_out_of_the_repository(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.touch()
    link = root / "onnx" / "first" / "1" / "labels.txt"
    link.symlink_to(outside)
    finding = only(root, "TR017")
    assert finding.path == link
    assert str(outside) in finding.message


def test_link_to_nowhere(root: Path) -> None:
    (root / "onnx" / "first" / "labels.txt").symlink_to("missing.txt")
    assert "is not there" in only(root, "TR017").message


def test_link_within_the_repository(root: Path) -> None:
    (root / "onnx" / "first" / "1" / "copy.onnx").symlink_to("model.onnx")
    assert lint([root]) == []


def test_several_first_steps(root: Path, edit: Edit) -> None:
    edit("ensemble/pipe", 'key: "x" value: "middle"', 'key: "x" value: "raw"')
    finding = lint([root], select=["TR018"])[0]
    assert finding.severity is Severity.WARNING
    assert finding.line == 5
    assert "2 steps start at once: first, second" in finding.message


def test_a_step_beside_others_is_no_first_step(root: Path, edit: Edit) -> None:
    edit(
        "ensemble/pipe",
        'output_map { key: "y" value: "answer" }\n  }\n',
        'output_map { key: "y" value: "answer" }\n  }\n'
        '  step {\n    model_name: "second"\n    model_version: -1\n'
        '    input_map { key: "x" value: "middle" }\n'
        '    output_map { key: "y" value: "other" }\n  }\n',
    )
    edit("ensemble/pipe", add='output { name: "other" data_type: TYPE_FP32 dims: [ -1, 25 ] }\n')
    assert lint([root], select=["TR018"]) == []

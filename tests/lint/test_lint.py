"""Which models are looked at, which rules are run, and what the command prints."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.cli.lint import command
from builder.config import load_config
from builder.errors import RepositoryError, UsageError
from builder.lint import all_rules, lint

Edit = Callable[..., Path]


def run(root: Path, *words: str) -> Result:
    config = load_config(root=root.parent, environ={})
    return CliRunner().invoke(command, words, obj=config, catch_exceptions=False)


@pytest.fixture
def broken(root: Path, edit: Edit) -> Path:
    """One error and one warning."""
    edit("onnx/first", '"first"', '"other"')
    edit("python/twin_py", add="max_batch_size: 8\n")
    return root


def test_a_path_may_be_a_model_a_repository_or_a_folder_of_repositories(broken: Path) -> None:
    want = ["TR002"]
    assert [f.code for f in lint([broken / "onnx" / "first"])] == want
    assert [f.code for f in lint([broken / "onnx"])] == want
    assert [f.code for f in lint([broken])] == [*want, "TR014"]
    assert [f.code for f in lint([broken, broken / "onnx"])] == [*want, "TR014"]


def test_steps_are_looked_for_in_all_paths(root: Path) -> None:
    assert {f.code for f in lint([root / "ensemble"])} == {"TR007"}
    assert lint([root / "ensemble", root / "onnx"]) == []


def test_rules_can_be_selected_and_ignored(broken: Path) -> None:
    assert [f.code for f in lint([broken], select=["TR014"])] == ["TR014"]
    assert [f.code for f in lint([broken], ignore=["TR002"])] == ["TR014"]
    with pytest.raises(UsageError, match="no rule 'TR999'"):
        lint([broken], select=["TR999"])


def test_nothing_to_look_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        lint([tmp_path / "nowhere"])
    with pytest.raises(RepositoryError, match="no models"):
        lint([tmp_path])


def test_hidden_folders_are_not_models(root: Path) -> None:
    (root / ".staging" / "onnx" / "first" / "new").mkdir(parents=True)
    (root / "onnx" / ".cache").mkdir()
    assert lint([root]) == []


def test_the_command_prints_findings_and_fails_on_errors(broken: Path) -> None:
    result = run(broken)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{broken}/onnx/first/config.pbtxt:1 TR002 ")
    assert " -> rename one of the two" in lines[0]
    assert lines[-1] == "1 error, 1 warning"


def test_warnings_only_fail_if_strict(broken: Path) -> None:
    assert run(broken, "--ignore", "TR002").exit_code == 0
    assert run(broken, "--ignore", "tr002", "--strict").exit_code == 1
    assert run(broken, "--select", "TR001,TR003").output == "no findings\n"


def test_json(broken: Path) -> None:
    result = run(broken, str(broken), "--json")
    assert result.exit_code == 1
    value = json.loads(result.output)
    assert [(f["code"], f["severity"], f["line"]) for f in value] == [
        ("TR002", "error", 1),
        ("TR014", "warning", 3),
    ]


def test_the_list_explains_every_rule(root: Path) -> None:
    text = run(root, "--list").output
    assert all(f"{rule.code} {rule.title}" in text for rule in all_rules())
    value = json.loads(run(root, "--list", "--json").output)
    assert [rule["code"] for rule in value] == [rule.code for rule in all_rules()]
    assert all(len(rule["why"]) > 40 for rule in value)

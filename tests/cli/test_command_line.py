"""The command line as a user meets it: words, exit codes, speed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from builder.config import load_config


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "builder", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environ},
    )


def test_help_lists_every_command_and_costs_no_torch(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("build", "status", "list", "serve", "doctor", "lint", "rollback", "detect"):
        assert f"\n  {command} " in result.stdout
    assert "\n  train " in result.stdout


@pytest.mark.parametrize("arguments", [["status"], ["list"], ["config"], ["train", "--help"]])
def test_light_commands_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from builder.cli import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'matplotlib', 'scipy', 'tensorrt'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("HEAVY []")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["biuld"], 2, "Did you mean 'build'?"),
        (["build", "--family", "flowers"], 2, "unknown family 'flowers'"),
        (["build", "--target", "sm9"], 2, "unknown target 'sm9'"),
        (["build", "SMAP_Z-1"], 2, "no model matches 'SMAP_Z-1'"),
        (["--config", "absent.toml", "list"], 2, "no such file"),
        (["lint", "absent"], 2, "absent"),
        (["rollback", "SMAP_E-1"], 1, "SMAP_E-1"),
    ],
)
def test_exit_codes_and_messages(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run(*arguments, cwd=tmp_path)
    assert message in result.stderr
    assert result.returncode == code
    assert "Traceback" not in result.stderr


def test_a_mistake_in_the_configuration_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "builder.toml").write_text("[server]\nprot = 1")
    result = run("list", cwd=tmp_path)
    assert result.returncode == 2
    assert "unknown setting 'prot'" in result.stderr


def test_the_printed_configuration_is_toml_with_the_defaults(tmp_path: Path) -> None:
    printed = run("config", cwd=tmp_path).stdout
    config = load_config(root=tmp_path, environ={})
    readable = printed.replace("= # unset", '= "" #')
    tables = tomllib.loads(readable)
    assert tables["server"]["http_port"] == config.server.http_port
    assert tables["build"]["targets"] == ["auto"]


def test_list_and_status_speak_json(tmp_path: Path) -> None:
    models = json.loads(run("list", "--json", cwd=tmp_path).stdout)
    names = [model["name"] for model in models]
    assert len([name for name in names if name.startswith("SMAP_") and name[-2] == "-"]) == 27
    assert {"tranad_sat1", "tranad_sat1_ts", "anomaly_pipeline", "multi_detector"} <= set(names)
    rows = json.loads(run("status", "SMAP_E-1", "--json", cwd=tmp_path).stdout)
    assert [row["artefact"] for row in rows] == ["export", "onnxruntime"]
    assert all(row["reasons"] == ["not built yet"] for row in rows)


def test_a_build_that_fails_says_what_and_exits_with_one(tmp_path: Path) -> None:
    (tmp_path / "SMAP_E-1.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    result = run(
        "build", "SMAP_E-1", "--no-verify", cwd=tmp_path, BUILDER_ANOMALY_WEIGHTS=str(tmp_path)
    )
    assert result.returncode == 1
    assert "SMAP_E-1.safetensors" in result.stdout.replace("\n", "")
    assert "->" in result.stdout
    assert not (tmp_path / "model_repository").exists()

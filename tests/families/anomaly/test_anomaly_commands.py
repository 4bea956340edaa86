import json

import pytest
from click.testing import CliRunner

from builder.errors import DataError, UsageError
from builder.families.anomaly.commands import evaluate_command, train_command


def invoke(command, *arguments):
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_training_then_evaluating_with_tables_json_and_plots(synthetic_folder, tmp_path):
    out = tmp_path / "weights"
    options = ("--data", synthetic_folder, "--channel", "E-1", "--channel", "A-1", "--out", out)
    done = invoke(train_command, *options, "--epochs", 1)
    assert done.output.strip().endswith("3 trained")
    names = {path.name for path in out.iterdir()}
    models = ("SMAP_A-1", "SMAP_E-1", "tranad_sat1")
    assert names == {f"{model}.safetensors" for model in models}
    assert invoke(train_command, *options, "--epochs", 1).output.strip().endswith("3 unchanged")

    plots = tmp_path / "plots"
    shown = invoke(
        evaluate_command,
        "--data",
        synthetic_folder,
        "--weights",
        out,
        "--channel",
        "E-1",
        "--plots",
        plots,
    )
    for word in ("range rule", "random, 1 %", "E-1", "EPS"):
        assert word in shown.output
    assert [path.name for path in plots.iterdir()] == ["E-1.png"]
    printed = invoke(
        evaluate_command,
        "--data",
        synthetic_folder,
        "--weights",
        out,
        "--model",
        "tranad",
        "--json",
    )
    report = json.loads(printed.output)
    assert report["model"] == "TranAD"
    assert report["channels"][0]["channel"] == "E-1"


def test_without_data_synthetic_telemetry_does(tmp_path):
    out = tmp_path / "weights"
    options = ("--synthetic", "--channel", "F-1")
    invoke(train_command, *options, "--model", "omnianomaly", "--epochs", 1, "--out", out)
    report = json.loads(invoke(evaluate_command, *options, "--weights", out, "--json").output)
    assert report["pooled"]["model"]["segments"] == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), UsageError, "--data DIR, or --synthetic"),
        (("--synthetic", "--data", "."), UsageError, "not both"),
        (("--synthetic", "--channel", "X-1"), UsageError, "unknown channel 'X-1'"),
        (("--data", "."), DataError, "no telemetry of any known channel"),
    ],
)
@pytest.mark.parametrize("command", [train_command, evaluate_command])
def test_a_wrong_call_is_explained(command, arguments, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        invoke(command, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--risk", "0"), "between 0 and 1"),
        (("--level", "1.5"), "between 0 and 1"),
        (("--model", "tranad", "--channel", "E-1", "--channel", "E-2"), "only one"),
        (("--upstream", __file__), "--model tranad"),
    ],
)
def test_settings_of_training_are_checked_first(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        invoke(train_command, "--synthetic", *arguments)
    assert list(tmp_path.iterdir()) == []

"""What `builder bench --against` makes of a comparison; the measuring itself is replaced."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.bench.results import Report
from builder.cli.bench import command
from builder.config import Config
from builder.errors import UsageError
from tests.bench.report_data import report, rounds

BEFORE = report(rounds("native", [1000.0, 1010.0, 1020.0]))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """The report that the next benchmark comes to."""
    found: list[Report] = []

    class Measured:
        complete = True

        def __init__(self, cases: object, settings: object):
            pass

        def find_tool(self, config: Config) -> None:
            pass

        def run(self) -> None:
            pass

        def report(self) -> Report:
            return found[0]

    monkeypatch.setattr("builder.bench.runner.Benchmark", Measured)
    return found


@pytest.mark.parametrize(
    ("figures", "status"),
    [
        ([1000.0, 1015.0, 1020.0], 0),
        ([2000.0, 2015.0, 2020.0], 0),
        ([500.0, 510.0, 520.0], 1),
    ],
)
def test_a_regression_decides_the_exit_code(
    config: Config, tmp_path: Path, measured: list[Report], figures: list[float], status: int
) -> None:
    older = tmp_path / "older.json"
    older.write_text(BEFORE.to_json())
    measured.append(report(rounds("native", figures)))
    arguments = ["--against", str(older), "-o", str(tmp_path / "new")]
    # The command returns its exit code; `builder.cli.main` hands it on.
    answer = CliRunner().invoke(command, arguments, obj=config, standalone_mode=False)
    assert answer.return_value == status, answer.output
    assert ("regression one, native" in answer.output) == bool(status)
    assert "Against the report of" in (tmp_path / "new" / "report.html").read_text()


@pytest.mark.parametrize("text", [None, "", "{", '{"format": 99}', '{"format": 1}'])
def test_a_report_that_cannot_be_read_ends_it_before_anything_is_measured(
    config: Config, tmp_path: Path, measured: list[Report], text: str | None
) -> None:
    older = tmp_path / "older.json"
    if text is not None:
        older.write_text(text)
    with pytest.raises(UsageError, match=r"older\.json"):
        CliRunner().invoke(
            command, ["--against", str(older)], obj=config, catch_exceptions=False,
            standalone_mode=False,
        )  # fmt: skip

"""`builder tune` as a user meets it, on a fake machine."""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from builder.bench.tool import PerfAnalyzer
from builder.cli.tune import command
from builder.config import Config, StageOptions, load_config
from builder.errors import BuilderError, MissingDependencyError, RepositoryError, UsageError
from builder.tune.judge import Turn
from tests.tune.fakes import FakeMachine

Use = Callable[[FakeMachine], None]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder in which the models seem to be built."""
    for model in ("onnx/SMAP_A-1", "onnx/dit_step", "python/omnianomaly_py"):
        folder = tmp_path / "model_repository" / model
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text("")
    return tmp_path


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Lets a fake machine measure in place of the server, on four cores."""

    def install(machine: FakeMachine) -> None:
        class Arena:
            def __init__(
                self, config: Config, subject: object, tool: object, levels: Sequence[int]
            ):
                machine.levels = tuple(levels)
                self.shares = machine.shares

            def __enter__(self) -> "Arena":
                return self

            def __exit__(
                self,
                kind: type[BaseException] | None,
                error: BaseException | None,
                trace: TracebackType | None,
            ) -> None: ...

            def turn(self, settings: Mapping[str, StageOptions], seconds: float) -> Turn:
                return machine.turn(settings, seconds)

        tool = PerfAnalyzer(Path("perf_analyzer"), "2.48.0")
        monkeypatch.setattr("builder.bench.tool.find_perf_analyzer", lambda config: tool)
        monkeypatch.setattr("builder.tune.arena.Arena", Arena)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))

    return install


def tune(project: Path, *arguments: str) -> Result:
    config = load_config(root=project, environ={})
    return CliRunner().invoke(command, arguments, obj=config, standalone_mode=False)


def more_instances(settings: Mapping[str, StageOptions]) -> float:
    return 100.0 * settings["SMAP_A-1"].instances


def test_the_winner_is_written_with_the_next_command(project: Path, use: Use) -> None:
    use(FakeMachine(more_instances, noise=0.05))
    (project / "builder.toml").write_text("# ours\n[server]\nhttp_port = 9000\n")
    result = tune(project, "SMAP_A-1")
    assert result.return_value == 0, result.output
    text = (project / "builder.toml").read_text()
    assert text.startswith("# ours\n[server]\nhttp_port = 9000\n")
    assert tomllib.loads(text)["stages"] == {"SMAP_A-1": {"instances": 4}}
    assert "builder build SMAP_A-1" in result.output
    data = json.loads((project / "build" / "tune" / "SMAP_A-1.json").read_text())
    assert data["settings"]["SMAP_A-1"]["instances"] == 4
    assert data["written"] == str(project / "builder.toml")
    turns = [turn for leg in data["legs"] for c in leg["candidates"] for turn in c["turns"]]
    assert all(set(turn) == {"1", "8"} for turn in turns)
    again = tune(project, "SMAP_A-1")  # now it is the incumbent
    assert "keep" in again.output
    assert (project / "builder.toml").read_text() == text


def test_a_file_is_made_where_there_is_none(project: Path, use: Use) -> None:
    use(FakeMachine(more_instances))
    assert tune(project, "SMAP_A-1").return_value == 0
    assert load_config(root=project, environ={}).stage_options("SMAP_A-1").instances == 4


def test_a_dry_run_writes_no_settings(project: Path, use: Use) -> None:
    use(FakeMachine(more_instances))
    result = tune(project, "SMAP_A-1", "--dry-run")
    assert "would be written" in result.output
    assert not (project / "builder.toml").exists()


def test_nothing_is_written_where_nothing_is_better(project: Path, use: Use) -> None:
    use(FakeMachine(lambda settings: 100, noise=0.02))
    result = tune(project, "SMAP_A-1")
    assert result.return_value == 0
    assert "keep" in result.output
    assert not (project / "builder.toml").exists()


def test_json_is_all_that_is_printed(project: Path, use: Use) -> None:
    use(FakeMachine(more_instances))
    config = load_config(root=project, environ={})
    result = CliRunner().invoke(
        command, ["SMAP_A-1", "--json", "--concurrency", "2"], obj=config, standalone_mode=False
    )
    data: dict[str, Any] = json.loads(result.stdout)
    assert data["model"] == "SMAP_A-1"
    assert set(data["first"][0]) == {"2"}


def test_a_limit_that_nothing_keeps(project: Path, use: Use) -> None:
    use(FakeMachine(more_instances, p99=lambda settings: 40 / settings["SMAP_A-1"].instances))
    result = tune(project, "SMAP_A-1", "--p99-ms", "5")
    assert result.return_value == 1
    assert "the nearest have 10 ms" in result.output
    assert not (project / "builder.toml").exists()


def test_an_interruption_prints_what_is_known_and_writes_nothing(project: Path, use: Use) -> None:
    machine = FakeMachine(more_instances)

    def interrupted(settings: Mapping[str, StageOptions]) -> bool:
        if machine.turns > 10:
            raise KeyboardInterrupt
        return False

    machine.fails = interrupted
    use(machine)
    result = tune(project, "SMAP_A-1")
    assert result.return_value == 130
    assert "instances 2" in result.output
    assert "nothing was written" in result.output
    assert not (project / "builder.toml").exists()
    assert not (project / "build" / "tune").exists()


def test_measurements_survive_a_failure_in_between(project: Path, use: Use) -> None:
    machine = FakeMachine(more_instances, fails=lambda settings: machine.turns > 8)
    use(machine)
    result = tune(project, "SMAP_A-1")
    assert isinstance(result.exception, BuilderError)
    assert "current settings cannot be measured" in str(result.exception)
    assert (project / "build" / "tune" / "SMAP_A-1.json").is_file()
    assert not (project / "builder.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["SMAP_A1"], UsageError, "did you mean SMAP_A-1"),
        (["omnianomaly_py"], UsageError, "python twin"),
        (["tranad_sat1_ts"], UsageError, "builder tune tranad_sat1"),
        (["dit_step_trt"], UsageError, "builder tune dit_step"),
        (["tranad_sat1"], RepositoryError, "builder build tranad_sat1"),
        (["flux_schnell"], RepositoryError, "builder build flux_schnell"),
        (["../../etc"], UsageError, "no stage or pipeline"),
        ([""], UsageError, "no stage or pipeline"),
    ],
)
def test_models_that_cannot_be_tuned(
    project: Path, arguments: list[str], error: type[BuilderError], message: str
) -> None:
    result = tune(project, *arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--concurrency", "0"],
        ["--concurrency", "a,b"],
        ["--concurrency", ""],
        ["--concurrency", "1,99999"],
        ["--p99-ms", "0"],
        ["--budget", "0"],
        ["--goal", "speed"],
    ],
)
def test_options_that_make_no_sense(project: Path, arguments: list[str]) -> None:
    config = load_config(root=project, environ={})
    assert CliRunner().invoke(command, ["SMAP_A-1", *arguments], obj=config).exit_code == 2


def test_a_file_that_would_not_count_is_told_before_anything_is_measured(
    project: Path, use: Use
) -> None:
    machine = FakeMachine(more_instances)
    use(machine)
    (project / "builder.toml").write_text(
        '[stages."SMAP_A-1"]\ninstances = 1\n[stages."SMAP_*"]\ninstances = 1\n'
    )
    result = tune(project, "SMAP_A-1")
    assert isinstance(result.exception, UsageError)
    assert machine.turns == 0


def test_without_perf_analyzer_the_reason_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(config: Config) -> PerfAnalyzer:
        raise MissingDependencyError("there is no perf_analyzer", hint="put one on PATH")

    monkeypatch.setattr("builder.bench.tool.find_perf_analyzer", absent)
    result = tune(project, "SMAP_A-1")
    assert isinstance(result.exception, MissingDependencyError)

"""Running perf_analyzer: what it writes, and every way in which it can fail."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.bench import perf_analyzer as module
from builder.bench.perf_analyzer import Figures, LoadError, LoadGenerators, merge, read_csv
from builder.bench.served import MOST_WINDOW, window_seconds
from builder.bench.tool import PerfAnalyzer
from builder.errors import BuilderError

from .conftest import HEADER, LINE

Imitate = Callable[[str], PerfAnalyzer]


def _start(tool: PerfAnalyzer, folder: Path, count: int = 1) -> LoadGenerators:
    targets = [(f"model-{number}", folder / "input.json") for number in range(count)]
    return LoadGenerators(
        tool, "127.0.0.1:1", targets, concurrency=1, window=0.01, folder=folder / "runs"
    )


def test_the_csv_gives_throughput_and_percentiles(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_text(f"{HEADER}\n{LINE}\n\n")
    assert read_csv(path) == Figures(2771.27, 1.312, 1.835, 1.972, 2.975)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """Models with a response cache have two more columns."""
    path = tmp_path / "report.csv"
    header = HEADER.replace("Client Recv", "Server Cache Hit,Server Cache Miss,Client Recv")
    path.write_text(
        f"{header}\n4,49.6,10,26061,3,195,52192,228,0,0,4,75673,85606,88966,177347,7,1,7\n"
    )
    assert read_csv(path) == Figures(49.6, 75.673, 85.606, 88.966, 177.347)


@pytest.mark.parametrize(
    "text", ["", HEADER, f"{HEADER}\n4,many", f"{HEADER}\n{LINE}\n{LINE}\n", "a,b\n1,2\n"]
)
def test_a_csv_without_the_figures_of_one_run_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.csv"
    path.write_text(text)
    with pytest.raises(LoadError, match="no figures"):
        read_csv(path)


def test_load_generators_that_ran_together_add_up() -> None:
    merged = merge([Figures(300, 1, 2, 3, 4), Figures(100, 5, 6, 7, 8)])
    assert merged == Figures(400, 2, 3, 4, 5)
    assert merge([Figures(0, 0, 0, 0, 0)]).per_second == 0


def test_several_run_at_the_same_time(imitated: Imitate, tmp_path: Path) -> None:
    generators = _start(imitated("time.sleep(0.3); write()"), tmp_path, count=5)
    assert len(set(generators.pids)) == 5
    assert generators.wait(slack=0).per_second == pytest.approx(5 * 2771.27)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('no route to host'); sys.exit(99)", "status 99: no route to host"),
        ("os.kill(os.getpid(), 9)", "status -9"),
        ("pass", "no figures"),
        ("open(report, 'w').write('No space left')", "no figures"),
    ],
)
def test_a_failure_is_named(imitated: Imitate, tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        _start(imitated(code), tmp_path).wait(slack=0)


def test_windows_are_long_enough_for_slow_models_but_never_endless() -> None:
    assert window_seconds(3.6, 0.001, 1, 8) == pytest.approx(1.0)
    assert window_seconds(1.0, 0.5, 1, 1) == pytest.approx(4.0)  # eight answers
    assert window_seconds(1.0, 0.01, 27, 27) == pytest.approx(27 * 8 * 0.01)
    assert window_seconds(1.0, 0.1, 1, 64) == pytest.approx(12.8)
    assert window_seconds(1.0, 100.0, 1, 1) == MOST_WINDOW


def test_one_that_hangs_is_ended_with_the_others(
    imitated: Imitate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_START_SECONDS", 1.0)
    tool = imitated("print('measuring', flush=True); time.sleep(600)")
    generators = _start(tool, tmp_path, count=2)
    start = time.monotonic()
    with pytest.raises(LoadError, match="was not done after 1 s; its last words: measuring"):
        generators.wait(slack=0)
    assert time.monotonic() - start < 30
    assert not generators.running


def test_an_old_report_is_never_read_again(imitated: Imitate, tmp_path: Path) -> None:
    assert _start(imitated("write()"), tmp_path).wait(slack=0)
    with pytest.raises(LoadError, match="no figures"):
        _start(imitated("pass"), tmp_path).wait(slack=0)


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="starting perf_analyzer"):
        _start(PerfAnalyzer(tmp_path / "nothing", "2.48.0"), tmp_path)

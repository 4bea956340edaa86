"""Measuring on real servers while things go wrong: what is left is measured, and the rest named."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from builder.bench.case import Case, Load, Variant
from builder.bench.results import FLOOR, NATIVE, PYTHON, Report
from builder.bench.runner import Benchmark, Settings
from builder.bench.tool import PerfAnalyzer
from builder.config import Config
from builder.stage import Arrays

Imitate = Callable[[str], PerfAnalyzer]

SETTINGS = Settings(rounds=2, seconds=0.3, concurrency=(2,))

SEND = """
import numpy as np, tritonclient.grpc as grpc
client = grpc.InferenceServerClient(url)
tensor = grpc.InferInput('input_data', [100, 25], 'FP32')
tensor.set_data_from_numpy(np.zeros((100, 25), np.float32))
for _ in range(30):
    client.infer(model, [tensor])
    time.sleep(0.01)
write()
"""
"""Does what perf_analyzer does, on a small scale."""

KILL_ONCE = """
from pathlib import Path
marker = Path(__file__).with_name('killed')
if model == 'SMAP_A-2' and not marker.exists():
    marker.touch()
    for entry in Path('/proc').iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / 'cmdline').read_bytes().decode().split(chr(0))
            except OSError:
                continue
            if 'tritonserver' in words[0] and f"--grpc-port={url.rpartition(':')[2]}" in words:
                os.kill(int(entry.name), 9)
    time.sleep(0.3)
    sys.exit('connection refused')
"""


def _windows(tensor: str = "input_data") -> Sequence[Arrays]:
    rng = np.random.default_rng(0)
    return [{tensor: rng.random((100, 25), np.float32)} for _ in range(3)]


def _case(config: Config, **models: str) -> Case:
    variants = [Variant(name=name, loads=(Load(m, _windows),)) for name, m in models.items()]
    return Case(name="case", title="", unit="", request="", variants=tuple(variants), config=config)


def _measure(case: Case, tool: PerfAnalyzer | None, settings: Settings = SETTINGS) -> Report:
    benchmark = Benchmark([case], settings, tool)
    benchmark.run()
    assert benchmark.complete is (not benchmark.problems)
    return benchmark.report()


def _counts(report: Report) -> dict[str, int]:
    names = [run.variant for run in report.runs]
    return {name: names.count(name) for name in names}


@pytest.fixture
def with_bad_twin(few: Config, tmp_path: Path) -> Config:
    """The built models, and a python model that fails to load."""
    repository = tmp_path / "model_repository"
    model = repository / "python" / "bad_py" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text("raise ValueError('no luck today')\n")
    (model.parents[1] / "config.pbtxt").write_text(
        'name: "bad_py"\nbackend: "python"\n'
        'input [{ name: "input_data" data_type: TYPE_FP32 dims: [ -1, 25 ] }]\n'
        'output [{ name: "anomaly_score" data_type: TYPE_FP32 dims: [ -1 ] }]\n'
    )
    (repository / "onnx").symlink_to(few.repository / "onnx")
    return replace(few, root=tmp_path, paths=replace(few.paths, build=few.build_dir))


def test_the_variants_take_turns(few: Config, imitated: Imitate) -> None:
    case = _case(few, native="SMAP_A-1", other="SMAP_A-2", floor="SMAP_A-1")
    report = _measure(case, imitated(SEND))
    assert [run.variant for run in report.runs] == [
        *(NATIVE, "other", FLOOR),
        *(FLOOR, "other", NATIVE),
    ]
    assert [run.round for run in report.runs] == [0, 0, 0, 1, 1, 1]
    for run in report.runs:
        if run.variant == FLOOR:
            assert run.stages == ()
            continue
        [stage] = run.stages
        assert stage.model == run.models[0]
        # 30 requests; the figures of the load generator are imitated ones.
        assert (stage.inferences, stage.batch_sizes) == (30, {"1": 30})
        assert 0 < run.requests <= 30
        assert 0 < run.seconds < 60
        assert run.per_second == 2771.27
        assert (run.usage.server_mib or 0) > 10


def test_a_missing_twin_is_named_and_the_rest_measured(few: Config, imitated: Imitate) -> None:
    case = _case(few, native="SMAP_A-1", python="nowhere_py")
    report = _measure(case, imitated(SEND))
    assert _counts(report) == {NATIVE: 2}
    [problem] = report.problems
    assert problem.where == "case python"
    assert "no model nowhere_py" in problem.what
    assert "written by hand" in problem.hint


def test_a_twin_that_does_not_load_is_named_with_the_reason(
    with_bad_twin: Config, imitated: Imitate
) -> None:
    case = _case(with_bad_twin, native="SMAP_A-1", python="bad_py")
    report = _measure(case, imitated(SEND))
    assert _counts(report) == {NATIVE: 2}
    [problem] = report.problems
    assert problem.where == "case python"
    assert "no luck today" in problem.what


def test_a_variant_that_refuses_the_requests_is_named(few: Config, imitated: Imitate) -> None:
    case = _case(few, native="SMAP_A-1")
    wrong = Variant(name="wrong", loads=(Load("SMAP_A-2", partial(_windows, "nonsense")),))
    report = _measure(replace(case, variants=(*case.variants, wrong)), imitated(SEND))
    assert _counts(report) == {NATIVE: 2}
    [problem] = report.problems
    assert problem.where == "case wrong"
    assert "nonsense" in problem.what


def test_a_server_that_dies_is_started_again(few: Config, imitated: Imitate) -> None:
    case = _case(few, native="SMAP_A-1", other="SMAP_A-2")
    report = _measure(case, imitated(KILL_ONCE + SEND))
    assert _counts(report) == {NATIVE: 2, "other": 1}
    [problem] = report.problems
    assert problem.where == "case other"
    assert "the server died" in problem.what


def test_a_load_generator_that_always_fails_is_given_up(few: Config, imitated: Imitate) -> None:
    fails = "if model == 'SMAP_A-2': sys.exit('no luck')\n"
    settings = replace(SETTINGS, rounds=4)
    case = _case(few, native="SMAP_A-1", other="SMAP_A-2")
    report = _measure(case, imitated(fails + SEND), settings)
    assert _counts(report) == {NATIVE: 4}
    [problem] = report.problems
    assert "no luck" in problem.what


def test_load_generators_at_the_same_time_are_counted_by_the_server(
    few: Config, imitated: Imitate
) -> None:
    """What they say adds up to more than there was, if they do not start together."""
    loads = (Load("SMAP_A-1", _windows), Load("SMAP_A-2", _windows))
    variant = Variant(name=NATIVE, loads=loads)
    case = replace(_case(few, native="SMAP_A-1"), variants=(variant,), concurrency=(2,))
    report = _measure(case, imitated(SEND.replace("range(30)", "range(100)")))
    for run in report.runs:
        assert 0 < run.per_second < 2 * 100  # each waits 10 ms between two requests
        assert {stage.model: stage.inferences for stage in run.stages} == {
            "SMAP_A-1": 100,
            "SMAP_A-2": 100,
        }


def test_a_model_that_is_never_steady_is_marked(few: Config, imitated: Imitate) -> None:
    uneven = SEND.replace("range(30)", "range(60)")
    uneven = uneven.replace("time.sleep(0.01)", "time.sleep(0.001 if _ < 45 else 0.08)")
    report = _measure(_case(few, native="SMAP_A-1"), imitated(uneven))
    assert [run.stable for run in report.runs] == [False, False]


def test_a_window_that_is_too_short_is_made_longer(few: Config, imitated: Imitate) -> None:
    """As perf_analyzer puts it: status 3, "No valid requests recorded within time interval"."""
    short = "if float(given['--measurement-interval']) < 200: sys.exit(3)\n"
    report = _measure(_case(few, native="SMAP_A-1"), imitated(short + SEND))
    assert _counts(report) == {NATIVE: 2}


def test_requests_that_fail_make_no_figures(few: Config, imitated: Imitate) -> None:
    """A model that refuses fast must not look fast."""
    wrong = SEND.replace("[100, 25]", "[100, 24]").replace("(100, 25)", "(100, 24)")
    wrong = wrong.replace("    client.infer(model, [tensor])", "    infer()")
    define = (
        "def infer():\n    try:\n        client.infer(model, [tensor])\n"
        "    except Exception: pass\n"
    )
    report = _measure(_case(few, native="SMAP_A-1"), imitated(define + wrong))
    assert report.runs == ()
    [problem] = report.problems
    assert "answered no request" in problem.what


def test_without_perf_analyzer_the_floor_is_measured(few: Config) -> None:
    report = _measure(_case(few, native="SMAP_A-1", floor="SMAP_A-1"), None)
    assert _counts(report) == {FLOOR: 2}
    [problem] = report.problems
    assert problem.where == "perf_analyzer"


def test_an_interruption_leaves_what_was_measured(few: Config) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    settings = replace(SETTINGS, rounds=5)
    benchmark = Benchmark([_case(few, floor="SMAP_A-1")], settings, None, interrupt)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run()
    assert len(benchmark.report().runs) == 2
    assert not benchmark.complete


def test_a_full_disk_is_named(
    few: Config, imitated: Imitate, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(path: Path, *args: object, **kwargs: object) -> int:
        if "requests" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    report = _measure(_case(few, native="SMAP_A-1", floor="SMAP_A-1"), imitated(SEND))
    assert _counts(report) == {FLOOR: 2}
    [problem] = report.problems
    assert "No space left on device" in problem.what
    assert "free some space" in problem.hint


def test_a_case_that_cannot_be_prepared_does_not_stop_the_others(few: Config) -> None:
    def broken() -> None:
        from builder.errors import ExportError

        raise ExportError("no luck", hint="try again")

    first = replace(_case(few, floor="SMAP_A-1"), name="first", prepare=broken)
    benchmark = Benchmark([first, _case(few, floor="SMAP_A-1")], SETTINGS, None)
    benchmark.run()
    assert [run.case for run in benchmark.runs] == ["case", "case"]
    [problem] = benchmark.problems
    assert (problem.where, problem.what, problem.hint) == ("first", "no luck", "try again")


def test_plans_are_left_to_servers_that_can_load_them(
    with_bad_twin: Config, imitated: Imitate
) -> None:
    (with_bad_twin.repository / "tensorrt" / "SMAP_A-1_trt").mkdir(parents=True)
    report = _measure(_case(with_bad_twin, native="SMAP_A-1", trt="SMAP_A-1_trt"), imitated(SEND))
    assert _counts(report) == {NATIVE: 2}
    [problem] = report.problems
    assert "no tensorrt backend" in problem.what


def test_python_is_not_served_where_only_native_is_measured(few: Config) -> None:
    """Stubs that nobody asked for would take memory, and seconds to start."""
    from builder.bench.served import CaseServer

    case = _case(few, native="SMAP_A-1")
    server = CaseServer(case, case.variants)
    assert server.selection.names == ("SMAP_A-1",)
    assert PYTHON not in {group for group, names in server.selection.groups.items() if names}

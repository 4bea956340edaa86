"""Steps in processes of their own: whatever one does, the others run and the report is written."""

import json
import sys
from pathlib import Path

from builder.preflight.isolated import Report, StepResult, run_isolated

WRITE = "import sys, json; json.dump({'n': 1}, open(sys.argv[1], 'w'))"
BODIES = {
    "good": WRITE,
    "raises": "print('said before'); raise RuntimeError('no kernel')",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs": "import time; time.sleep(60)",
    "silent": "pass",
    "wrong": "import sys; open(sys.argv[1], 'w').write('[1')",
    "last": WRITE,
}


def command(name: str, file: Path) -> list[str]:
    return [sys.executable, "-c", BODIES[name], str(file)]


def test_every_step_has_its_result_whatever_the_others_do(tmp_path: Path) -> None:
    seen: list[str] = []
    results = run_isolated(
        [*BODIES, "unwanted"],
        command,
        tmp_path,
        skip=lambda name: "not today" if name == "unwanted" else "",
        timeout=3.0,
        started=seen.append,
    )
    by_name = {result.name: result for result in results}
    assert seen == list(BODIES)
    assert [r.status for r in results] == ["passed", *["failed"] * 5, "passed", "skipped"]
    assert by_name["good"].measured == {"n": 1}
    assert "no kernel" in by_name["raises"].why
    assert "said before" in by_name["raises"].why
    assert by_name["crashes"].why.startswith("ended by SIGSEGV")
    assert by_name["hangs"].why == "took longer than 3 s"
    assert by_name["silent"].why.startswith("left no result")
    assert by_name["wrong"].why.startswith("left no result")
    assert by_name["unwanted"] == StepResult("unwanted", "skipped", "not today")


def test_a_result_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "silent.json").write_text("{}")
    assert run_isolated(["silent"], command, tmp_path)[0].status == "failed"


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    result = run_isolated(["x"], lambda name, file: ["/nowhere/program"], tmp_path)[0]
    assert result.status == "failed"
    assert "could not be started" in result.why


def report(*statuses: str) -> Report:
    steps = [StepResult(f"s{i}", s, "a|b\nc") for i, s in enumerate(statuses)]  # type: ignore[arg-type]
    return Report("GPU check on X", {"GPU": "X"}, ["Y"], steps)


def test_a_report_is_good_only_if_something_passed_and_nothing_failed() -> None:
    assert report("passed", "skipped").ok
    assert not report("passed", "failed").ok
    assert not report("skipped", "skipped").ok
    assert not report().ok


def test_the_report_is_written_for_machines_and_for_people(tmp_path: Path) -> None:
    steps = [
        StepResult("build", "passed", "", 1.25, {"ms": 3}),
        StepResult("b", "failed", "a|b\nc"),
    ]
    paths = Report("GPU check on X", {"GPU": "X"}, ["Y"], steps).write(tmp_path / "new")
    document = json.loads(paths[0].read_text())
    assert (document["ok"], document["environment"]["GPU"]) == (False, "X")
    assert document["steps"][0]["measured"] == {"ms": 3}
    text = paths[1].read_text()
    assert text.startswith("# GPU check on X\n")
    assert "- missing: Y" in text
    assert "| build | passed | 1.2 |  |" in text
    assert "| b | failed | 0.0 | a\\|b c |" in text
    assert '"ms": 3' in text

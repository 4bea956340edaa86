"""perf_analyzer, real and imitated."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.bench.tool import PerfAnalyzer, find_perf_analyzer
from builder.config import Config, load_config
from builder.errors import MissingDependencyError

ROOT = Path(__file__).parents[2]

HEADER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,"
    "Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,"
    "p50 latency,p90 latency,p95 latency,p99 latency,Avg latency,request/response,response wait"
)
"""What perf_analyzer 2.48.0 wrote; so the line below."""
LINE = "4,2771.27,3,379,750,4,291,0,2,1312,1835,1972,2975,1430,5,1410"


@pytest.fixture(scope="session")
def perf_analyzer() -> PerfAnalyzer:
    """The real one, unpacked into the project's own build folder; skips where it cannot be had."""
    try:
        return find_perf_analyzer(load_config(root=ROOT, environ={}), path=os.defpath)
    except MissingDependencyError as error:
        pytest.skip(f"no perf_analyzer here: {error}")


@pytest.fixture
def imitated(tmp_path: Path) -> Callable[[str], PerfAnalyzer]:
    """Makes a perf_analyzer out of code, which has `report`, `model`, `url` and `write()`."""

    def make(code: str) -> PerfAnalyzer:
        program = tmp_path / "bin" / "perf_analyzer"
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, sys, time\n"
            "if '--version' in sys.argv:\n"
            "    print('Perf Analyzer Version 2.48.0 (commit unknown)', file=sys.stderr)\n"
            "    sys.exit()\n"
            "given = dict(zip(sys.argv[1:], sys.argv[2:]))\n"
            "report, model, url = given['-f'], given['-m'], given['-u']\n"
            f"def write():\n    open(report, 'w').write({HEADER + chr(10) + LINE + chr(10)!r})\n"
            f"{code}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return PerfAnalyzer(program, "2.48.0")

    return make


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A few models of the anomaly family, built in a folder of their own, and its twins."""
    from builder.build.execute import execute
    from builder.build.plan import make_context, make_plan
    from builder.family import Registry

    root = tmp_path_factory.mktemp("few")
    (root / "model_repository").mkdir()
    (root / "model_repository" / "python").symlink_to(ROOT / "model_repository" / "python")
    for folder in (ROOT / "build" / "backends", root / "build"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "build" / "backends").symlink_to(ROOT / "build" / "backends")
    config = load_config(root=root, environ={})
    context = make_context(config, Registry.load(config))
    plan = make_plan(context, ["SMAP_A-1", "SMAP_A-2", "multi_detector"])
    outcomes = execute(plan, context.digests)
    assert all(outcome.ok for outcome in outcomes.values())
    return config

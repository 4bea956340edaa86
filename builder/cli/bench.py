"""`builder bench`: native pipelines against their python twins, measured by perf_analyzer."""

import signal
from pathlib import Path
from types import FrameType

import click

from builder.bench.runner import Settings
from builder.config import Config

_REPORT = "report.json"
_QUICK = Settings(rounds=1, seconds=1.0, concurrency=(1, 8))


def _words(values: tuple[str, ...]) -> list[str]:
    return [word.strip() for value in values for word in value.split(",") if word.strip()]


def _levels(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        levels = tuple(dict.fromkeys(int(word) for word in value.split(",") if word.strip()))
    except ValueError:
        levels = ()
    if value and (not levels or min(levels) < 1 or max(levels) > 1024):
        raise click.BadParameter(f"{value!r} is no list of numbers of clients, such as 1,8")
    return levels


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command("bench")
@click.option(
    "--pipelines",
    multiple=True,
    metavar="NAME",
    help="Cases or models: names or patterns, repeated or separated by commas.  [default: all]",
)
@click.option(
    "--variants", multiple=True, metavar="NAME", help="native, python, trt, floor.  [default: all]"
)
@click.option(
    "--concurrency",
    default="",
    callback=_levels,
    metavar="N,…",
    help="Numbers of clients.  [default: 1,4,8,16]",
)
@click.option("--rounds", type=click.IntRange(1, 100), help="Turns of each variant.  [default: 3]")
@click.option(
    "--seconds",
    type=click.FloatRange(0.2, 600),
    help="Length of a measurement; slow models take longer.  [default: 2.5]",
)
@click.option("--quick", is_flag=True, help="One short round, small models, in under two minutes.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="REPORT",
    help="Compare with an older report.json.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench"),
    show_default=True,
    help="Folder for the reports.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_obj
def command(
    config: Config,
    /,
    *,
    pipelines: tuple[str, ...],
    variants: tuple[str, ...],
    concurrency: tuple[int, ...],
    rounds: int | None,
    seconds: float | None,
    quick: bool,
    against: Path | None,
    output: Path,
    as_json: bool,
) -> int:
    """Measure what is gained over the python backend, on this machine.

    Both answer the same requests, in turn, from one server that has nothing else to do. The floor
    is the same ONNX model in ONNX Runtime without a server.

    The exit code is 1 if something could not be measured, or if a figure of a native variant is
    worse, by more than noise, than in the report at --against.
    """
    from rich.console import Console

    from builder.bench.case import all_cases, select_cases
    from builder.bench.compare import regressions
    from builder.bench.render import write_reports
    from builder.bench.results import read_report
    from builder.bench.runner import Benchmark
    from builder.bench.terminal import print_report
    from builder.cli._progress import progress_bar
    from builder.errors import BuilderError
    from builder.files import write_atomic

    older = None if against is None else read_report(against)
    base = _QUICK if quick else Settings()
    settings = Settings(
        rounds=rounds or base.rounds,
        seconds=seconds or base.seconds,
        concurrency=concurrency or base.concurrency,
    )
    cases = select_cases(all_cases(config), _words(pipelines), _words(variants), quick=quick)
    benchmark = Benchmark(cases, settings)
    console = Console(stderr=True)
    interrupted = False
    with progress_bar(console) as bar:
        task = bar.add_task("perf_analyzer", total=settings.count(cases))
        benchmark.progress = lambda what, done, total: bar.update(
            task, description=what, completed=done
        )
        benchmark.saved = lambda report: write_atomic(output / _REPORT, report.to_json().encode())
        # SIGTERM is like Ctrl-C: nothing is left running, and the report is written.
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            benchmark.find_tool(config)
            benchmark.run()
        except KeyboardInterrupt:
            interrupted = True
            benchmark.note("builder bench", "was interrupted: the report has what was measured")
        finally:
            signal.signal(signal.SIGTERM, before)
    report = benchmark.report()
    unwritten: BuilderError | None = None
    try:
        files = write_reports(report, output, older)
    except BuilderError as error:
        files, unwritten = [], error
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        print_report(report, older)
        if files:
            click.echo("written: " + ", ".join(str(file) for file in files))
    if unwritten is not None:
        raise unwritten
    if interrupted:
        return 130
    worse = older is not None and regressions(report, older)
    return 0 if benchmark.complete and not worse else 1

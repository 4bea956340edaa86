"""`builder tune`: search the settings of a model by measuring them, and keep what is better."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.config import Config
from builder.errors import BuilderError

if TYPE_CHECKING:
    from rich.console import Console

    from builder.tune.judge import Goal
    from builder.tune.tuner import Tuner


_PAGE_WIDTH = 160


def _levels(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        levels = tuple(dict.fromkeys(int(word) for word in value.split(",") if word.strip()))
    except ValueError:
        levels = ()
    if not levels or min(levels) < 1 or max(levels) > 1024:
        raise click.BadParameter(f"{value!r} is no list of numbers of clients, such as 1,8")
    return levels


@click.command("tune")
@click.argument("model")
@click.option(
    "--goal",
    type=click.Choice(["throughput", "latency"]),
    default="throughput",
    show_default=True,
    help="Requests per second, or p50 and p99.",
)
@click.option(
    "--p99-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="LIMIT",
    help="Accept no settings whose p99 is above this, at any concurrency.",
)
@click.option(
    "--concurrency",
    default="1,8",
    show_default=True,
    callback=_levels,
    metavar="N,…",
    help="Numbers of clients; every one counts the same.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=1),
    default=240.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to search.",
)
@click.option("--dry-run", is_flag=True, help="Measure, but leave builder.toml as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print every measurement as JSON.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    model: str,
    goal: "Goal",
    p99_ms: float | None,
    concurrency: tuple[int, ...],
    budget: float,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Search instances, threads, batching and queue delay of MODEL on the real server.

    MODEL is a stage, or a pipeline whose stages are searched one after the other under the
    pipeline's own load. What beats the current settings beyond noise is written to builder.toml.
    """
    from rich.console import Console

    from builder.bench.machine import describe_machine, describe_versions
    from builder.bench.tool import find_perf_analyzer
    from builder.cli._progress import progress_bar
    from builder.family import Registry
    from builder.files import write_atomic
    from builder.serving.installations import find_installation
    from builder.tune.arena import Arena
    from builder.tune.judge import Judge
    from builder.tune.report import to_json
    from builder.tune.space import changes
    from builder.tune.subject import find_subject
    from builder.tune.tuner import Tuner
    from builder.tune.write import check_writable, write_settings

    config = context.obj
    assert isinstance(config, Config)
    subject = find_subject(config, Registry.load(config), model)
    file = context.find_root().params.get("config_file") or config.root / "builder.toml"
    names = [stage.name for stage in subject.stages]
    if not dry_run:
        check_writable(file, names)
    before = {s.name: config.stage_options(s.name, s.serving) for s in subject.stages}
    installation = find_installation(config.server.server, release=config.server.container)
    tool = find_perf_analyzer(config)
    if tool.remark:
        click.echo(f"perf_analyzer: {tool.remark}", err=True)
    # In a file or a pipe the tables need not fit a terminal.
    console = Console(stderr=as_json, width=None if Console().is_terminal else _PAGE_WIDTH)
    interrupted = False
    with Arena(config, subject, tool, concurrency) as arena, progress_bar(console) as bar:
        tuner = Tuner(
            arena,
            subject.stages,
            before,
            Judge(goal, p99_ms),
            cores=len(os.sched_getaffinity(0)),
            budget=budget,
        )
        task = bar.add_task("starting", total=round(budget))
        tuner.progress = lambda what, spent: bar.update(
            task, description=what, completed=min(round(spent), round(budget))
        )
        failure: BuilderError | None = None
        try:
            tuner.run()
        except KeyboardInterrupt:
            interrupted = True
        except BuilderError as error:
            failure = error
    kept = not interrupted and failure is None and tuner.nearest_p99 is None
    found = {name: changes(options, before[name]) for name, options in tuner.changed.items()}
    written: str | None = None
    if kept and found and not dry_run:
        write_settings(file, found, f"{goal} at {','.join(map(str, concurrency))} clients")
        written = str(file)
    data = to_json(
        tuner,
        model=model,
        request=subject.request,
        machine=describe_machine(),
        versions=describe_versions(installation, tool.version),
        written=written,
    )
    if not interrupted:
        write_atomic(
            config.build_dir / "tune" / f"{model}.json",
            (json.dumps(data, indent=1) + "\n").encode(),
        )
    if as_json:
        click.echo(json.dumps(data, indent=1))
    else:
        _print(tuner, console, found, written, file, dry_run=dry_run, kept=kept)
    if failure is not None:
        raise failure
    if interrupted:
        click.echo("interrupted; nothing was written", err=True)
        return 130
    if tuner.nearest_p99 is not None:
        click.echo(
            f"no settings keep p99 within {p99_ms:g} ms; the nearest have "
            f"{tuner.nearest_p99:.3g} ms; nothing was written",
            err=True,
        )
        return 1
    return 0


def _print(
    tuner: "Tuner",
    console: "Console",
    found: dict[str, dict[str, object]],
    written: str | None,
    file: Path,
    *,
    dry_run: bool,
    kept: bool,
) -> None:
    from builder.tune.report import print_result

    print_result(tuner, console)
    if not kept:
        return
    console.print()
    if not found:
        console.print("[bold]keep[/bold] the current settings: nothing is better beyond noise")
        return
    verb = "would be written to" if dry_run else "written to"
    console.print(f"[green]better[/green], {verb} {written or file}:", highlight=False)
    for name, values in found.items():
        console.print(f'  [stages."{name}"]', markup=False, highlight=False)
        for key, value in values.items():
            text = json.dumps(value)
            console.print(f"  {key} = {text}", markup=False, highlight=False)
    if written:
        command = f"builder build {' '.join(found)}"
        console.print(f"publish them with: [bold]{command}[/bold]", highlight=False)

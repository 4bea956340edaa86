"""`builder build`: export, prove, build, publish, lint, verify; only what is out of date."""

import json
import time
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from builder.build.action import Action
from builder.build.execute import Listener, Outcome, exclusive, execute
from builder.build.plan import Context, make_context, make_plan
from builder.build.verify import Verification, read_verification, verification_digest, verify
from builder.config import Config
from builder.errors import BuilderError
from builder.family import Registry


@click.command()
@click.argument("models", nargs=-1)
@click.option("--family", "families", multiple=True, help="Only this family; repeatable.")
@click.option("--target", "targets", multiple=True, help="Target: cpu, sm90, ...; repeatable.")
@click.option("--as-version", type=int, help="Publish as this version beside the others.")
@click.option("--force", is_flag=True, help="Build even what is up to date.")
@click.option("--no-verify", is_flag=True, help="Do not start a server for the last proof.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(
    config: Config,
    models: tuple[str, ...],
    families: tuple[str, ...],
    targets: tuple[str, ...],
    as_version: int | None,
    force: bool,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Build MODELS (names or patterns; all by default) and everything that they need.

    Exports each stage, compares it with its source, builds the engines, compares those with the
    export, writes the ensembles, checks the repository and lets a real server load all of it
    and answer one golden request per model. Only what is out of date is made again.
    """
    start = time.perf_counter()
    # "sm80,sm90" and repeated options are both understood.
    config = config.replace("build", families=families or None, targets=_split(targets) or None)
    registry = Registry.load(config)
    context = make_context(config, registry, as_version)
    plan = make_plan(context, models)
    console = Console(stderr=True)
    with exclusive(config.build_dir):
        outcomes = _execute(context, plan, force, console)
        findings = _lint(context, outcomes)
        verification = None
        failed = [o for o in outcomes.values() if not o.ok]
        if not no_verify and not failed and not findings:
            verification = _verify(context, plan, force, console)
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps(_to_json(outcomes, findings, verification, seconds), indent=1))
    else:
        from builder.cli._report import print_report

        print_report(plan, outcomes, findings, verification, seconds)
    if failed or findings or (verification is not None and not verification.ok):
        raise click.exceptions.Exit(1)


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split(",") if part)


def _execute(
    context: Context, plan: list[Action], force: bool, console: Console
) -> dict[Action, Outcome]:
    with _progress(console) as progress:
        task = progress.add_task("build", total=None, visible=False)

        def started(count: int) -> None:
            progress.update(task, total=count, visible=count > 0)

        def taking(action: Action) -> None:
            progress.update(task, description=str(action))

        def taken(action: Action, outcome: Outcome) -> None:
            progress.advance(task)

        return execute(
            plan, context.digests, force=force, listener=Listener(started, taking, taken)
        )


def _lint(context: Context, outcomes: dict[Action, Outcome]) -> list[Any]:
    """Lint the repository if anything was written."""
    if not any(outcome.status == "made" for outcome in outcomes.values()):
        return []
    from builder.lint import lint
    from builder.repository.layout import NATIVE_GROUPS

    groups = [context.config.repository / group for group in NATIVE_GROUPS]
    findings = lint([group for group in groups if group.is_dir()], digests=context.digests)
    return [finding for finding in findings if finding.severity == "error"]


def _verify(
    context: Context, plan: list[Action], force: bool, console: Console
) -> Verification | None:
    """Verify on a real server, unless just this was verified before."""
    last = read_verification(context.config.build_dir)
    if last is not None and not force and last.digest == verification_digest(context, plan):
        return last
    with _progress(console) as progress:
        task = progress.add_task("starting the server")

        def update(model: str, done: int, count: int) -> None:
            progress.update(task, description=f"serving {model}", completed=done, total=count)

        return verify(context, plan, update)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _to_json(
    outcomes: dict[Action, Outcome],
    findings: list[Any],
    verification: Verification | None,
    seconds: float,
) -> dict[str, Any]:
    def entry(action: Action, outcome: Outcome) -> dict[str, Any]:
        record, error = outcome.record, outcome.error
        return {
            "artefact": action.artefact,
            "model": action.model,
            "status": outcome.status,
            "reasons": list(outcome.reasons),
            "error": _error_json(error) if error else None,
            "parity": record.measured.get("parity", {}).get("worst") if record else None,
            "seconds": record.measured.get("seconds") if record else None,
            "bytes": sum(int(f["size"]) for f in record.files.values()) if record else None,
        }

    served = verification.models if verification else {}
    return {
        "seconds": round(seconds, 3),
        "actions": [entry(action, outcome) for action, outcome in outcomes.items()],
        "findings": [str(finding) for finding in findings],
        "served": {
            name: {
                "load_ms": s.load_ms,
                "latency_ms": s.latency_ms,
                "worst": s.worst,
                "error": s.error,
            }
            for name, s in served.items()
        },
    }


def _error_json(error: BuilderError) -> dict[str, str | None]:
    return {"what": error.what, "where": error.where, "hint": error.hint}

"""`builder build`: export, prove, build, publish, lint, verify; only what is out of date."""

import json
import time
from typing import Any

import click
from rich.console import Console

from builder.build.action import Action
from builder.build.execute import Outcome, exclusive
from builder.build.plan import Context, make_context, make_plan, select
from builder.build.stale_plans import stale_plans
from builder.build.verify import Verification, read_verification, verification_digest, verify
from builder.cli._execute import execute_shown
from builder.cli._progress import progress_bar
from builder.config import Config
from builder.engines.trt.gpu import INSTALL, local_gpus, tensorrt_version
from builder.errors import BuilderError
from builder.family import Registry
from builder.target import AUTO


@click.command()
@click.argument("models", nargs=-1)
@click.option("--family", "families", multiple=True, help="Only this family; repeatable.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Build for sm90, sm80,sm90, ... or auto (the GPUs here); repeatable. The ONNX engines, "
    "which run anywhere, are always built.",
)
@click.option(
    "--missing", is_flag=True, help="Only models whose TensorRT plans are missing or out of date."
)
@click.option(
    "--in-container",
    "release",
    metavar="26.07",
    help="Build inside this release of the official container, so that plans match its server; "
    "without Docker or a GPU, print the command instead.",
)
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
    missing: bool,
    release: str | None,
    as_version: int | None,
    force: bool,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Build MODELS (names or patterns; all by default) and everything that they need.

    Exports each stage, compares it with its source, builds the engines, compares those with the
    export, writes the ensembles, checks the repository and lets a real server load all of it
    and answer one golden request per model. Only what is out of date is made again.

    TensorRT plans are built on the kind of GPU that runs them: run `builder build` on one machine
    of each kind, with the same model repository. None takes away what another one has added.
    """
    if release is not None:
        from builder.preflight.container import build_in_container

        words = [*_options("--family", families), *_options("--target", targets)]
        words += _options("--as-version", () if as_version is None else (str(as_version),))
        flags = {"missing": missing, "force": force, "no-verify": no_verify, "json": as_json}
        words += [f"--{name}" for name, given in flags.items() if given]
        code = build_in_container(config, release, [*words, "--", *models])
        raise click.exceptions.Exit(code)
    start = time.perf_counter()
    # "sm80,sm90" and repeated options are both understood.
    config = config.replace("build", families=families or None, targets=_split(targets) or None)
    registry = Registry.load(config)
    context = make_context(config, registry, as_version)
    context.force = force
    console = Console(stderr=True)
    if missing:
        models = _missing(context, models)
    plan = make_plan(context, models) if models or not missing else []
    if notice := _gpu_notice(config, context):
        console.print(notice, highlight=False)
    with exclusive(config.build_dir):
        outcomes = execute_shown(plan, context, force=force, console=console)
        findings = _lint(context, outcomes)
        verification = None
        failed = [o for o in outcomes.values() if not o.ok]
        if not no_verify and not failed and not findings:
            verification = _verify(context, plan, force, console)
    seconds = time.perf_counter() - start
    stale = stale_plans(context, plan)
    if as_json:
        document = _to_json(outcomes, findings, verification, seconds)
        document["stale_plans"] = [str(plan.path) for plan in stale]
        click.echo(json.dumps(document, indent=1))
    else:
        from builder.cli._report import print_report, print_stale_plans

        print_report(plan, outcomes, findings, verification, seconds)
        print_stale_plans(stale)
    if failed or findings or (verification is not None and not verification.ok):
        raise click.exceptions.Exit(1)


def _options(name: str, values: tuple[str, ...]) -> list[str]:
    return [f"{name}={value}" for value in values]


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for value in values for part in value.split(",") if part)


def _missing(context: Context, models: tuple[str, ...]) -> tuple[str, ...]:
    """Stages among MODELS that lack a plan for a target of this build."""
    from builder.preflight.fleet import missing

    registry = context.registry
    chosen = select(models, registry)
    members = {
        s.model for n in chosen if n in registry.pipelines for s in registry.pipelines[n].steps
    }
    found = missing(context.config, registry, context.targets)
    return tuple(dict.fromkeys(name for name, _ in found if name in chosen or name in members))


def _gpu_notice(config: Config, context: Context) -> str | None:
    """Why there will be no plan for a GPU that is here."""
    if AUTO not in config.build.targets or tensorrt_version() is not None:
        return None
    names = {gpu.name for gpu in local_gpus()}
    return f"no plan is built for {', '.join(sorted(names))}: {INSTALL}" if names else None


def _lint(context: Context, outcomes: dict[Action, Outcome]) -> list[Any]:
    """Lint the repository if anything was written."""
    if not any(outcome.status == "made" for outcome in outcomes.values()):
        return []
    from builder.lint import lint
    from builder.repository.layout import NATIVE_GROUPS

    groups = [context.config.repository / group for group in NATIVE_GROUPS]
    present = [group for group in groups if group.is_dir()]
    if not present:  # nothing could be published: the failures say why
        return []
    findings = lint(present, digests=context.digests)
    return [finding for finding in findings if finding.severity == "error"]


def _verify(
    context: Context, plan: list[Action], force: bool, console: Console
) -> Verification | None:
    """Verify on a real server, unless just this was verified before."""
    last = read_verification(context.config.build_dir)
    if last is not None and not force and last.digest == verification_digest(context, plan):
        return last
    with progress_bar(console) as progress:
        task = progress.add_task("starting the server")

        def update(model: str, done: int, count: int) -> None:
            progress.update(task, description=f"serving {model}", completed=done, total=count)

        return verify(context, plan, update)


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
            "target": action.target or None,
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

"""`builder profile`: where the time of one request goes, stage by stage."""

import difflib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from builder.bench.summary_text import number
from builder.bench.terminal import print_whole
from builder.bench.timeline import table, timeline
from builder.bench.trace import Trace, collect, median_trace, trace_file
from builder.config import Config
from builder.errors import MissingDependencyError, ServerError, UsageError
from builder.files import write_atomic
from builder.golden import GOLDEN, read_golden
from builder.serving.states import models_in

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

    from builder.stage import Arrays

_GROUP = "ensemble"
_WARM_UP = 5
_TIMEOUT = 300.0


@click.command()
@click.argument("pipeline")
@click.option("--requests", default=11, show_default=True, type=click.IntRange(1, 1000),
              help="Requests to trace; the one of median duration is shown.")  # fmt: skip
@click.option("--url", help="gRPC endpoint of a running server that writes traces to this "
              "machine.  [default: start one]")  # fmt: skip
@click.option("--model-config-name", help="With a server of its own: serve configs/NAME.pbtxt.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
              help="SVG to write.  [default: build/profile/PIPELINE.svg]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def command(
    config: Config,
    pipeline: str,
    requests: int,
    url: str | None,
    model_config_name: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Trace a request through PIPELINE, one at a time on an idle server, after a warm-up.

    It sends the pipeline's golden request, and never one answered by the response cache unless
    the running server at --url has one.
    """
    if url is not None and model_config_name is not None:
        raise UsageError(
            "--model-config-name is for a server that is started here", hint="leave out --url"
        )
    inputs = golden_inputs(config, pipeline)
    console = Console(stderr=True)
    waiting = console.status(f"tracing {pipeline}") if console.is_terminal else nullcontext()
    with waiting:
        if url is not None:
            traces = _trace_at(url, pipeline, inputs, requests)
        else:
            with own_server(config, pipeline, model_config_name) as (address, file):
                traces = _trace_at(address, pipeline, inputs, requests, file)
    shown = median_trace(traces)
    picture = output or config.build_dir / "profile" / f"{pipeline}.svg"
    write_atomic(picture, (timeline(shown) + "\n").encode())
    if as_json:
        answer: dict[str, Any] = {
            "pipeline": pipeline,
            "requests_ms": [round(trace.total_ms, 6) for trace in traces],
            "total_ms": round(shown.total_ms, 6),
            "between_stages_ms": round(shown.between_ms, 6),
            "spans": table(shown),
            "picture": str(picture),
        }
        click.echo(json.dumps(answer, indent=1))
        return
    print_whole(lambda console: _print(console, shown, traces, picture))


def golden_inputs(config: Config, pipeline: str) -> "Arrays":
    """Inputs of the request that is kept with the newest version of a published pipeline.

    Raises:
        UsageError: It is no pipeline, or not a published one.
        RepositoryError: The request is missing or damaged.
    """
    group = config.repository / _GROUP
    known = models_in(group)
    if pipeline not in known:
        others = {
            name: folder.name
            for folder in sorted(config.repository.glob("*"))
            for name in models_in(folder)
        }
        close = difflib.get_close_matches(pipeline, known, n=3)
        if pipeline in others:
            what = f"is a single model ({others[pipeline]}), not a pipeline"
            named = difflib.get_close_matches(pipeline, known, n=3, cutoff=0.3) or known[:3]
            hint = f"a pipeline is, for example, {named[0]}" if named else "builder build"
        elif close:
            what, hint = "no such pipeline", f"did you mean {' or '.join(close)}?"
        else:
            what, hint = "no such pipeline", "builder list says what there is; builder build"
        raise UsageError(what, where=pipeline, hint=hint)
    versions = [name for name in models_in(group / pipeline) if name.isdigit()]
    newest = max(versions, key=int, default="1")
    return read_golden(group / pipeline / newest / GOLDEN)[0]


@contextmanager
def own_server(
    config: Config, pipeline: str, model_config_name: str | None
) -> Iterator[tuple[str, Path]]:
    """A server with this pipeline alone and no response cache.

    Returns:
        Its gRPC address and its trace file.

    Raises:
        MissingDependencyError: The server runs in a container, which keeps its files to itself.
    """
    from builder.serving.launch import make_server

    server, _ = make_server(
        config.replace("server", response_cache_mib=0),
        models=[pipeline],
        model_config_name=model_config_name,
        free_ports=True,
    )
    if server.installation.image is not None:
        raise MissingDependencyError(
            "a server in a container keeps its traces to itself",
            where="builder profile",
            hint="set BUILDER_SERVER_SERVER=embedded, or point --url to a server outside of one",
        )
    with tempfile.TemporaryDirectory(prefix="builder-profile-") as folder:
        file = Path(folder) / "trace.json"
        server.extra_args += (f"--trace-config=triton,file={file}", "--trace-config=level=OFF")
        with server:
            yield server.grpc_url, file


def _trace_at(
    url: str, pipeline: str, inputs: "Arrays", requests: int, file: Path | None = None
) -> list[Trace]:
    from builder.serving.client import connect, infer

    client: InferenceServerClient = connect(url)

    def send() -> object:
        return infer(client, pipeline, inputs, timeout=_TIMEOUT)

    try:
        place = file or trace_file(client, where=url)
        for _ in range(_WARM_UP):
            send()
        traces = collect(client, pipeline, send, count=requests, file=place, where=url)
    finally:
        client.close()
    if not any(trace.stages for trace in traces):
        raise ServerError(
            "the trace has no stages: the server runs no ensemble of that name",
            where=pipeline,
            hint="leave out --url to profile the pipeline that is built here",
        )
    return traces


def _print(console: Console, trace: Trace, traces: list[Trace], picture: Path) -> None:
    view = Table(box=None, pad_edge=False, header_style="bold")
    view.add_column("stage", no_wrap=True)
    for column in ("start ms", "queue", "input", "compute", "output", "end ms"):
        view.add_column(column, justify="right", no_wrap=True)
    view.add_column("inside", no_wrap=True)
    for row in table(trace):
        times = ["" if row["depth"] == 0 or row["cached"] else f"{row[name]:.3f}"
                 for name in ("queue_ms", "input_ms", "compute_ms", "output_ms")]  # fmt: skip
        if row["cached"]:
            times[2] = "cached"
        view.add_row(
            "  " * max(0, row["depth"] - 1) + str(row["stage"]),
            f"{row['start_ms']:.3f}",
            *times,
            f"{row['end_ms']:.3f}",
            str(row["inside"]),
        )
    console.print(view)
    durations = sorted(t.total_ms for t in traces)
    console.print(
        f"{number(trace.total_ms)} ms in the server, {number(trace.between_ms)} ms of them between "
        f"the stages; median of {len(traces)} requests that took {number(durations[0])} to "
        f"{number(durations[-1])} ms",
        soft_wrap=True,
    )
    console.print(f"timeline: {picture}", soft_wrap=True)

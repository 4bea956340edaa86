"""`builder serve`: start a tritonserver, say what it serves, and keep it until Ctrl-C."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import click

from builder.config import Config, load_config
from builder.errors import ServerError
from builder.serving.launch import Selection, make_server
from builder.serving.reports import JsonReport, Report, TerminalReport
from builder.serving.sample import curl_line
from builder.serving.server import TritonServer
from builder.serving.states import ModelState, describe_failures

_WATCH_SECONDS = 2.0


@click.command("serve")
@click.option("--with-python", is_flag=True, help="Serve the python-backend twins, too.")
@click.option("--family", help="Serve the models of one family only.")
@click.option(
    "--models",
    "models",
    multiple=True,
    metavar="NAME",
    help="Serve these models only: names or patterns (SMAP_*), repeated or separated by commas.",
)
@click.option("--model-config-name", metavar="NAME", help="Use configs/NAME.pbtxt where present.")
@click.option("--server", type=click.Choice(["auto", "native", "container", "embedded"]))
@click.option("--host", help="Address to bind to.  [default: 127.0.0.1]")
@click.option("--http-port", type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="0 switches metrics off.")
@click.option("--log-level", type=click.Choice(["error", "warning", "info", "verbose"]))
@click.option("--timeout", type=click.FloatRange(min=1), help="Seconds until all is loaded.")
@click.option("--strict", is_flag=True, help="Fail if a model cannot be loaded.")
@click.option("--poll", is_flag=True, help="Follow changes in the repository.")
@click.option("--json", "as_json", is_flag=True, help="Print events as lines of JSON.")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    with_python: bool,
    family: str | None,
    models: tuple[str, ...],
    model_config_name: str | None,
    strict: bool,
    poll: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Serve the model repository until Ctrl-C."""
    config = (context.find_object(Config) or load_config()).replace("server", **settings)
    http_port = config.server.http_port
    report = JsonReport() if as_json else TerminalReport(config.server.host)
    with report.preparing():
        server, selection = make_server(
            config,
            python=with_python,
            family=family,
            models=[name for item in models for name in item.split(",") if name],
            model_config_name=model_config_name,
            poll=poll,
            strict=strict,
            log_file=config.build_dir / "logs" / f"tritonserver-{http_port or 'any'}.log",
        )
    report.starting(server, selection)
    with _signals_interrupt(), contextlib.suppress(KeyboardInterrupt):
        try:
            with report.waiting(server, selection):
                server.start()
            states = server.model_states()
            _ready(report, server, selection, states)
            _watch(report, server, states)
        except KeyboardInterrupt:
            report.stopping(server)
        finally:
            server.stop()
    report.stopped()


def _ready(
    report: Report, server: TritonServer, selection: Selection, states: Sequence[ModelState]
) -> None:
    ready = {state.name for state in states if state.ready}
    if not ready and states:
        failed = [state for state in states if not state.ready]
        raise ServerError(describe_failures(failed), hint="not one model could be loaded")
    # Pipelines first: they are what clients are meant to call.
    names = [*selection.groups.get("ensemble", ()), *selection.names]
    report.ready(server, states, curl_line(server.http_url, [n for n in names if n in ready]))


def _watch(report: Report, server: TritonServer, states: Sequence[ModelState]) -> None:
    """Wait until a signal comes; report what changes when the server polls."""
    known = set(states)
    while True:
        time.sleep(_WATCH_SECONDS if server.model_control == "poll" else 0.5)
        if not server.running:
            raise ServerError(
                f"the server died; its last words:\n{server.last_words()}",
                where="tritonserver",
                hint="start it again; see builder doctor",
            )
        if server.model_control == "poll":
            with contextlib.suppress(ServerError):
                now = set(server.model_states())
                for state in sorted(now - known, key=lambda s: (s.name, s.version)):
                    report.changed(state)
                known = now


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Also SIGINT: a shell starts background jobs with it ignored.
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

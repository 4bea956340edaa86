"""What `builder serve` says, to people or to machines."""

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from builder.serving.launch import Selection
from builder.serving.server import TritonServer
from builder.serving.states import ModelState

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class JsonReport:
    """One JSON object per line and event, for machines."""

    def preparing(self) -> contextlib.AbstractContextManager[Any]:
        """Entered while the server is found and its backends are brought up to date."""
        return contextlib.nullcontext()

    def _print(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}))

    def starting(self, server: TritonServer, selection: Selection) -> None:
        """What is about to be started."""
        installation = server.installation
        self._print(
            "starting",
            server=installation.kind,
            version=installation.version,
            models=len(selection.names),
            skipped=dict(selection.skipped),
        )

    def ready(self, server: TritonServer, states: Sequence[ModelState], curl: str) -> None:
        """What is served, and where."""
        self._print(
            "ready",
            http=server.http_url,
            grpc=server.grpc_url,
            metrics=server.metrics_url,
            log=None if server.log_file is None else str(server.log_file),
            pid=server.pid,
            curl=curl,
            models=[_as_json(state) for state in states if state.ready],
            failures=[_as_json(state) for state in states if not state.ready],
        )

    def waiting(
        self, server: TritonServer, selection: Selection
    ) -> contextlib.AbstractContextManager[Any]:
        """Entered while the models are being loaded."""
        return contextlib.nullcontext()

    def changed(self, state: ModelState) -> None:
        """A polling server has loaded or unloaded something."""
        self._print("changed", **_as_json(state))

    def stopping(self, server: TritonServer) -> None:
        """The server has been asked to stop."""
        self._print("stopping")

    def stopped(self) -> None:
        """The server is gone."""
        self._print("stopped")


def _as_json(state: ModelState) -> dict[str, str]:
    values = {"name": state.name, "version": state.version, "state": state.state}
    return values | ({"reason": state.reason} if state.reason else {})


class TerminalReport:
    """Tables and sentences, for people.

    Args:
        host: Address that the server binds to.
    """

    def __init__(self, host: str):
        self._out = Console()
        self._host = host
        self._where: dict[str, str] = {}

    def preparing(self) -> contextlib.AbstractContextManager[Any]:
        """Entered while the server is found and its backends are brought up to date."""
        return self._out.status("Preparing the backends (half a minute if they are compiled)")

    def starting(self, server: TritonServer, selection: Selection) -> None:
        """What is about to be started."""
        self._where = {name: group for group, names in selection.groups.items() for name in names}
        version = f" {server.installation.version}" if server.installation.version else ""
        self._out.print(
            f"Starting tritonserver{version} ({server.installation.kind}) with "
            f"{len(selection.names)} models",
            highlight=False,
        )
        for group, why in selection.skipped.items():
            self._out.print(f"[yellow]Left out {group}:[/] {why}", highlight=False)
        if self._host not in _LOOPBACK:
            self._out.print(
                f"[yellow]Warning:[/] binding to {self._host}: everybody who reaches this machine "
                "can use the models. There is no authentication.",
                highlight=False,
            )

    def waiting(
        self, server: TritonServer, selection: Selection
    ) -> contextlib.AbstractContextManager[Any]:
        """Entered while the models are being loaded."""
        # Rich shows no spinner where stdout is no terminal.
        return self._out.status(f"Loading {len(selection.names)} models")

    def ready(self, server: TritonServer, states: Sequence[ModelState], curl: str) -> None:
        """What is served, and where."""
        self._out.print(_table(states, self._where))
        failed = sum(not state.ready for state in states)
        if failed:
            self._out.print(
                f"[red]{failed} of {len(states)} could not be loaded[/]; the others are served. "
                "Use --strict to fail instead.",
                highlight=False,
            )
        endpoints = {"HTTP": server.http_url, "gRPC": server.grpc_url}
        if server.metrics_url:
            endpoints["Metrics"] = server.metrics_url
        if server.log_file:
            endpoints["Log"] = str(server.log_file)
        for name, url in endpoints.items():
            self._out.print(f"  {name:8} {url}", highlight=False, soft_wrap=True)
        self._out.print("Try it:")
        # Unwrapped and without markup, so that it can be copied.
        click.echo(f"  {curl}")
        self._out.print("Ready. Ctrl-C stops it.", highlight=False)

    def changed(self, state: ModelState) -> None:
        """A polling server has loaded or unloaded something."""
        why = f": {state.reason}" if state.reason else ""
        line = f"{time.strftime('%H:%M:%S')} {state.name} version {state.version} {state.state}"
        self._out.print(line + why, highlight=False, markup=False)

    def stopping(self, server: TritonServer) -> None:
        """The server has been asked to stop."""
        self._out.print(
            f"Stopping; requests in flight get {server.exit_timeout} s. "
            "Ctrl-C again stops at once.",
            highlight=False,
        )

    def stopped(self) -> None:
        """The server is gone."""
        self._out.print("Stopped.", highlight=False)


def _table(states: Sequence[ModelState], where: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "group", "version", "state"):
        table.add_column(column, overflow="fold")
    by_name: dict[str, list[ModelState]] = {}
    for state in states:
        by_name.setdefault(state.name, []).append(state)
    # Failures last: of a long table the end is what stays on the screen.
    for name, entries in sorted(
        by_name.items(), key=lambda item: not any(s.ready for s in item[1])
    ):
        if ready := [state.version for state in entries if state.ready]:
            table.add_row(name, where.get(name, ""), ", ".join(ready), "[green]ready[/]")
        else:
            reason = entries[0].reason.replace("[", "\\[")
            table.add_row(name, where.get(name, ""), "", f"[red]failed:[/] {reason}")
    return table


Report = JsonReport | TerminalReport

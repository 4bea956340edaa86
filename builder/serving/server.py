"""A running tritonserver, as a context manager.

    with TritonServer([repository / "onnx"], backend_directory=backends) as server:
        client = connect(server.grpc_url)

Ports of 0 are chosen among the free ones. The server listens on loopback unless told otherwise,
ends together with this process, and `start` says which model failed to load, and why.
"""

import contextlib
import http.client
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from builder.errors import ConfigError, ServerError
from builder.serving import log, ports, rest
from builder.serving.arguments import (
    LOG_FLAGS,
    ModelControl,
    local_arguments,
    tritonserver_arguments,
)
from builder.serving.guard import GuardedProcess
from builder.serving.installations import Installation, find_installation
from builder.serving.states import ModelState, describe_failures, from_index, models_in

_PORT_RETRIES = 3


class TritonServer:
    """One tritonserver process.

    Args:
        repositories: Model repository folders.
        backend_directory: Folder of the backends; by default those of the installation.
        installation: How to run the server; by default the one that `find_installation` picks.
        host: Address to bind to.
        http_port: 0 picks a free one; so for the other two.
        metrics_port: None switches metrics off.
        load: Models to load; None loads all, which `model_control` "explicit" understands, too.
        model_config_name: Serve `configs/<name>.pbtxt` where a model has one.
        model_control: "none", "explicit" (load and unload by request) or "poll" (follow changes
            in the repositories). A `load` list needs, and switches to, "explicit".
        log_level: error, warning, info or verbose.
        response_cache_mib: Size of the local response cache; 0 switches it off.
        extra_args: More arguments for tritonserver.
        timeout: Seconds until every model has to be loaded.
        exit_timeout: Seconds that requests in flight get at shutdown.
        log_file: Where the log goes; by default a temporary file that goes away with the server.
        strict: Whether `start` fails if a model fails to load. If not, the others are served and
            `failures` tells of the rest.
    """

    def __init__(
        self,
        repositories: Sequence[Path],
        *,
        backend_directory: Path | None = None,
        installation: Installation | None = None,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int | None = 0,
        load: Sequence[str] | None = None,
        model_config_name: str | None = None,
        model_control: ModelControl = "none",
        log_level: str = "warning",
        response_cache_mib: int = 0,
        extra_args: Sequence[str] = (),
        timeout: float = 300.0,
        exit_timeout: int = 10,
        log_file: Path | None = None,
        strict: bool = True,
    ):
        if log_level not in LOG_FLAGS:
            raise ConfigError(
                f"unknown log level {log_level!r}", hint=f"one of: {', '.join(LOG_FLAGS)}"
            )
        if load is not None and model_control == "poll":
            raise ConfigError(
                "polling loads every model: a list of models cannot be given with it",
                hint="leave out --poll, or serve all models",
            )
        self.repositories = tuple(Path(r).resolve() for r in repositories)
        self.backend_directory = backend_directory and Path(backend_directory).resolve()
        self.installation = installation or find_installation()
        self.host = ports.ipv4_address(host)
        self.load = None if load is None else tuple(load)
        self.model_config_name = model_config_name
        self.model_control: ModelControl = "explicit" if load is not None else model_control
        self.log_level = log_level
        self.response_cache_mib = response_cache_mib
        self.extra_args = tuple(extra_args)
        self.timeout = timeout
        self.exit_timeout = exit_timeout
        self.strict = strict
        self.exit_status: int | None = None
        self._wanted_ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._ports: dict[str, int] = {}
        self.log_file = log_file
        self._log = log.LogFile(log_file)
        self._id = ""
        self._process: GuardedProcess | None = None

    # -- where it is

    @property
    def http_url(self) -> str:
        """For example `http://127.0.0.1:8000`."""
        return f"http://{self._address(self._ports['http'])}"

    @property
    def grpc_url(self) -> str:
        """For example `127.0.0.1:8001`, as the gRPC client wants it."""
        return self._address(self._ports["grpc"])

    @property
    def metrics_url(self) -> str | None:
        """URL of the Prometheus metrics; None where they are off."""
        port = self._ports.get("metrics")
        return None if port is None else f"http://{self._address(port)}/metrics"

    @property
    def pid(self) -> int:
        """Process id of the server (of the docker client, for a container)."""
        return self._running().process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.process.poll() is None

    def _address(self, port: int) -> str:
        # What is bound to every address is reached through loopback.
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"{host}:{port}"

    def _running(self) -> GuardedProcess:
        if self._process is None:
            raise ServerError("the server has not been started", hint="call start() first")
        return self._process

    # -- start and stop

    def start(self) -> "TritonServer":
        """Start the server and wait until it is ready.

        Raises:
            ServerError: A port is in use, a model failed to load (if `strict`), the server died
                or took longer than `timeout`. Nothing is left running then.
            MissingDependencyError: The program cannot be run.
        """
        if self.running:
            raise ServerError("the server is running already", where=self.http_url)
        for repository in self.repositories:
            if not repository.is_dir():
                raise ServerError(
                    "no such model repository", where=repository, hint="run builder build first"
                )
        try:
            for attempt in range(_PORT_RETRIES):
                try:
                    self._launch()
                    break
                except ports.PortLostError:
                    self.stop()
                    if attempt == _PORT_RETRIES - 1:
                        raise
            if self.strict and (failures := self.failures()):
                raise ServerError(describe_failures(failures))
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self) -> None:
        self._id = f"builder-{uuid.uuid4().hex[:12]}"
        self.exit_status = None
        wanted = {name: port for name, port in self._wanted_ports.items() if port is not None}
        for name, port in wanted.items():
            if port and (reason := ports.why_unusable(self.host, port)):
                other = rest.triton_version(f"http://{self.host}:{port}")
                who = f"is in use by another tritonserver ({other})" if other else reason
                raise ports.port_error(name, port, who)
        automatic = [name for name, port in wanted.items() if port == 0]
        with ports.HeldPorts(self.host, len(automatic)) as held:
            self._ports = wanted | dict(zip(automatic, held.numbers, strict=True))
            in_container = self.installation.image is not None
            if in_container:
                held.release()  # docker's proxy wants them to itself
            folders = (self.backend_directory,) if self.backend_directory else ()
            self._process = GuardedProcess(
                self.installation.command(
                    self.arguments(),
                    read=(*self.repositories, *folders),
                    host=self.host,
                    ports=tuple(self._ports.values()),
                    name=self._id,
                ),
                env=self.installation.environment(os.environ),
                output=self._log.open(),
                grace=self.exit_timeout,
                cleanup=self.installation.cleanup(self._id),
                shm_prefix="" if in_container else f"{self._id}-",
            )
            self.wait_ready()  # until then the free ports are kept for the server

    def arguments(self) -> list[str]:
        """The arguments of tritonserver."""
        in_container = self.installation.image is not None
        return [
            *tritonserver_arguments(
                server_id=self._id,
                repositories=self.repositories,
                # In a container every address is bound: docker decides what is published.
                host="0.0.0.0" if in_container else self.host,
                ports=self._ports,
                model_control=self.model_control,
                load=self.load,
                model_config_name=self.model_config_name,
                backend_directory=self.backend_directory,
                response_cache_mib=self.response_cache_mib,
                cache_directory=self.installation.caches,
                log_level=self.log_level,
                exit_timeout=self.exit_timeout,
            ),
            *(() if in_container else local_arguments(self._id)),
            *self.extra_args,
        ]

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the server answers, which it does once every model is loaded or has failed.

        Raises:
            ServerError: It died, or `timeout` (by default that of the server) has passed.
        """
        limit = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while not self._answers():
            if not self.running:
                raise self._died()
            if reason := log.failed_creation(self._log.text()):
                raise ServerError(
                    f"did not start: {reason}", where="tritonserver", hint="see builder doctor"
                )
            if time.monotonic() > deadline:
                raise ServerError(
                    f"not ready after {limit:g} s; its last words:\n{self._log.tail()}",
                    where="tritonserver",
                    hint="wait longer with --timeout, or serve fewer models"
                    if self.installation.image is None
                    else f"is the image still being pulled? docker pull {self.installation.image}",
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Whether this very server, not another one at the same port, says that it is ready."""
        with contextlib.suppress(OSError, http.client.HTTPException, ServerError):
            status, _ = rest.call(self.http_url, "/v2/health/ready", timeout=5)
            return status == 200 and rest.get_json(self.http_url, "/v2").get("name") == self._id
        return False

    def _died(self) -> ServerError:
        status = self._running().process.poll()
        text = self._log.text()
        if taken := log.port_in_use(text):
            name = next((n for n, port in self._ports.items() if port == taken), "http")
            kind = ports.port_error if self._wanted_ports[name] else ports.PortLostError
            return kind(name, taken, "is in use by another process")
        how = f"killed by signal {-status}" if status and status < 0 else f"exit status {status}"
        return ServerError(
            f"died before it was ready ({how}); its last words:\n{self._log.tail()}",
            where="tritonserver",
            hint="see builder doctor, or start it with --log-level info",
        )

    def stop(self) -> None:
        """Stop the server, at the latest by force; nothing of it is left. May be called twice."""
        if self._process is not None:
            # tritonserver gives requests in flight exit_timeout seconds, then needs a moment.
            self.exit_status = self._process.stop(self.exit_timeout + 5.0)
            self._process = None
        self._log.close()

    def __enter__(self) -> "TritonServer":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- what it says

    def log_text(self) -> str:
        """The log so far, also after the server has stopped."""
        return self._log.text()

    def last_words(self) -> str:
        """The last lines of the log that matter."""
        return self._log.tail()

    def model_states(self) -> list[ModelState]:
        """State of every model that is or should be loaded, failures first.

        Raises:
            ServerError: The server does not answer.
        """
        index = rest.get_json(self.http_url, "/v2/repository/index", method="POST")
        expected = self.load
        if expected is None:
            expected = tuple(name for r in self.repositories for name in models_in(r))
        return from_index(index, expected, self._log.text())

    def failures(self) -> list[ModelState]:
        """The models of which no version is ready."""
        states = self.model_states()
        good = {state.name for state in states if state.ready}
        return [state for state in states if state.name not in good]

    def metrics(self) -> str:
        """The Prometheus metrics as text.

        Raises:
            ServerError: Metrics are off, or the server does not answer.
        """
        if self.metrics_url is None:
            raise ServerError("metrics are off", where=self.http_url, hint="set --metrics-port")
        try:
            return rest.call(self.metrics_url.removesuffix("/metrics"), "/metrics")[1].decode()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"no answer: {error}", where=self.metrics_url) from error

"""Ports: is one taken, and which ones are free.

Between the moment a free port is found and the moment the server listens on it, models load, which
takes seconds. So the free ports are held by bound sockets until then: nobody else is given them,
but a server that sets SO_REUSEADDR, as tritonserver does for all three, may listen on them.
"""

import contextlib
import errno
import socket
from types import TracebackType

from builder.errors import ConfigError, ServerError


class PortLostError(ServerError):
    """Somebody else took a free port before the server did."""

    def __init__(self, name: str, port: int, reason: str):
        super().__init__(f"port {port} {reason}", where=f"--{name}-port", hint="try again")


def port_error(name: str, port: int, reason: str) -> ServerError:
    """The error about a port that the user chose; `name` is http, grpc or metrics."""
    return ServerError(
        f"port {port} {reason}",
        where=f"--{name}-port",
        hint=f"choose another one with --{name}-port or BUILDER_SERVER_{name.upper()}_PORT, "
        f"or see who has it: ss -ltnp 'sport = :{port}'",
    )


def ipv4_address(host: str) -> str:
    """The address of a host name; tritonserver itself resolves none for HTTP.

    Raises:
        ConfigError: It has none. IPv6 addresses are refused: tritonserver cannot bind to them.
    """
    try:
        return socket.gethostbyname(host)
    except OSError:
        raise ConfigError(
            f"{host!r} is no IPv4 address of a host", where="--host", hint="use 127.0.0.1"
        ) from None


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def why_unusable(host: str, port: int) -> str | None:
    """Why a server could not listen on `host:port` now; None if it can."""
    try:
        sock = _bind(host, port)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "is in use by another process",
            errno.EACCES: "needs root (ports below 1024 do)",
            errno.EADDRNOTAVAIL: f"cannot be bound: {host} is no address of this machine",
        }
        return reasons.get(error.errno or 0, f"cannot be bound: {error.strerror or error}")
    with sock:
        try:
            sock.listen(1)
        except OSError:
            return "is in use by another process"
    return None


class HeldPorts:
    """Free ports, held until released.

    Args:
        host: Address that they are free on.
        count: How many.
    """

    def __init__(self, host: str, count: int):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(_bind(host, 0)) for _ in range(count)]
            self._held = stack.pop_all()
        self.numbers: tuple[int, ...] = tuple(sock.getsockname()[1] for sock in sockets)

    def release(self) -> None:
        """Let go of the ports."""
        self._held.close()

    def __enter__(self) -> "HeldPorts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

"""One real server with every native model of the family."""

from collections.abc import Iterator
from typing import Any

import pytest

from builder.config import Config
from builder.serving.client import connect
from builder.serving.launch import make_server
from builder.serving.server import TritonServer


@pytest.fixture(scope="session")
def native_server(built: Config) -> Iterator[TritonServer]:
    server, _ = make_server(built, family="anomaly", free_ports=True)
    with server:
        yield server


@pytest.fixture
def client(native_server: TritonServer) -> Iterator[Any]:
    connected = connect(native_server.grpc_url)
    yield connected
    connected.close()

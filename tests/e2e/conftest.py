"""One real server with everything that `make engines` builds."""

from collections.abc import Iterator

import pytest

from builder.config import Config
from builder.family import Registry
from builder.serving.launch import make_server
from builder.serving.server import TritonServer


@pytest.fixture(scope="session")
def registry(built: Config) -> Registry:
    return Registry.load(built)


@pytest.fixture(scope="session")
def server(built: Config) -> Iterator[TritonServer]:
    """Every native model; strict, so one that does not load is a failure."""
    running, _ = make_server(built, free_ports=True, strict=True)
    with running:
        yield running

"""One real server with a model for every feature of the native backend."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.serving import native_build
from builder.serving.server import TritonServer

# Tests are imported without their folders on sys.path; these share modules.
sys.path.append(str(Path(__file__).parent))

from native_client import Native
from native_models import Zoo, bad_models, good_models
from native_operators import operator_models


@pytest.fixture(scope="session")
def native_backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backend directory with the native backend, freshly compiled."""
    folder = tmp_path_factory.mktemp("backends")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_build, "FLAGS", (*native_build.FLAGS, "-Werror"))
        native_build.build(folder)
    return folder


@pytest.fixture(scope="session")
def native(native_backends: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    import tritonclient.grpc
    import tritonclient.http

    zoo = Zoo(tmp_path_factory.mktemp("repository"))
    good_models(zoo)
    operator_models(zoo)
    bad = bad_models(zoo)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with TritonServer(
        [zoo.root],
        backend_directory=native_backends,
        log_level="warning",
        log_file=log,
        strict=False,
        response_cache_mib=4,
        extra_args=native_build.server_args(),
    ) as server:
        host = server.http_url.removeprefix("http://")
        with (
            tritonclient.grpc.InferenceServerClient(server.grpc_url) as grpc,
            tritonclient.http.InferenceServerClient(host) as http,
        ):
            yield Native(server, bad, log, http, grpc)

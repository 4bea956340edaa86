"""One real server with FLUX alone, which has no other backend than the one for ONNX."""

from collections.abc import Iterator

import pytest
from tritonclient.grpc import InferenceServerClient

from builder.config import Config
from builder.families.flux.models.specs import PipelineSpec, specs
from builder.serving.backends import prepare_backends
from builder.serving.client import connect
from builder.serving.installations import find_installation
from builder.serving.native_build import server_args
from builder.serving.server import TritonServer


@pytest.fixture(scope="session")
def flux(built: Config) -> dict[str, PipelineSpec]:
    """The pipelines by name."""
    return {spec.name: spec for spec in specs(built)}


@pytest.fixture(scope="session")
def native(built: Config, flux: dict[str, PipelineSpec]) -> Iterator[TritonServer]:
    backends = prepare_backends(built.build_dir / "flux-native", python=False)
    assert [path.name for path in backends.iterdir() if path.is_dir()] == ["onnxruntime"]
    server = TritonServer(
        [built.repository / "onnx", built.repository / "ensemble"],
        backend_directory=backends,
        installation=find_installation("embedded"),
        load=tuple(flux),  # Triton loads the steps of an ensemble with it
        response_cache_mib=16,
        extra_args=server_args(),
    )
    with server:
        yield server


@pytest.fixture
def client(native: TritonServer) -> Iterator[InferenceServerClient]:
    connection = connect(native.grpc_url)
    yield connection
    connection.close()

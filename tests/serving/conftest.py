"""A small model repository, and one real server for the tests that only ask it things."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from builder.serving.backends import prepare_backends
from builder.serving.server import TritonServer

# Tests are imported without their folders on sys.path; these share a module of models.
sys.path.append(str(Path(__file__).parent))

from torchscript_models import (
    ENSEMBLE,
    LINEAR,
    NAMED,
    Linear,
    Named,
    write_model,
)


@pytest.fixture(scope="session")
def linear() -> Linear:
    torch.manual_seed(3)
    return Linear().eval()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, linear: Linear) -> Path:
    """`pytorch/` with `linear` and `named`, `ensemble/` with `pipe`."""
    root = tmp_path_factory.mktemp("repository")
    write_model(root / "pytorch" / "linear", LINEAR, linear)
    write_model(root / "pytorch" / "named", NAMED, Named())
    write_model(root / "ensemble" / "pipe", ENSEMBLE)
    return root


@pytest.fixture(scope="session")
def backend_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backends for Python and TorchScript models."""
    return prepare_backends(tmp_path_factory.mktemp("build"), python=True, onnxruntime=False)


@pytest.fixture(scope="session")
def server(repository: Path, backend_dir: Path) -> Iterator[TritonServer]:
    """A running server with every model of `repository`."""
    groups = [repository / "pytorch", repository / "ensemble"]
    with TritonServer(groups, backend_directory=backend_dir) as running:
        yield running

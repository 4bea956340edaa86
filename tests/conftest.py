"""Fixtures for the whole suite."""

import os
from pathlib import Path

import pytest

from builder.config import Config, load_config
from builder.family import Registry

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def telemetry() -> Path:
    """The folder with the real telemetry; skips where there is none."""
    folder = Path(os.environ.get("BUILDER_TELEMETRY", ROOT.parent / "shared" / "telemetry"))
    if not (folder / "labeled_anomalies.csv").is_file():
        pytest.skip("no real telemetry here: set BUILDER_TELEMETRY to its folder")
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Everything built once, in a folder of its own, python twins included; not verified."""
    from builder.build.execute import execute
    from builder.build.plan import make_context, make_plan

    root = tmp_path_factory.mktemp("built")
    (root / "model_repository").mkdir()
    (root / "model_repository" / "python").symlink_to(ROOT / "model_repository" / "python")
    config = load_config(root=root, environ={})
    # The compiled backend is shared with `make engines`, so that it is compiled only once.
    (ROOT / "build").mkdir(exist_ok=True)
    (root / "build").mkdir()
    (ROOT / "build" / "backends").mkdir(exist_ok=True)
    (root / "build" / "backends").symlink_to(ROOT / "build" / "backends")
    context = make_context(config, Registry.load(config))
    outcomes = execute(make_plan(context), context.digests)
    broken = {str(action): str(o.error) for action, o in outcomes.items() if not o.ok}
    assert not broken
    return config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose folders are all below `tmp_path`."""
    return load_config(root=tmp_path, environ={})


@pytest.fixture(scope="session")
def tiny_schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX.1 schnell checkpoint, to read only."""
    from builder.families.flux.tiny import ensure_tiny

    return ensure_tiny(tmp_path_factory.mktemp("flux") / "schnell", "schnell")


@pytest.fixture(scope="session")
def tiny_dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX.1 dev checkpoint, to read only."""
    from builder.families.flux.tiny import ensure_tiny

    return ensure_tiny(tmp_path_factory.mktemp("flux") / "dev", "dev")

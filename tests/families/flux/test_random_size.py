"""The sizes of the random checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

from builder.config import load_config
from builder.errors import ConfigError, UsageError
from builder.families.flux.checkpoint import build_component, component_tensors
from builder.families.flux.models.variants import variants
from builder.families.flux.tiny import ensure_tiny
from builder.families.flux.tiny_sizes import SIZES


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_tiny(tmp_path_factory.mktemp("flux") / "small", "dev", size="small")


def count(folder: Path, component: str) -> int:
    return sum(p.numel() for p in build_component(folder, component).parameters())


def test_the_small_transformer_has_about_20_million_parameters(small: Path, tiny_dev: Path) -> None:
    assert 19e6 < count(small, "transformer") < 21e6
    for component in ("text_encoder", "text_encoder_2", "vae"):
        assert count(tiny_dev, component) < count(small, component) < 4e6


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "text_encoder_2", "vae"])
def test_every_tensor_is_written(small: Path, component: str) -> None:
    stored = component_tensors(small, component)
    for name, parameter in build_component(small, component).named_parameters():
        assert stored[name].shape == tuple(parameter.shape)


@pytest.mark.parametrize("size", SIZES)
def test_declared_widths_are_those_of_the_files(tmp_path: Path, size: str) -> None:
    """Declaring a stage must not make the checkpoint, so its widths are known beforehand."""
    config = load_config(root=tmp_path, environ={"BUILDER_FLUX_RANDOM_SIZE": size})
    declared = variants(config)[1]
    assert not declared.checkpoint.exists()
    assert declared.checkpoint.name == f"flux-{size}-dev"
    made = load_config(root=tmp_path, environ={"BUILDER_FLUX_CHECKPOINT": str(declared.folder())})
    assert variants(made)[0].widths == declared.widths


def test_the_size_decides_what_is_exported(tmp_path: Path) -> None:
    settings = [
        variants(load_config(root=tmp_path, environ=environ))[0].settings()
        for environ in ({}, {"BUILDER_FLUX_RANDOM_SIZE": "small"})
    ]
    assert settings[0] != settings[1]


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    config = load_config(root=tmp_path, environ={"BUILDER_FLUX_RANDOM_SIZE": "huge"})
    with pytest.raises(ConfigError, match="random_size is 'huge'"):
        variants(config)
    with pytest.raises(UsageError, match="unknown size 'huge'"):
        ensure_tiny(tmp_path / "x", "dev", size="huge")


def test_processes_that_want_the_same_checkpoint_make_it_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from builder.families.flux import tiny;"
        "write = tiny._write_networks;"
        "tiny._write_networks = lambda *a: (print('made'), write(*a));"
        "tiny.ensure_tiny(Path(sys.argv[1]), 'schnell')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tiny")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(printed) == ["", "made\n"]

"""A schnell and a dev checkpoint in one configuration."""

import json
import shutil
from pathlib import Path

import pytest

from builder.config import Config, load_config
from builder.errors import BuilderError, CheckpointError, ConfigError
from builder.families.flux.models.specs import specs
from builder.families.flux.models.variants import variants
from builder.family import Registry


def configured(root: Path, first: Path | None, second: Path | None) -> Config:
    text = "[flux]\n"
    for name, path in (("checkpoint", first), ("second_checkpoint", second)):
        text += "" if path is None else f'{name} = "{path}"\n'
    (root / "builder.toml").write_text(text)
    return load_config(root=root, environ={})


@pytest.mark.parametrize("swapped", [False, True])
def test_both_are_built_each_from_its_own_folder(
    tmp_path: Path, tiny_schnell: Path, tiny_dev: Path, swapped: bool
) -> None:
    folders = (tiny_dev, tiny_schnell) if swapped else (tiny_schnell, tiny_dev)
    config = configured(tmp_path, *folders)
    found = {variant.name: variant.folder() for variant in variants(config)}
    assert list(found.items()) == [("schnell", tiny_schnell), ("dev", tiny_dev)]
    assert {spec.name for spec in specs(config)} >= {"flux_schnell", "flux_dev", "flux_img2img"}
    stages = Registry.load(config).stages
    for name, folder in (("dit_step", tiny_schnell), ("dit_step_dev", tiny_dev)):
        assert {f.parent.parent for f in stages[name].source.files} == {folder}


def test_a_relative_second_folder_starts_at_builder_toml(
    tmp_path: Path, tiny_schnell: Path, tiny_dev: Path
) -> None:
    (tmp_path / "dev").symlink_to(tiny_dev)
    found = variants(configured(tmp_path, tiny_schnell, Path("dev")))
    assert found[1].folder() == tmp_path / "dev"


def test_two_of_a_kind_are_refused(tmp_path: Path, tiny_dev: Path) -> None:
    with pytest.raises(ConfigError, match=r"both FLUX\.1 dev"):
        variants(configured(tmp_path, tiny_dev, tiny_dev))


def test_a_second_one_alone_is_refused(tmp_path: Path, tiny_dev: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint is not"):
        variants(configured(tmp_path, None, tiny_dev))


def test_a_second_one_that_is_gone_is_named(tmp_path: Path, tiny_dev: Path) -> None:
    with pytest.raises(BuilderError, match="gone"):
        variants(configured(tmp_path, tiny_dev, tmp_path / "gone"))


@pytest.mark.parametrize(
    ("component", "key", "value"),
    [("text_encoder", "hidden_size", 48), ("vae", "scaling_factor", 0.5)],
)
def test_other_encoders_are_refused(
    tmp_path: Path, tiny_schnell: Path, tiny_dev: Path, component: str, key: str, value: float
) -> None:
    other = shutil.copytree(tiny_dev, tmp_path / "other")
    file = other / component / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(CheckpointError, match="other text encoders or another VAE"):
        variants(configured(tmp_path, tiny_schnell, other))

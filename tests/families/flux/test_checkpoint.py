"""Strict reading of checkpoints, and the tiny ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from builder.config import Config, load_config
from builder.errors import CheckpointError, ConfigError, UsageError
from builder.families.flux.checkpoint import (
    COMPONENTS,
    checkpoint_files,
    component_tensors,
    load_component,
    variant_of,
)
from builder.families.flux.options import flux_options
from builder.families.flux.shards import read_header
from builder.families.flux.tiny import ensure_tiny, is_tiny

WEIGHTS = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
IDS = torch.arange(40).reshape(2, 20)


@pytest.fixture
def copy(tiny_schnell: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_schnell, tmp_path / "copy")


def weights(folder: Path, component: str) -> Path:
    return folder / component / WEIGHTS[component]


def edit(folder: Path, component: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = weights(folder, component)
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    file.unlink()  # the tensors may still be mapped from it
    safetensors.torch.save_file(tensors, file)


def shard(folder: Path, component: str) -> Path:
    """Split a component's weights into two files with an index, as large checkpoints are."""
    file = weights(folder, component)
    tensors = safetensors.torch.load_file(file)
    names = sorted(tensors)
    stem = file.name.removesuffix(".safetensors")
    parts = {f"{stem}-{i + 1:05d}-of-00002.safetensors": names[i::2] for i in range(2)}
    for part, held in parts.items():
        safetensors.torch.save_file({n: tensors[n].clone() for n in held}, file.with_name(part))
    index = file.with_name(f"{file.name}.index.json")
    weight_map = {name: part for part, held in parts.items() for name in held}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    file.unlink()
    return index


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_equal_seeds_give_equal_bytes(tiny_dev: Path, tmp_path: Path) -> None:
    again = ensure_tiny(tmp_path / "again", "dev")
    other = ensure_tiny(tmp_path / "other", "dev", seed=1)
    assert digests(again) == digests(tiny_dev)
    changed = {n for n, d in digests(other).items() if d != digests(tiny_dev)[n]}
    assert changed == {"tiny.json", *(f"{c}/{f}" for c, f in WEIGHTS.items())}


def test_a_tiny_checkpoint_is_made_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    folder = ensure_tiny(tmp_path / "tiny", "schnell")
    assert is_tiny(folder)
    stamp = weights(folder, "vae").stat().st_mtime_ns
    ensure_tiny(folder, "schnell")
    assert weights(folder, "vae").stat().st_mtime_ns == stamp
    ensure_tiny(folder, "dev")
    assert variant_of(folder) == "dev"
    with pytest.raises(UsageError, match="unknown FLUX variant"):
        ensure_tiny(folder, "pro")


def test_variants_share_all_but_transformer_and_scheduler(
    tiny_schnell: Path, tiny_dev: Path
) -> None:
    assert (variant_of(tiny_schnell), variant_of(tiny_dev)) == ("schnell", "dev")
    schnell, dev = digests(tiny_schnell), digests(tiny_dev)
    changed = {n.split("/")[0] for n in schnell if schnell[n] != dev[n]}
    assert changed == {"tiny.json", "transformer", "scheduler"}


def test_no_norm_is_trivial(tiny_schnell: Path) -> None:
    for component in WEIGHTS:
        tensors = safetensors.torch.load_file(weights(tiny_schnell, component))
        for name, tensor in tensors.items():
            assert float(tensor.std()) > 0.01, name


def test_diffusers_loads_a_tiny_checkpoint_by_itself(tiny_dev: Path) -> None:
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(tiny_dev)
    for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        theirs, ours = getattr(pipeline, name).state_dict(), load_component(tiny_dev, name)
        assert not ours.training
        mine = ours.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert (
        pipeline.tokenizer("A fox's den")["input_ids"]
        == (load_component(tiny_dev, "tokenizer")("A fox's den")["input_ids"])
    )


def test_shards_load_as_one_file_does(copy: Path, tiny_schnell: Path) -> None:
    for component in WEIGHTS:
        shard(copy, component)
        theirs = load_component(tiny_schnell, component).state_dict()
        mine = load_component(copy, component).state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
        assert len(checkpoint_files(copy, component)) == 4  # config, index, two shards


def test_tensors_lie_where_the_header_says(tiny_schnell: Path) -> None:
    for component in WEIGHTS:
        module = load_component(tiny_schnell, component)
        stored = component_tensors(tiny_schnell, component)
        assert stored.keys() == dict(module.named_parameters()).keys()
        for name, tensor in stored.items():
            with tensor.file.open("rb") as file:
                file.seek(tensor.offset)
                values = np.frombuffer(file.read(tensor.size), np.float32)
            found = module.get_parameter(name).detach().numpy()
            assert np.array_equal(values.reshape(tensor.shape), found)


def test_names_of_the_hub_are_known(copy: Path, tiny_schnell: Path) -> None:
    """Files of FLUX.1 were written before transformers 5 and name CLIP's and T5's parts so."""

    def older_clip(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]

    def older_t5(tensors: dict[str, Any]) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")

    edit(copy, "text_encoder", older_clip)
    edit(copy, "text_encoder_2", older_t5)
    with torch.inference_mode():
        for component in ("text_encoder", "text_encoder_2"):
            first, second = (load_component(f, component)(IDS) for f in (copy, tiny_schnell))
            assert torch.equal(first.last_hidden_state, second.last_hidden_state)


def test_another_dtype(tiny_schnell: Path, copy: Path) -> None:
    module = load_component(tiny_schnell, "vae", torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    edit(copy, "vae", lambda t: t.update({k: v.to(torch.bfloat16) for k, v in t.items()}))
    assert {p.dtype for p in load_component(copy, "vae").parameters()} == {torch.float32}


@pytest.mark.parametrize("component", list(WEIGHTS))
def test_missing_extra_and_renamed_tensors_are_named(copy: Path, component: str) -> None:
    names = sorted(component_tensors(copy, component))
    lost, renamed, reshaped = names[0], names[len(names) // 2], names[-1]

    def damage(tensors: dict[str, Any]) -> None:
        del tensors[lost]
        tensors[f"{renamed}_old"] = tensors.pop(renamed)
        tensors["one.too.many"] = torch.ones(123)
        tensors[reshaped] = torch.ones(7, 11)

    edit(copy, component, damage)
    with pytest.raises(CheckpointError) as caught:
        load_component(copy, component)
    message = str(caught.value)
    assert f"missing tensor {lost}" in message
    assert f"missing tensor {renamed} (is it {renamed}_old, renamed?)" in message
    assert "unexpected tensor one.too.many" in message
    assert f"{reshaped} has shape [7, 11], not [" in message
    assert str(copy / component) in message


def test_nan_is_named(copy: Path) -> None:
    edit(copy, "vae", lambda t: t["encoder.conv_in.bias"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.bias holds NaN or Inf"):
        load_component(copy, "vae")


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(copy: Path, keep: float) -> None:
    file = weights(copy, "transformer")
    data = file.read_bytes()
    file.write_bytes(data[: int(keep if keep > 1 or keep == 0 else keep * len(data))])
    with pytest.raises(CheckpointError, match="truncated"):
        load_component(copy, "transformer")


def test_a_truncated_shard_is_named(copy: Path) -> None:
    shard(copy, "transformer")
    last = max((copy / "transformer").glob("*-00002-of-00002.safetensors"))
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"00002-of-00002.*truncated"):
        load_component(copy, "transformer")
    last.unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 shards are missing: .*00002-of-00002"):
        load_component(copy, "transformer")


@pytest.mark.parametrize("name", ["../vae/x.safetensors", "/etc/passwd", "x.bin"])
def test_an_index_names_no_other_files(copy: Path, name: str) -> None:
    index = shard(copy, "vae")
    content = json.loads(index.read_text())
    content["weight_map"]["encoder.conv_in.bias"] = name
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="names the file"):
        load_component(copy, "vae")


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{", b"\xff\xff", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
    ],
)  # fmt: skip
def test_damaged_headers(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_header(file)


def test_pickles_are_not_read(copy: Path) -> None:
    weights(copy, "vae").rename(copy / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only a pickle"):
        load_component(copy, "vae")


@pytest.mark.parametrize(
    ("component", "file"), [(name, c.files[0]) for name, c in COMPONENTS.items()]
)
def test_a_missing_file_is_named(copy: Path, component: str, file: str) -> None:
    (copy / component / file).unlink()
    for load in (variant_of, lambda f: load_component(f, component)):
        with pytest.raises(CheckpointError) as caught:
            load(copy)
        assert file in str(caught.value)
        assert str(copy / component) in str(caught.value)


def test_what_is_no_flux(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no FLUX\.1 checkpoint"):
        variant_of(tmp_path / "nowhere")
    index = copy / "model_index.json"
    content = json.loads(index.read_text())
    content["transformer"] = ["diffusers", "SD3Transformer2DModel"]
    del content["vae"]
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        variant_of(copy)
    assert "transformer is SD3Transformer2DModel, not FluxTransformer2DModel" in str(caught.value)
    assert "vae is None, not AutoencoderKL" in str(caught.value)


def test_a_damaged_tokenizer_or_config(copy: Path) -> None:
    (copy / "tokenizer_2" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_2"):
        load_component(copy, "tokenizer_2")
    (copy / "transformer" / "config.json").write_text('{"num_layers": "many"}')
    with pytest.raises(CheckpointError, match="transformer"):
        load_component(copy, "transformer")
    (copy / "vae" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        load_component(copy, "vae")


def options_of(config: Config, **values: object) -> Config:
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    file = config.root / "builder.toml"
    file.write_text("\n".join(["[flux]", *lines]))
    return load_config(file, environ={})


def test_options(config: Config) -> None:
    options = flux_options(options_of(config))
    assert (options.text_length("schnell"), options.text_length("dev")) == (256, 512)
    assert (options.step_count("schnell"), options.step_count("dev")) == (4, 28)
    options = flux_options(options_of(config, checkpoint="flux", max_sequence_length=64, steps=8))
    assert options.checkpoint == config.root / "flux"
    assert (options.text_length("dev"), options.step_count("dev")) == (64, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", 1001), ("max_sequence_length", 0), ("max_sequence_length", 513),
        ("max_size", 100), ("max_size", 0), ("default_size", 4096), ("seed", -1),
    ],
)  # fmt: skip
def test_options_out_of_range(config: Config, name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        flux_options(options_of(config, **{name: value}))

"""LoRA files against diffusers' own converters and NumPy."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import swap_scale_shift
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft

from builder.errors import BuilderError, CheckpointError, UsageError
from builder.families.flux.checkpoint import load_component
from builder.families.flux.lora import Lora, parse_lora
from builder.families.flux.lora_file import Shapes, read_lora
from builder.families.flux.lora_fuse import architecture, fused_component, layer_shapes
from builder.families.flux.lora_names import targets
from tests.families.flux.lora_files import (
    Maker,
    clip_kohya_style,
    diffusers_style,
    kohya_style,
    save,
    xlabs_style,
)

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def layers(tiny_schnell: Path) -> Mapping[str, Shapes]:
    return architecture(tiny_schnell)


def deltas(lora: Lora, layers: Mapping[str, Shapes], component: str) -> dict[str, np.ndarray]:
    return {k: v.delta().numpy() for k, v in read_lora(lora, layers).get(component, {}).items()}


def by_diffusers(tensors: Tensors, component: str) -> dict[str, np.ndarray]:
    """What diffusers' converters make of a file, multiplied out in NumPy."""
    found: Any = FluxLoraLoaderMixin.lora_state_dict(copy.deepcopy(tensors), return_alphas=True)
    state, alphas = found
    if component == "text_encoder":
        clip = {k: v for k, v in state.items() if k.startswith("text_encoder.")}
        state = convert_state_dict_to_peft(convert_state_dict_to_diffusers(clip))
    deltas = {}
    for name, down in state.items():
        path, a, _ = name.partition(".lora_A.")
        if not a or not path.startswith(f"{component}."):
            continue
        up = state[name.replace(".lora_A.", ".lora_B.")]
        alpha = (alphas or {}).get(f"{path}.alpha")
        gain = 1.0 if alpha is None else float(alpha) / down.shape[0]
        path = path.removeprefix(f"{component}.").removeprefix("text_model.")
        deltas[path] = gain * (up.double().numpy() @ down.double().numpy())
    return deltas


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for path, value in want.items():
        assert np.abs(value).max() > 0.01, path
        np.testing.assert_allclose(got[path], value, rtol=0, atol=1e-5, err_msg=path)


STYLES = {
    "diffusers": diffusers_style(),
    "diffusers with alpha": {
        **diffusers_style(),
        **{
            name.replace(".lora_A.weight", ".alpha"): torch.tensor(8.0)
            for name in diffusers_style()
            if ".lora_A." in name
        },
    },
    "kohya": kohya_style(linear1=False),
    "kohya without alpha": kohya_style(linear1=False, alpha=None),
    "xlabs": xlabs_style(),
    "ComfyUI": {
        f"diffusion_model.{name}": tensor
        for name, tensor in {
            "double_blocks.0.img_attn.qkv.lora_down.weight": Maker(5)(4, 32),
            "double_blocks.0.img_attn.qkv.lora_up.weight": Maker(6)(96, 4),
            "single_blocks.1.linear2.lora_down.weight": Maker(7)(4, 160),
            "single_blocks.1.linear2.lora_up.weight": Maker(8)(32, 4),
        }.items()
    },
    "OneTrainer": {
        f"lora_transformer_{name}": tensor
        for name, tensor in {
            "transformer_blocks_1_attn_to_q.lora_down.weight": Maker(5)(4, 32),
            "transformer_blocks_1_attn_to_q.lora_up.weight": Maker(6)(32, 4),
            "transformer_blocks_1_attn_to_q.alpha": torch.tensor(1.0),
            "transformer_blocks_1_attn_to_out_0.lora_down.weight": Maker(7)(4, 32),
            "transformer_blocks_1_attn_to_out_0.lora_up.weight": Maker(8)(32, 4),
            "transformer_blocks_1_attn_to_out_0.alpha": torch.tensor(1.0),
        }.items()
    },
}


@pytest.mark.parametrize("style", STYLES)
def test_the_changes_are_those_of_diffusers(
    style: str, layers: Mapping[str, Shapes], tmp_path: Path
) -> None:
    lora = Lora(save(tmp_path / "a.safetensors", STYLES[style]))
    assert_same(deltas(lora, layers, "transformer"), by_diffusers(STYLES[style], "transformer"))


def test_clip_is_changed_as_by_diffusers(layers: Mapping[str, Shapes], tmp_path: Path) -> None:
    tensors = {**kohya_style(linear1=False), **clip_kohya_style()}
    lora = Lora(save(tmp_path / "a.safetensors", tensors))
    assert_same(deltas(lora, layers, "text_encoder"), by_diffusers(tensors, "text_encoder"))
    assert_same(deltas(lora, layers, "transformer"), by_diffusers(tensors, "transformer"))


def test_clips_old_names_are_known(layers: Mapping[str, Shapes], tmp_path: Path) -> None:
    """Diffusers wrote these before it used PEFT; it still reads them."""
    start, make = "text_encoder.text_model.encoder.layers.0.self_attn", Maker()
    tensors = {}
    for name in ("to_q_lora", "to_out_lora"):
        down, up = make.pair(32, 32, 4)
        tensors[f"{start}.{name}.down.weight"], tensors[f"{start}.{name}.up.weight"] = down, up
    lora = Lora(save(tmp_path / "a.safetensors", tensors))
    got = deltas(lora, layers, "text_encoder")
    assert set(got) == {f"encoder.layers.0.self_attn.{n}" for n in ("q_proj", "out_proj")}
    assert_same(got, by_diffusers(tensors, "text_encoder"))


@pytest.fixture(scope="module")
def full_size() -> Mapping[str, Shapes]:
    """The layers of the real transformer; diffusers' converters know no other."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return {"transformer": layer_shapes(FluxTransformer2DModel(guidance_embeds=True))}


def test_every_block_of_the_full_size_is_known(
    full_size: Mapping[str, Shapes], tmp_path: Path
) -> None:
    """linear1 holds q, k, v and the MLP of 3072 and 12288 rows."""
    width = 3072
    tensors = {
        name: tensor
        for name, tensor in kohya_style(width, double=19, single=38, rank=1).items()
        if "_linear1." in name or "_18_" in name or "_37_" in name
    }
    lora = Lora(save(tmp_path / "a.safetensors", tensors))
    got = read_lora(lora, full_size)["transformer"]
    state: Any = FluxLoraLoaderMixin.lora_state_dict(copy.deepcopy(tensors))
    assert {f"transformer.{path}.lora_A.weight" for path in got} == {
        name for name in state if ".lora_A." in name
    }
    for path, change in got.items():
        down, up = (state[f"transformer.{path}.lora_{side}.weight"] for side in "AB")
        assert change.up.shape == up.shape
        ours = change.factor * change.up[:, 0] * change.down[0, 0]
        torch.testing.assert_close(ours, up[:, 0] * down[0, 0])


def test_the_outer_layers_are_known(full_size: Mapping[str, Shapes]) -> None:
    """Diffusers converts these, too, but then leaves them out: it forgets their prefix."""
    table = targets("transformer", full_size["transformer"])
    outer = {
        "img_in": 64, "txt_in": 4096, "time_in_in_layer": 256, "time_in_out_layer": 3072,
        "vector_in_in_layer": 768, "vector_in_out_layer": 3072, "guidance_in_in_layer": 256,
        "guidance_in_out_layer": 3072, "final_layer_linear": 3072,
        "final_layer_adaLN_modulation_1": 3072,
    }  # fmt: skip
    assert outer.keys() <= table.keys()
    make = Maker()
    tensors = {}
    for name, into in outer.items():
        rows = {"final_layer_linear": 64, "final_layer_adaLN_modulation_1": 6144}.get(name, 3072)
        tensors[f"lora_unet_{name}.lora_down.weight"] = make(2, into)
        tensors[f"lora_unet_{name}.lora_up.weight"] = make(rows, 2)
    state: Any = FluxLoraLoaderMixin.lora_state_dict(copy.deepcopy(tensors))
    for name in outer:
        [path] = table[name].layers
        up = tensors[f"lora_unet_{name}.lora_up.weight"]
        if table[name].swapped:
            up = swap_scale_shift(up)
        torch.testing.assert_close(state[f"{path}.lora_B.weight"], up)


def test_the_halves_of_the_last_modulation_are_swapped(
    layers: Mapping[str, Shapes], tmp_path: Path
) -> None:
    make = Maker()
    name = "lora_unet_final_layer_adaLN_modulation_1"
    down, up = make.pair(64, 32, 2)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    got = deltas(Lora(save(tmp_path / "a.safetensors", tensors)), layers, "transformer")
    want = (swap_scale_shift(up) @ down).numpy()
    np.testing.assert_allclose(got["norm_out.linear"], want, rtol=0, atol=1e-6)


def test_pefts_configuration_decides_alpha(layers: Mapping[str, Shapes], tmp_path: Path) -> None:
    """PEFT's rule: alpha / rank, or alpha / sqrt(rank), and patterns for single layers."""
    tensors = diffusers_style(rank=4)
    settings = {
        "transformer.lora_alpha": 8,
        "transformer.alpha_pattern": {"attn.to_k": 2},
        "transformer.r": 4,
    }
    plain = deltas(Lora(save(tmp_path / "a.safetensors", tensors)), layers, "transformer")
    for rslora in (False, True):
        given = json.dumps({**settings, "transformer.use_rslora": rslora})
        file = save(tmp_path / "b.safetensors", tensors, lora_adapter_metadata=given)
        got = deltas(Lora(file), layers, "transformer")
        divisor = 2.0 if rslora else 4.0
        for path, value in plain.items():
            alpha = 2.0 if path.endswith("attn.to_k") else 8.0
            np.testing.assert_allclose(got[path], value * alpha / divisor, rtol=1e-5)


def test_fused_weights_are_numpys(tiny_dev: Path, tmp_path: Path) -> None:
    first, second = kohya_style(seed=1, outer=True), diffusers_style(seed=2)
    loras = [
        Lora(save(tmp_path / "a.safetensors", first), 0.8),
        Lora(save(tmp_path / "b.safetensors", second), -0.5),
    ]
    plain = load_component(tiny_dev, "transformer").state_dict()
    fused = fused_component(tiny_dev, "transformer", loras).state_dict()

    def product(tensors: Tensors, name: str, up: str, down: str) -> np.ndarray:
        return (tensors[f"{name}.{up}.weight"] @ tensors[f"{name}.{down}.weight"]).numpy()

    changed = {name for name in plain if not torch.equal(plain[name], fused[name])}
    qkv = product(first, "lora_unet_double_blocks_0_img_attn_qkv", "lora_up", "lora_down")
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        path = f"transformer_blocks.0.attn.{name}"
        want = (
            plain[f"{path}.weight"].numpy()
            + 0.8 * (2.0 / 4) * qkv[32 * i : 32 * (i + 1)]
            - 0.5 * product(second, f"transformer.{path}", "lora_B", "lora_A")
        )
        np.testing.assert_allclose(fused[f"{path}.weight"].numpy(), want, rtol=0, atol=1e-6)
    linear1 = product(first, "lora_unet_single_blocks_1_linear1", "lora_up", "lora_down")
    path = "single_transformer_blocks.1.proj_mlp.weight"
    np.testing.assert_allclose(
        fused[path].numpy(), plain[path].numpy() + 0.4 * linear1[96:], rtol=0, atol=1e-6
    )
    assert all(name.endswith(".weight") for name in changed)
    assert len(changed) == 2 * 14 + 2 * 6 + 6
    assert all("norm_q" not in name and "norm_k" not in name for name in changed)


def test_a_scale_of_zero_changes_nothing(tiny_schnell: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", kohya_style())
    plain = load_component(tiny_schnell, "transformer").state_dict()
    fused = fused_component(tiny_schnell, "transformer", [Lora(file, 0.0)]).state_dict()
    assert all(torch.equal(plain[name], fused[name]) for name in plain)


SD = {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 32)}
GOOD = "transformer.transformer_blocks.0.attn.to_q"
BAD: dict[str, tuple[Tensors, str]] = {
    "SD": (SD, "Stable Diffusion"),
    "SDXL": ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())}, "Stable"),
    "unknown": (
        {"lora_unet_a.lora_down.weight": torch.ones(1, 1), "b.lora_A.weight": torch.ones(1, 1)},
        r"unknown tensor b.lora_A.weight; unknown tensor lora_unet_a.lora_down.weight",
    ),
    "a block that is not there": (
        {"transformer.transformer_blocks.2.attn.to_q.lora_A.weight": torch.ones(4, 32)},
        "unknown tensor transformer.transformer_blocks.2",
    ),
    "a weight": ({f"{GOOD}.weight": torch.ones(32, 32)}, f"unknown tensor {GOOD}.weight"),
    "width": (
        {f"{GOOD}.lora_A.weight": torch.ones(4, 48), f"{GOOD}.lora_B.weight": torch.ones(32, 4)},
        r"lora_A.weight has shape \[4, 48\], not \[rank, 32\]",
    ),
    "rows": (
        {f"{GOOD}.lora_A.weight": torch.ones(4, 32), f"{GOOD}.lora_B.weight": torch.ones(96, 4)},
        r"lora_B.weight has shape \[96, 4\], not \[32, rank\]",
    ),
    "ranks": (
        {f"{GOOD}.lora_A.weight": torch.ones(4, 32), f"{GOOD}.lora_B.weight": torch.ones(32, 8)},
        "has rank 4, .* has rank 8",
    ),
    "rank 0": (
        {f"{GOOD}.lora_A.weight": torch.ones(0, 32), f"{GOOD}.lora_B.weight": torch.ones(32, 0)},
        "has rank 0",
    ),
    "no up": ({f"{GOOD}.lora_A.weight": torch.ones(4, 32)}, "has no up beside it"),
    "only alpha": ({f"{GOOD}.alpha": torch.ones(())}, "has no up and down beside it"),
    "NaN": (
        {
            f"{GOOD}.lora_A.weight": torch.full((4, 32), float("nan")),
            f"{GOOD}.lora_B.weight": torch.ones(32, 4),
        },
        "lora_A.weight holds NaN or Inf",
    ),
    "alpha": ({**diffusers_style(), f"{GOOD}.alpha": torch.ones(3)}, "not one number"),
    "twice": (
        {**diffusers_style(), **{k: v for k, v in kohya_style().items() if "0_img_attn_qkv" in k}},
        "transformer_blocks.0.attn.to_q is changed twice",
    ),
    "T5": (
        {
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(4, 32),
            "lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": torch.ones(32, 4),
        },
        "is for T5, which is not supported",
    ),
    "DoRA": ({**diffusers_style(), f"{GOOD}.dora_scale": torch.ones(32)}, "is DoRA"),
    "LoKr": ({"lora_unet_img_in.lokr_w1": torch.ones(2, 2)}, "is LoKr"),
    "LoHa": ({"lora_unet_img_in.hada_w1_a": torch.ones(2, 2)}, "is LoHa"),
    "bias": ({**diffusers_style(), f"{GOOD}.lora_B.bias": torch.ones(32)}, "LoRA of a bias"),
    "integers": ({f"{GOOD}.lora_A.weight": torch.ones(4, 32).int()}, "no floating-point"),
    "nothing": ({}, "changes nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named(
    case: str, layers: Mapping[str, Shapes], tmp_path: Path
) -> None:
    tensors, message = BAD[case]
    file = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match=message) as error:
        read_lora(Lora(file), layers)
    assert error.value.where == str(file)


def test_t5_without_effect_is_passed_over(layers: Mapping[str, Shapes], tmp_path: Path) -> None:
    name = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"
    tensors = {
        **diffusers_style(),
        f"{name}.lora_A.weight": torch.ones(4, 32),
        f"{name}.lora_B.weight": torch.zeros(32, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    lora = Lora(save(tmp_path / "a.safetensors", tensors))
    assert set(read_lora(lora, layers)) == {"transformer"}


def test_overflow_is_an_error(tiny_schnell: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", diffusers_style())
    with pytest.raises(CheckpointError, match="overflow"):
        fused_component(tiny_schnell, "transformer", [Lora(file, 1e39)])


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04K\x01.", b"\xff" * 64, b"\x08" + b"\0" * 7 + b"{}      "]
)
def test_other_files_are_refused(
    content: bytes, layers: Mapping[str, Shapes], tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_lora(Lora(file), layers)


def test_a_file_that_is_cut_off_is_refused(layers: Mapping[str, Shapes], tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", diffusers_style())
    data = file.read_bytes()
    for size in (4, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            read_lora(Lora(file), layers)


def test_files_and_scales_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "odd:0.5"):
        (tmp_path / name).touch()
    assert parse_lora("a.safetensors:0.8") == Lora(tmp_path / "a.safetensors", 0.8)
    assert parse_lora("a.safetensors:-1") == Lora(tmp_path / "a.safetensors", -1.0)
    assert parse_lora("a.safetensors") == Lora(tmp_path / "a.safetensors", 1.0)
    assert parse_lora("odd:0.5") == Lora(tmp_path / "odd:0.5", 1.0)
    assert parse_lora("odd:0.5:2") == Lora(tmp_path / "odd:0.5", 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.safetensors:big", "'big' is no scale"),
        ("a.safetensors:nan", "'nan' is no scale"),
        ("a.safetensors:inf", "'inf' is no scale"),
        ("a.safetensors:", "'' is no scale"),
        ("b.safetensors:1", "no such file"),
        ("b.safetensors", "no such file"),
        ("", "no such file"),
        (".:1", "no such file"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(UsageError, match=message):
        parse_lora(text)


def test_a_missing_file_is_named(layers: Mapping[str, Shapes], tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=r"gone\.safetensors"):
        read_lora(Lora(tmp_path / "gone.safetensors"), layers)

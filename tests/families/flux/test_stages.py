"""FLUX's stages against diffusers and transformers, without the wrappers that are exported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from builder.config import Config, load_config
from builder.errors import CheckpointError
from builder.export.parity import Runner, onnx_runner
from builder.families.flux.models import dit_step, text_encoders, vae_decoder
from builder.families.flux.models.variants import TINY_WIDTHS, Variant, variants
from builder.record import read_record
from builder.stage import Arrays

TOLERANCE = 5e-6


@pytest.fixture(scope="module", params=["schnell", "dev"])
def variant(built: Config, request: pytest.FixtureRequest) -> Variant:
    return next(v for v in variants(built) if v.name == request.param)


def exported(built: Config, name: str) -> Runner:
    return onnx_runner(built.exports / "flux" / name / "model.onnx")


def by_diffusers(variant: Variant, arrays: Arrays) -> np.ndarray:
    """One step of one sample, with the pipeline's own helpers and the scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    transformer = variant.component("transformer")
    latents = torch.from_numpy(arrays["latents"])
    batch, channels, h, w = latents.shape
    assert batch == 1
    step = int(arrays["step"][0, 0])
    scheduler = FlowMatchEulerDiscreteScheduler()
    sigmas = torch.from_numpy(arrays["sigmas"][0])
    scheduler.set_timesteps(sigmas=sigmas[:-1].numpy())
    scheduler.sigmas, scheduler.timesteps = sigmas, sigmas[:-1] * 1000
    t = scheduler.timesteps[step]
    packed = FluxPipeline._pack_latents(latents, batch, channels, h, w)
    guidance = arrays.get("guidance")
    with torch.inference_mode():
        velocity = transformer(
            hidden_states=packed,
            timestep=t.expand(batch) / 1000,
            guidance=None if guidance is None else torch.from_numpy(guidance[:, 0]),
            pooled_projections=torch.from_numpy(arrays["pooled_prompt_embeds"]),
            encoder_hidden_states=torch.from_numpy(arrays["prompt_embeds"]),
            txt_ids=torch.zeros(arrays["prompt_embeds"].shape[1], 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, h // 2, w // 2, "cpu", torch.float32),
            return_dict=False,
        )[0]
        packed = scheduler.step(velocity, t, packed, return_dict=False)[0]
    return FluxPipeline._unpack_latents(packed, h * 8, w * 8, 8).numpy()


@pytest.mark.parametrize(("h", "w", "text"), [(10, 18, 33), (16, 16, 5), (2, 30, 1)])
def test_a_step_is_that_of_diffusers(
    built: Config, variant: Variant, h: int, w: int, text: int
) -> None:
    run = exported(built, dit_step.name_of(variant))
    shape = {"B": 1, "h": h, "w": w, "N": 7, "S": text}
    for seed in range(3):
        arrays = dit_step.example(variant, shape, np.random.default_rng(seed))
        got = run(arrays)
        np.testing.assert_allclose(
            got["next_latents"], by_diffusers(variant, arrays), rtol=0, atol=TOLERANCE
        )
        np.testing.assert_array_equal(got["next_step"], arrays["step"] + 1)


@pytest.mark.parametrize("batch", [2, 3, 4, 8])
def test_samples_at_different_steps_do_not_feel_each_other(
    built: Config, variant: Variant, batch: int
) -> None:
    run = exported(built, dit_step.name_of(variant))
    shape = {"B": batch, "h": 12, "w": 8, "N": 29, "S": 16}
    arrays = dit_step.example(variant, shape, np.random.default_rng(batch))
    arrays["step"] = np.arange(batch)[:, None] * 3
    together = run(arrays)
    for i in range(batch):
        alone = run({name: array[i : i + 1] for name, array in arrays.items()})
        for name, value in alone.items():
            np.testing.assert_array_equal(together[name][i : i + 1], value)


def test_guidance_changes_the_step(built: Config) -> None:
    dev = next(v for v in variants(built) if v.guided)
    run = exported(built, dit_step.name_of(dev))
    shape = {"B": 1, "h": 4, "w": 4, "N": 3, "S": 4}
    arrays = dit_step.example(dev, shape, np.random.default_rng(0))
    low = run({**arrays, "guidance": np.array([[1.0]], np.float32)})["next_latents"]
    high = run({**arrays, "guidance": np.array([[7.0]], np.float32)})["next_latents"]
    assert np.abs(low - high).max() > 1e-2


@pytest.mark.parametrize(("batch", "text"), [(1, 512), (3, 20)])
def test_the_text_encoders_are_those_of_transformers(
    built: Config, variant: Variant, batch: int, text: int
) -> None:
    """One export serves both variants, so both must have the same encoders."""
    rng = np.random.default_rng(text)
    clip = text_encoders.clip_example(TINY_WIDTHS.clip_vocabulary, {"B": batch}, rng)
    t5 = text_encoders.t5_example(TINY_WIDTHS.t5_vocabulary, {"B": batch, "S": text}, rng)
    with torch.inference_mode():
        pooled = variant.component("text_encoder")(torch.from_numpy(clip["input_ids"]))
        embeds = variant.component("text_encoder_2")(torch.from_numpy(t5["input_ids"]))
    np.testing.assert_allclose(
        exported(built, text_encoders.CLIP_NAME)(clip)["pooled_prompt_embeds"],
        pooled.pooler_output.numpy(),
        rtol=0,
        atol=TOLERANCE,
    )
    np.testing.assert_allclose(
        exported(built, text_encoders.T5_NAME)(t5)["prompt_embeds"],
        embeds.last_hidden_state.numpy(),
        rtol=0,
        atol=2e-5,  # PyTorch itself is that far from FP64
    )


@pytest.mark.parametrize(("batch", "h", "w"), [(1, 6, 10), (2, 8, 8)])
def test_the_decoder_is_that_of_diffusers(
    built: Config, variant: Variant, batch: int, h: int, w: int
) -> None:
    from diffusers.image_processor import VaeImageProcessor

    arrays = vae_decoder.example(16, {"B": batch, "h": h, "w": w}, np.random.default_rng(h))
    vae = variant.component("vae")
    with torch.inference_mode():
        z = torch.from_numpy(arrays["latents"]) / vae.config.scaling_factor
        decoded = vae.decode(z + vae.config.shift_factor, return_dict=False)[0]
    images = VaeImageProcessor(vae_scale_factor=16).postprocess(decoded, output_type="pil")
    want = np.stack([np.asarray(image) for image in images]).astype(int)
    got = exported(built, vae_decoder.NAME)(arrays)["image"]
    assert got.dtype == np.uint8
    assert got.shape == (batch, 8 * h, 8 * w, 3)
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 1e-3


@pytest.mark.parametrize("name", ["clip_encoder", "dit_step", "dit_step_dev", "vae_decoder"])
def test_the_parity_is_recorded(built: Config, name: str) -> None:
    record = read_record(built.exports / "flux" / name)
    assert record is not None
    parity = record.measured["parity"]
    assert parity["worst"] <= (1 if name == "vae_decoder" else TOLERANCE)
    batches = {shape["B"] for shape in parity["shapes"]}
    assert {1, 2, 4} <= batches
    if "h" in parity["shapes"][0]:
        sizes = {(shape["h"], shape["w"]) for shape in parity["shapes"]}
        assert len(sizes) >= 2
        assert any(h != w for h, w in sizes)


def test_the_tables_are_those_of_diffusers(variant: Variant) -> None:
    from builder.families.flux.networks.dit_step import RotaryTables, Sinusoids

    transformer = variant.component("transformer")
    axes = tuple(transformer.config.axes_dims_rope)
    ids = torch.randint(0, 128, (500, 3), generator=torch.Generator().manual_seed(1))
    cos, sin = RotaryTables(10000, axes, 128)(ids)
    want_cos, want_sin = transformer.pos_embed(ids.float())
    assert torch.equal(cos, want_cos)
    assert torch.equal(sin[:, ::2], -want_sin[:, ::2])
    assert torch.equal(sin[:, 1::2], want_sin[:, 1::2])
    projection = transformer.time_text_embed.time_proj
    values = torch.linspace(0, 7000, 333)
    assert torch.equal(Sinusoids(projection.num_channels)(values), projection(values))


def test_the_attention_is_that_of_diffusers(variant: Variant) -> None:
    from builder.families.flux.networks.attention import RotaryAttention

    generator = torch.Generator().manual_seed(2)
    transformer = variant.component("transformer")
    layers = (transformer.transformer_blocks[0].attn, transformer.single_transformer_blocks[0].attn)
    angles = torch.rand(24, 8, generator=generator).repeat_interleave(2, dim=1)
    cos, sin = angles.cos(), angles.sin()
    signed = sin * torch.tensor([-1.0, 1.0]).repeat(8)
    text, image = (torch.randn(2, n, 32, generator=generator) for n in (9, 15))
    for layer, arguments in zip(
        layers, ((image, text), (torch.cat((text, image), 1),)), strict=True
    ):
        with torch.no_grad():
            want = layer(*arguments, image_rotary_emb=(cos, sin))
            layer.set_processor(RotaryAttention(16))
            got = layer(*arguments, image_rotary_emb=(cos, signed))
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_the_declared_widths_are_those_of_the_tiny_checkpoint(variant: Variant) -> None:
    """A real checkpoint's widths are read from it; the same reading must give the constant."""
    folder = variant.folder()
    config = load_config(root=folder.parent, environ={"BUILDER_FLUX_CHECKPOINT": str(folder)})
    [real] = variants(config)
    assert real.widths == TINY_WIDTHS
    assert (real.name, real.tiny) == (variant.name, False)
    assert {path.name for path in real.files("transformer")} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = load_config(root=tmp_path, environ={"BUILDER_FLUX_CHECKPOINT": "empty"})
    with pytest.raises(CheckpointError, match="empty"):
        variants(config)


def test_declaring_costs_nothing(tmp_path: Path) -> None:
    """`builder status` must stay quick, and must not make a checkpoint."""
    script = (
        "import sys, json\n"
        "from builder.config import load_config\n"
        "from builder.family import Registry\n"
        "names = list(Registry.load(load_config()).stages)\n"
        "print(json.dumps([names, sorted({'torch', 'onnx', 'diffusers'} & set(sys.modules))]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names, heavy = json.loads(done.stdout)
    assert {"flux_tokenizer", "clip_encoder", "t5_encoder", "dit_step_dev"} <= set(names)
    assert heavy == []
    assert list(tmp_path.iterdir()) == []

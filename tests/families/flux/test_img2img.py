"""Image-to-image: its graphs against NumPy, its reference against diffusers, and on a server."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.flux import pipeline_flux_img2img
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from builder.cli import cli
from builder.config import Config
from builder.errors import DataError, ServerError, UsageError
from builder.export.parity import onnx_runner
from builder.families.flux.checkpoint import COMPONENTS, load_component
from builder.families.flux.flux_pipeline import FluxReference
from builder.families.flux.generate_options import check_strength, choose, read_start
from builder.families.flux.img2img_graph import (
    image_model,
    image_prepare_model,
    image_prepare_reference,
    image_reference,
)
from builder.families.flux.models import image, pipelines, vae_encoder
from builder.families.flux.models.specs import PipelineSpec, specs
from builder.families.flux.models.variants import variants
from builder.families.flux.pictures import read_picture, save_png
from builder.families.flux.prepare_graph import PreparePlan
from builder.families.flux.schedule import Schedule
from builder.serving.client import infer
from builder.serving.server import TritonServer
from builder.stage import Arrays

SCHNELL: dict[str, Any] = {"shift": 1.0}
DEV: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True}

Run = Callable[[Arrays], Arrays]


def runner(model: onnx.ModelProto, level: str = "ORT_ENABLE_ALL") -> Run:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def request_of(strengths: list[float], rows: int = 8, columns: int = 12) -> Arrays:
    rng = np.random.default_rng(0)
    count = len(strengths)
    return {
        "seed": rng.integers(-(2**63), 2**63 - 1, (count, 1)),
        "strength": np.array(strengths, np.float32)[:, None],
        "image_latents": rng.standard_normal((count, 16, rows, columns), dtype=np.float32),
    }


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return image.example_image(count, height, width, np.random.default_rng(seed))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(
    ("config", "steps"), [(SCHNELL, 4), (SCHNELL, 1), ({"shift": 3.0}, 5), (DEV, 28), (DEV, 7)]
)
def test_every_bit_is_numpys(config: dict[str, Any], steps: int, level: str) -> None:
    plan = PreparePlan(steps, config, 512)
    run = runner(image_prepare_model(plan), level)
    for arrays in (
        request_of([0.6]),
        request_of([1.0, 0.25, 1e-3, 1 / 3, 1e-30], 32, 6),
        request_of([1e-45, 0.9999999], 64, 64),
    ):
        got, want = run(arrays), image_prepare_reference(plan, arrays)
        assert got.keys() == want.keys()
        for name, array in want.items():
            assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
            assert got[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("config", [SCHNELL, DEV, {"shift": 3.0}])
@pytest.mark.parametrize(
    ("steps", "strength", "theirs"), [(4, 0.5, 8), (4, 1.0, 4), (4, 0.4, 10), (7, 0.7, 10)]
)
def test_sigmas_are_the_last_ones_of_diffusers(
    config: dict[str, Any], steps: int, strength: float, theirs: int
) -> None:
    """Theirs is a schedule of more steps, which the strength cuts down to as many as are taken."""
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    shift = [scheduler.config[f"{side}_image_seq_len"] for side in ("base", "max")]
    shift += [scheduler.config[f"{side}_shift"] for side in ("base", "max")]
    for tokens in (1, 256, 4096):
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / theirs, theirs), mu=calculate_shift(tokens, *shift)
        )
        found = Schedule.from_config(scheduler.config).sigmas(steps, tokens, strength)
        start = int(max(theirs - min(theirs * strength, theirs), 0))
        np.testing.assert_allclose(found, scheduler.sigmas.numpy()[start:], rtol=3e-7, atol=0)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.0001, float("nan"), float("inf")])
def test_a_bad_strength_fails_with_a_message(strength: float) -> None:
    plan = PreparePlan(4, SCHNELL, 512)
    run = runner(image_prepare_model(plan))
    with pytest.raises(Exception, match="strength must be a number above 0 and not above 1"):
        run(request_of([0.5, strength]))
    with pytest.raises(ValueError, match="strength must be"):
        image_prepare_reference(plan, request_of([0.5, strength]))
    assert run(request_of([0.5]))["latents"].shape == (1, 16, 8, 12)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (8, 64, "the image's height must be a positive multiple of 16"),
        (64, 40, "the image's width must be a positive multiple of 16"),
        (528, 64, "the image's height must not be above 512"),
        (0, 64, "the image's height must be a positive multiple of 16"),
    ],
)
def test_a_bad_size_fails_with_a_message(height: int, width: int, message: str) -> None:
    run = runner(image_model("x", 512))
    with pytest.raises(Exception, match=message):
        run({"x": np.zeros((2, height, width, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"multiple of 16|limit is 512"):
        image_reference("x", 512, {"x": np.zeros((2, height, width, 3), np.uint8)})
    good = pictures(2, 32, 512)
    np.testing.assert_array_equal(run({"x": good})["checked_image"], good)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only lose by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("kind", "steps", "strength", "theirs"),
    [("schnell", 4, 0.5, 8), ("schnell", 2, 1.0, 2), ("dev", 7, 0.7, 10)],
)
def test_images_are_those_of_diffusers(
    tiny_schnell: Path,
    tiny_dev: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    steps: int,
    strength: float,
    theirs: int,
) -> None:
    """`FluxImg2ImgPipeline`, with the posterior's mean and our noise in place of its draws."""
    folder = tiny_dev if kind == "dev" else tiny_schnell
    reference = FluxReference(folder, max_sequence_length=24)
    prompts, seeds, height, width = ["a red fox", "ein Haus"], [3, 4], 48, 80
    start = pictures(2, height, width)
    guidance = 3.0 if kind == "dev" else None
    got = reference.generate_from(start, strength, prompts, seeds, steps, guidance)

    parts = {name: load_component(folder, name) for name in COMPONENTS}
    pipeline = FluxImg2ImgPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    mean = pipeline_flux_img2img.retrieve_latents
    monkeypatch.setattr(
        pipeline_flux_img2img,
        "retrieve_latents",
        lambda encoded, generator: mean(encoded, generator, sample_mode="argmax"),
    )
    noise = reference.noise(seeds, height, width)
    monkeypatch.setattr(pipeline_flux_img2img, "randn_tensor", lambda *_, **__: noise)
    wanted = pipeline(
        prompts, image=[Image.fromarray(one) for one in start], height=height, width=width,
        num_inference_steps=theirs, strength=strength, guidance_scale=guidance or 0.0,
        max_sequence_length=24, output_type="np",
    ).images  # fmt: skip
    want = (wanted * 255).round().astype(np.uint8)
    assert np.abs(got.astype(int) - want).max() <= 1
    assert (got != want).mean() < 1e-2
    assert got.std() > 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "strength is 0.0"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"images": np.zeros((2, 64, 64, 3), np.uint8)}, "an image for each prompt"),
        ({"images": np.zeros((1, 64, 64, 3), np.float32)}, "float32"),
        ({"images": np.zeros((1, 64, 64, 4), np.uint8)}, r"\[1, 64, 64, 4\]"),
        ({"images": np.zeros((1, 65, 64, 3), np.uint8)}, "height is 65"),
    ],
)
def test_the_reference_refuses_what_does_not_fit(
    tiny_schnell: Path, changes: dict[str, Any], message: str
) -> None:
    good = {"images": pictures(1, 64, 64), "strength": 0.5, "prompts": ["a"], "seeds": [1]}
    with pytest.raises(UsageError, match=message):
        FluxReference(tiny_schnell).generate_from(**{**good, **changes})


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 48, 80), (2, 64, 64)])
def test_the_encoder_is_that_of_diffusers(
    built: Config, batch: int, height: int, width: int
) -> None:
    start = pictures(batch, height, width, seed=height)
    vae = variants(built)[0].component("vae")
    pixels = VaeImageProcessor(vae_scale_factor=16).preprocess(
        [Image.fromarray(one) for one in start]
    )
    with torch.inference_mode():
        mean = vae.encode(pixels).latent_dist.mode()
    want = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    run = onnx_runner(built.exports / "flux" / vae_encoder.NAME / "model.onnx")
    got = run({"image": start})["image_latents"]
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=5e-6)
    assert want.std() > 0.01


@pytest.mark.parametrize(("name", "stage"), [("flux_img2img", ""), ("flux_img2img_dev", "_dev")])
def test_it_shares_the_networks_and_has_one_first_step(
    config: Config, name: str, stage: str
) -> None:
    """With several first steps a failure can lock the server up; see `prepare.AFTER`."""
    spec = next(spec for spec in specs(config) if spec.name == name)
    pipeline = pipelines.pipeline(spec)
    given = {tensor.name for tensor in pipeline.inputs}
    first = [s.model for s in pipeline.steps if set(s.inputs.values()) <= given]
    assert first == [f"flux_tokenizer{stage}"]
    assert [s.model for s in pipeline.steps].count(f"dit_step{stage}") == spec.steps


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["flux_img2img", "flux_img2img_dev"])
@pytest.mark.parametrize(("height", "width", "strengths"), [(64, 64, [0.6]), (80, 48, [0.3, 0.95])])
def test_the_server_paints_what_the_reference_paints(
    client: InferenceServerClient,
    flux: dict[str, PipelineSpec],
    name: str,
    height: int,
    width: int,
    strengths: list[float],
) -> None:
    count = len(strengths)
    prompts, seeds = ["a lighthouse, at night", "зимний лес ❄"][:count], [3, -4][:count]
    start = pictures(count, height, width)
    arrays = pipelines.image_request(flux[name], prompts, seeds, start, 0.5, 2.5)
    arrays["strength"] = np.array(strengths, np.float32)[:, None]
    want = pipelines.reference(flux[name], arrays)["image"]
    got = infer(client, name, arrays)["image"]
    assert (got.dtype, got.shape) == (np.uint8, (count, height, width, 3))
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
    assert got.std() > 5


@pytest.mark.e2e
def test_strength_goes_from_the_image_to_noise_alone(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_img2img"]
    start = pictures(1, 64, 96)

    def paint(strength: float) -> np.ndarray:
        arrays = pipelines.image_request(spec, ["a fox"], [7], start, strength, 0.0)
        return infer(client, spec.name, arrays)["image"]

    plain = pipelines.request(flux["flux_schnell"], ["a fox"], [7], 64, 96, 0.0)
    alone = infer(client, "flux_schnell", plain)["image"]
    np.testing.assert_array_equal(paint(1.0), alone)
    reference = FluxReference(spec.variant.folder())
    kept = reference.decode(reference.encode_image(start))
    assert np.abs(paint(1e-6).astype(int) - kept.astype(int)).max() <= 1
    apart = [np.abs(paint(s).astype(int) - kept.astype(int)).mean() for s in (0.1, 0.4, 0.8)]
    assert apart == sorted(apart)
    assert apart[0] > 0.1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no multiple of 16": ({"init_image": np.zeros((1, 40, 64, 3), np.uint8)}, "height must be"),
    "too wide": ({"init_image": np.zeros((1, 16, 2064, 3), np.uint8)}, "above 2048"),
    "float": ({"init_image": np.zeros((1, 32, 32, 3), np.float32)}, "init_image"),
    "alpha": ({"init_image": np.zeros((1, 32, 32, 4), np.uint8)}, "init_image"),
    "NaN": ({"strength": np.array([[np.nan]], np.float32)}, "strength must be"),
    "zero": ({"strength": np.array([[0.0]], np.float32)}, "strength must be"),
    "above 1": ({"strength": np.array([[1.5]], np.float32)}, "strength must be"),
    "no UTF-8": ({"prompt": np.array([[b"\xff\xfe"]], object)}, "UTF-8"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_explained_and_harm_nobody(
    client: InferenceServerClient, flux: dict[str, PipelineSpec], case: str
) -> None:
    changes, expected = BAD[case]
    spec = flux["flux_img2img"]
    good = pipelines.image_request(spec, ["x"], [1], pictures(1, 32, 32), 0.5, 0.0)
    with pytest.raises(ServerError, match=expected):
        infer(client, spec.name, {**good, **changes})
    assert infer(client, spec.name, good)["image"].shape == (1, 32, 32, 3)


@pytest.mark.e2e
def test_generate_starts_with_a_picture(
    native: TritonServer, built: Config, tmp_path: Path
) -> None:
    save_png(pictures(1, 90, 130)[0], tmp_path / "in.png")
    result = CliRunner().invoke(
        cli,
        ["generate", "a boat", "--image", str(tmp_path / "in.png"), "--strength", "0.7",
         "--size", "64x96", "--seed", "5", "-o", str(tmp_path / "out.png"), "--compare",
         "--json", "--url", native.grpc_url],
        obj=built,
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["pipeline"], report["height"], report["width"]) == ("flux_img2img", 64, 96)
    assert report["difference"]["max_levels"] <= 1
    stages = {stage["stage"]: stage["runs"] for stage in report["stages"]}
    assert stages["vae_encoder"] == 1
    assert stages["dit_step"] == 4
    assert np.asarray(Image.open(tmp_path / "out.png")).shape == (64, 96, 3)


def test_pipelines_are_chosen_by_what_they_start_with(config: Config) -> None:
    assert choose(config, None, None, image=True).name == "flux_img2img"
    assert choose(config, None, 28, image=True).name == "flux_img2img_dev"
    with pytest.raises(UsageError, match="takes no image"):
        choose(config, "flux_dev", None, image=True)
    with pytest.raises(UsageError, match="starts with an image"):
        choose(config, "flux_img2img", None)
    with pytest.raises(UsageError, match="no pipeline with 9 steps") as error:
        choose(config, None, 9, image=True)
    assert "--steps 9 --img2img" in str(error.value)


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.1, float("nan"), float("inf")])
def test_generate_refuses_a_bad_strength(config: Config, strength: float) -> None:
    spec = choose(config, None, None, image=True)
    with pytest.raises(UsageError, match="no strength"):
        check_strength(strength, spec)
    with pytest.raises(UsageError, match="for --image only"):
        check_strength(0.5, choose(config, None, None))


def test_a_picture_of_another_size_is_scaled_or_refused(config: Config, tmp_path: Path) -> None:
    spec = choose(config, None, None, image=True)
    save_png(pictures(1, 60, 100)[0], tmp_path / "odd.png")
    with pytest.raises(UsageError, match="height is 60") as error:
        read_start(tmp_path / "odd.png", None, spec)
    assert "--size 48x96" in str(error.value)
    assert read_start(tmp_path / "odd.png", "48x96", spec).shape == (48, 96, 3)
    save_png(pictures(1, 48, 96)[0], tmp_path / "fits.png")
    np.testing.assert_array_equal(
        read_start(tmp_path / "fits.png", None, spec), pictures(1, 48, 96)[0]
    )


def test_pictures_of_any_kind_become_rgb(tmp_path: Path) -> None:
    colours = Image.fromarray(pictures(1, 32, 48)[0])
    for name, picture in {
        "grey.png": colours.convert("L"),
        "palette.gif": colours.convert("P"),
        "jpeg.jpg": colours,
        "sixteen.png": Image.fromarray(np.full((32, 48), 40000, np.uint16)),
        "clear.png": Image.new("RGBA", (48, 32), (0, 0, 0, 0)),
    }.items():
        picture.save(tmp_path / name)
        read = read_picture(tmp_path / name)
        assert (read.dtype, read.shape) == (np.uint8, (32, 48, 3))
        if name == "clear.png":
            assert (read == 255).all()
    turned = Image.Exif()
    turned[0x0112] = 6
    colours.save(tmp_path / "turned.jpg", exif=turned)
    assert read_picture(tmp_path / "turned.jpg").shape == (48, 32, 3)


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    save_png(pictures(1, 32, 48)[0], tmp_path / "good.png")
    data = (tmp_path / "good.png").read_bytes()
    for name, content in {"text.png": b"hello", "empty.png": b"", "cut.png": data[:-400]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_picture(tmp_path / name)
    with pytest.raises(DataError, match="gone"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(DataError):
        read_picture(tmp_path)
    for side in (10_000, 30_000):  # the second one is refused by Pillow itself
        header = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 2, 0, 0, 0)
        crc = struct.pack(">I", zlib.crc32(header))
        (tmp_path / "bomb.png").write_bytes(data[:12] + header + crc + data[33:])
        with pytest.raises(DataError, match=r"10000x10000|900000000 pixels"):
            read_picture(tmp_path / "bomb.png")

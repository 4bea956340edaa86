"""The text-to-image pipelines: declared, chained, and on a real server without Python."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tritonclient.grpc import InferenceServerClient

from builder.config import Config, load_config
from builder.errors import BuilderError, ServerError
from builder.export.parity import onnx_runner
from builder.families.flux.models import pipelines
from builder.families.flux.models.specs import PipelineSpec, specs
from builder.families.flux.models.variants import variants
from builder.record import read_record
from builder.serving.client import infer
from builder.serving.server import TritonServer

NAMES = ["flux_schnell", "flux_dev"]


@pytest.mark.parametrize("steps", [1, 4, 28, 100])
def test_any_number_of_steps_is_the_same_model_named_that_often(config: Config, steps: int) -> None:
    variant = variants(config)[0]
    pipeline = pipelines.pipeline(PipelineSpec("many", variant, steps, "many_prepare"))
    named = [step.model for step in pipeline.steps]
    assert named.count("dit_step") == steps
    assert len(named) == steps + 5
    assert set(named) - {"dit_step"} == {
        "flux_tokenizer", "clip_encoder", "t5_encoder", "many_prepare", "vae_decoder",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_request_starts_with_one_step(config: Config, name: str) -> None:
    """With several first steps a failure can lock the server up; see `prepare.AFTER`."""
    spec = next(spec for spec in specs(config) if spec.name == name)
    pipeline = pipelines.pipeline(spec)
    given = {tensor.name for tensor in pipeline.inputs}
    first = [step.model for step in pipeline.steps if set(step.inputs.values()) <= given]
    assert len(first) == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_parity_is_recorded(built: Config, name: str) -> None:
    record = read_record(built.repository / "ensemble" / name / "1")
    assert record is not None
    assert record.measured["parity"]["max_abs"]["image"] <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_chained_latents_are_those_of_the_reference(
    built: Config, flux: dict[str, PipelineSpec], name: str, height: int, width: int
) -> None:
    """Every step's latents, without a server: ±1 in the image could hide a drift."""
    from builder.families.flux.flux_pipeline import FluxReference

    spec = flux[name]
    tensors = dict(pipelines.request(spec, ["two boats"], [7], height, width, 4.0))
    chain = pipelines.pipeline(spec).steps
    runs = {
        model: onnx_runner(built.exports / "flux" / model / "model.onnx")
        for model in {step.model for step in chain}
    }
    for step in chain:
        results = runs[step.model]({k: tensors[v] for k, v in step.inputs.items()})
        tensors |= {v: results[k] for k, v in step.outputs.items()}
    seen = []

    def on_step(number: int, latents: torch.Tensor) -> None:
        seen.append(number)
        np.testing.assert_allclose(
            tensors[f"latents_{number + 1}"], latents.numpy(), rtol=0, atol=1e-4
        )

    want = FluxReference(spec.variant.folder()).generate(
        ["two boats"],
        [7],
        height,
        width,
        spec.steps,
        4.0 if spec.variant.guided else None,
        on_step=on_step,
    )
    assert seen == list(range(spec.steps))
    assert np.abs(tensors["image"].astype(int) - want.astype(int)).max() <= 1


@pytest.mark.e2e
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width", "count"), [(64, 64, 1), (80, 48, 2)])
def test_the_server_paints_what_the_reference_paints(
    client: InferenceServerClient,
    flux: dict[str, PipelineSpec],
    name: str,
    height: int,
    width: int,
    count: int,
) -> None:
    prompts = ["a lighthouse, at night", "зимний лес ❄"][:count]
    arrays = pipelines.request(flux[name], prompts, [3, -4][:count], height, width, 2.5)
    want = pipelines.reference(flux[name], arrays)["image"]
    got = infer(client, name, arrays)
    assert list(got) == ["image"]
    image = got["image"]
    assert (image.dtype, image.shape) == (np.uint8, (count, height, width, 3))
    assert np.abs(image.astype(int) - want.astype(int)).max() <= 1
    assert image.std() > 5, "a flat image would prove nothing"


@pytest.mark.e2e
def test_prompt_and_seed_decide_the_image(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    def paint(prompt: str, seed: int) -> np.ndarray:
        arrays = pipelines.request(flux["flux_schnell"], [prompt], [seed], 64, 64, 0.0)
        return infer(client, "flux_schnell", arrays)["image"]

    first = paint("a fox", 1)
    np.testing.assert_array_equal(first, paint("a fox", 1))
    assert np.abs(first.astype(int) - paint("a fox", 2)).max() > 20
    assert np.abs(first.astype(int) - paint("an owl", 1)).max() > 1


@pytest.mark.e2e
def test_no_python_runs(
    native: TritonServer, client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    """The server of these tests has no Python backend; nor does it start a Python process."""
    arrays = pipelines.request(flux["flux_schnell"], ["x"], [1], 64, 64, 0.0)
    assert infer(client, "flux_schnell", arrays)["image"].shape == (1, 64, 64, 3)
    children = Path(f"/proc/{native.pid}/task/{native.pid}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    assert not [command for command in commands if "python" in command]


BAD = {
    "no multiple of 16": ({"height": 65}, "multiple of 16"),
    "zero": ({"width": 0}, "multiple of 16"),
    "negative": ({"height": -64}, "multiple of 16"),
    "beyond the limit": ({"width": 4096}, "above 2048"),
    "a number that overflows": ({"height": 2**62}, "above 2048"),
    "no number as guidance": ({"guidance": np.nan}, "guidance"),
    "infinite guidance": ({"guidance": np.inf}, "guidance"),
    "no UTF-8": ({"prompt": b"\xff\xfe"}, "UTF-8"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_explained_and_harm_nobody(
    client: InferenceServerClient, flux: dict[str, PipelineSpec], case: str
) -> None:
    changes, expected = BAD[case]
    name = "flux_dev" if "guidance" in changes else "flux_schnell"
    good = pipelines.request(flux[name], ["x"], [1], 32, 32, 3.0)
    bad = dict(good)
    for key, value in changes.items():
        bad[key] = np.array([[value]], dtype=good[key].dtype)
    with pytest.raises(ServerError, match=expected):
        infer(client, name, bad)
    assert infer(client, name, good)["image"].shape == (1, 32, 32, 3)


@pytest.mark.e2e
def test_a_prompt_that_is_too_long_is_cut_as_by_the_reference(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_schnell"]
    arrays = pipelines.request(spec, ["many words " * 2000], [5], 32, 32, 0.0)
    want = pipelines.reference(spec, arrays)["image"]
    got = infer(client, spec.name, arrays)["image"]
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1


@pytest.mark.e2e
@pytest.mark.parametrize("missing", ["prompt", "seed", "height"])
def test_a_missing_input_is_named(
    client: InferenceServerClient, flux: dict[str, PipelineSpec], missing: str
) -> None:
    arrays = pipelines.request(flux["flux_schnell"], ["x"], [1], 32, 32, 0.0)
    del arrays[missing]
    with pytest.raises(ServerError):
        infer(client, "flux_schnell", arrays)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_an_impossible_number_of_steps_is_refused(tmp_path: Path, steps: int) -> None:
    config = load_config(root=tmp_path, environ={"BUILDER_FLUX_STEPS": str(steps)})
    with pytest.raises(BuilderError, match=f"{steps} steps"):
        specs(config)

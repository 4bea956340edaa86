"""FLUX's python-backend models without a server: the models call each other in this process."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.config import load_config
from builder.errors import BuilderError, CheckpointError, ConfigError
from builder.families.flux.bls_pipeline import expected_end
from builder.families.flux.flux_pipeline import FluxReference
from builder.families.flux.models import dit_step, pipelines
from builder.families.flux.models.specs import PipelineSpec
from builder.families.flux.models.variants import variants
from builder.serving import pb_stand_in
from builder.serving.local_models import LocalModels, execute, model_class, start_model
from builder.stage import Arrays

ROOT = Path(__file__).parents[3]
TWINS = ROOT / "model_repository" / "python"
CODES = pb_stand_in.TritonError


@pytest.fixture(scope="module")
def build_dir(tmp_path_factory: pytest.TempPathFactory, tiny_schnell: Path, tiny_dev: Path) -> Path:
    """A build folder that has the tiny checkpoints."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "flux-tiny-schnell").symlink_to(tiny_schnell)
    (folder / "checkpoints" / "flux-tiny-dev").symlink_to(tiny_dev)
    return folder


@pytest.fixture(autouse=True)
def configured(build_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the server's processes find it: by the environment and the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDER_PATHS_BUILD", str(build_dir))
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    assert torch.get_num_threads() == threads


@pytest.fixture(scope="module")
def loaded(build_dir: Path) -> Iterator[LocalModels]:
    """Models that the tests share; `models` lets them call each other for one test."""
    with LocalModels(TWINS) as models:
        yield models


@pytest.fixture
def models(loaded: LocalModels) -> Iterator[LocalModels]:
    pb_stand_in.serve = loaded.serve
    yield loaded
    pb_stand_in.serve = None


def make_request(arrays: Arrays, cancelled: bool = False) -> pb_stand_in.InferenceRequest:
    tensors = [pb_stand_in.Tensor(name, array) for name, array in arrays.items()]
    return pb_stand_in.InferenceRequest(tensors, cancelled=cancelled)


def outputs(response: pb_stand_in.InferenceResponse) -> Arrays:
    error = response.error()
    assert error is None, error and error.message()
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def order(prompt: str = "a fox", seed: int = 1, height: int = 32, width: int = 48) -> Arrays:
    spec = PipelineSpec("x", variants(load_config())[0], 4, "")
    return pipelines.request(spec, [prompt], [seed], height, width, 3.5)


def reference(folder: Path, arrays: Arrays, steps: int | None = None, **more: Any) -> np.ndarray:
    return FluxReference(folder).generate(
        [prompt.decode() for prompt in arrays["prompt"][:, 0]],
        arrays["seed"][:, 0].tolist(),
        int(arrays["height"][0, 0]),
        int(arrays["width"][0, 0]),
        steps,
        **more,
    )


def assert_same_image(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
    assert want.std() > 5, "a flat image would prove nothing"


SLOW = ("t5_encoder_py", "vae_decoder_py", "dit_transformer_py", "flux_bls", "flux_bls_stream")


@pytest.mark.parametrize(
    "name", ["clip_encoder_py", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_each_model_runs_on_its_own(name: str) -> None:
    done = subprocess.run(
        [sys.executable, TWINS / name / "1" / "model.py"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert name in done.stdout


def test_requests_of_one_execute_get_the_images_of_the_reference(
    models: LocalModels, tiny_schnell: Path
) -> None:
    orders = [order("a fox", 1), order("зимний лес ❄", -4), order("", 2**40, 64, 32)]
    responses = execute(models["flux_bls"], [make_request(o) for o in orders])
    for given, response in zip(orders, responses, strict=True):
        assert_same_image(outputs(response)["image"], reference(tiny_schnell, given))


def test_a_request_may_hold_several_prompts(models: LocalModels, tiny_schnell: Path) -> None:
    spec = PipelineSpec("x", variants(load_config())[0], 4, "")
    given = pipelines.request(spec, ["one", "two", "three"], [1, 2, 3], 32, 32, 0.0)
    (response,) = execute(models["flux_bls"], [make_request(given)])
    assert_same_image(outputs(response)["image"], reference(tiny_schnell, given))


def test_what_is_left_out_has_a_default(
    models: LocalModels, tiny_schnell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_FLUX_DEFAULT_SIZE", "48")
    model = start_model(model_class(TWINS / "flux_bls" / "1" / "model.py"), TWINS / "flux_bls")
    prompt = {"prompt": np.array([[b"a fox"]], object)}
    short = prompt | {"steps": np.array([[2]], np.int64)}
    plain, quick = execute(model, [make_request(prompt), make_request(short)])
    model.finalize()
    complete = order("a fox", 0, 48, 48)
    assert_same_image(outputs(plain)["image"], reference(tiny_schnell, complete))
    assert_same_image(outputs(quick)["image"], reference(tiny_schnell, complete, 2))


def test_the_variant_is_a_parameter(models: LocalModels, tiny_dev: Path) -> None:
    folder = TWINS / "flux_bls"
    cls = model_class(folder / "1" / "model.py")
    model = start_model(cls, folder, {"variant": "dev"})
    given = order() | {
        "guidance": np.array([[2.5]], np.float32),
        "steps": np.array([[3]], np.int64),
    }
    nan = given | {"guidance": np.array([[np.nan]], np.float32)}
    response, refused = execute(model, [make_request(given), make_request(nan)])
    model.finalize()
    want = reference(tiny_dev, given, 3, guidance=2.5)
    assert_same_image(outputs(response)["image"], want)
    assert refused.error().code() == CODES.INVALID_ARG
    assert "guidance must be a number" in refused.error().message()
    with pytest.raises(ConfigError, match="parameter variant is 'pro'"):
        start_model(cls, folder, {"variant": "pro"})


def one(value: object, dtype: Any = np.int64) -> np.ndarray:
    return np.array([[value]], dtype)


BAD: dict[str, tuple[Arrays, str]] = {
    "no multiple of 16": ({"height": one(65)}, "no positive multiple of 16"),
    "zero": ({"width": one(0)}, "no positive multiple of 16"),
    "negative": ({"height": one(-64)}, "no positive multiple of 16"),
    "too large": ({"width": one(4096)}, "the limit is 2048"),
    "a number that overflows": ({"height": one(2**62)}, "the limit is 2048"),
    "no steps": ({"steps": one(0)}, "0 steps"),
    "negative steps": ({"steps": one(-1)}, "-1 steps"),
    "too many steps": ({"steps": one(1001)}, "1001 steps"),
    "no UTF-8": ({"prompt": one(b"\xff\xfe", object)}, "prompt 0 is not UTF-8"),
    "seed of another type": ({"seed": one(1.5, np.float32)}, "holds float32, not INT64"),
    "seed of another shape": ({"seed": np.zeros((1, 2), np.int64)}, r"has shape \[1, 2\]"),
    "fewer seeds than prompts": ({"seed": np.zeros((2, 1), np.int64)}, "the same length"),
    "sizes that differ": (
        {
            "prompt": np.array([[b"x"]] * 2, object),
            "seed": np.zeros((2, 1), np.int64),
            "height": np.array([[32], [64]]),
            "width": np.full((2, 1), 32),
        },
        "must have the same height",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_fails_alone(models: LocalModels, case: str) -> None:
    changes, expected = BAD[case]
    batch = [make_request(order()), make_request(order() | changes), make_request(order())]
    first, refused, last = execute(models["flux_bls"], batch)
    error = refused.error()
    assert error is not None
    assert error.code() == CODES.INVALID_ARG
    assert re.search(expected, error.message())
    np.testing.assert_array_equal(outputs(first)["image"], outputs(last)["image"])


def test_a_prompt_that_is_too_long_is_cut(models: LocalModels, tiny_schnell: Path) -> None:
    given = order("many words " * 2000)
    (response,) = execute(models["flux_bls"], [make_request(given)])
    assert_same_image(outputs(response)["image"], reference(tiny_schnell, given))


def steps_at(places: list[int], guided: bool) -> list[Arrays]:
    """A sample each, of one size, at the given steps."""
    variant = variants(load_config())[guided]
    generator = np.random.default_rng(3)
    shape = {"B": 1, "h": 4, "w": 6, "N": 5, "S": 7}
    made = [dit_step.example(variant, shape, generator) for _ in places]
    return [m | {"step": one(place)} for m, place in zip(made, places, strict=True)]


def test_samples_at_different_steps_share_a_run(models: LocalModels) -> None:
    twin = models["dit_transformer_py"]
    batch = [*steps_at([0, 3, 1], guided=False), *steps_at([2, 0], guided=True)]
    alone = [outputs(execute(twin, [make_request(arrays)])[0]) for arrays in batch]
    sizes = []
    hooks = [
        network.register_forward_hook(lambda module, args, result: sizes.append(len(args[0])))
        for network in twin.networks.values()
    ]
    together = execute(twin, [make_request(arrays) for arrays in batch])
    for hook in hooks:
        hook.remove()
    assert sizes == [3, 2]
    for response, want in zip(together, alone, strict=True):
        got = outputs(response)
        np.testing.assert_array_equal(got["next_step"], want["next_step"])
        np.testing.assert_allclose(got["next_latents"], want["next_latents"], rtol=0, atol=5e-6)


@pytest.mark.parametrize("step", [-1, 4, 2**40])
def test_a_step_that_does_not_exist_is_refused(models: LocalModels, step: int) -> None:
    (good,) = steps_at([3], guided=False)
    responses = execute(
        models["dit_transformer_py"],
        [make_request(good), make_request(good | {"step": one(step)})],
    )
    assert not responses[0].has_error()
    assert responses[1].error().code() == CODES.INVALID_ARG
    assert "not within 0 to 3" in responses[1].error().message()


def test_a_token_that_does_not_exist_is_refused(models: LocalModels) -> None:
    ids = np.zeros((1, 77), np.int64)
    bad = make_request({"input_ids": ids + 834})
    good, refused = execute(models["clip_encoder_py"], [make_request({"input_ids": ids}), bad])
    assert not good.has_error()
    assert refused.error().code() == CODES.INVALID_ARG
    assert "outside of 0 to 833" in refused.error().message()


def test_a_cancelled_request_stops_between_steps(
    models: LocalModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    request = make_request(order())

    def serve(inner: pb_stand_in.InferenceRequest) -> pb_stand_in.InferenceResponse:
        asked.append(inner.model_name())
        if asked.count("dit_transformer_py") == 2:
            request.cancel()
        return models.serve(inner)

    pb_stand_in.serve = serve
    (response,) = execute(models["flux_bls"], [request])
    assert response.error().code() == CODES.CANCELLED
    assert asked.count("dit_transformer_py") == 2
    assert "vae_decoder_py" not in asked


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_is_unavailable_and_passes(
    models: LocalModels, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    twin = models["vae_decoder_py"]

    def fail(*args: torch.Tensor) -> torch.Tensor:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(twin.network, "forward", fail)
        (response,) = execute(models["flux_bls"], [make_request(order())])
    assert response.error().code() == CODES.UNAVAILABLE
    assert "vae_decoder_py: out of memory" in response.error().message()
    (response,) = execute(models["flux_bls"], [make_request(order())])
    assert outputs(response)["image"].shape == (1, 32, 48, 3)


def test_a_batch_that_is_too_much_is_tried_one_by_one(
    models: LocalModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = models["vae_decoder_py"]
    forward = twin.network.forward

    def limited(latents: torch.Tensor) -> torch.Tensor:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(latents)

    monkeypatch.setattr(twin.network, "forward", limited)
    latents = np.random.default_rng(0).standard_normal((1, 16, 4, 4), np.float32)
    responses = execute(twin, [make_request({"latents": latents}) for _ in range(3)])
    assert [outputs(response)["image"].shape for response in responses] == [(1, 32, 32, 3)] * 3


def test_a_bug_in_a_network_is_an_internal_error(
    models: LocalModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(models["vae_decoder_py"].network, "forward", fail)
    (response,) = execute(models["flux_bls"], [make_request(order())])
    assert response.error().code() == CODES.INTERNAL
    assert "vae_decoder_py: ZeroDivisionError: oh" in response.error().message()


def test_a_model_that_is_not_served_is_named(models: LocalModels) -> None:
    def serve(request: pb_stand_in.InferenceRequest) -> pb_stand_in.InferenceResponse:
        if request.model_name() == "t5_encoder_py":
            error = pb_stand_in.TritonError("Model t5_encoder_py - Version -1 is not found")
            return pb_stand_in.InferenceResponse(error=error)
        return models.serve(request)

    pb_stand_in.serve = serve
    (response,) = execute(models["flux_bls"], [make_request(order())])
    assert response.error().code() == CODES.UNAVAILABLE
    assert "t5_encoder_py" in response.error().message()


def test_a_stream_has_an_image_per_step(models: LocalModels, tiny_schnell: Path) -> None:
    request = make_request(order())
    execute(models["flux_bls_stream"], [request])
    parts = [outputs(response) for response in request.get_response_sender().responses]
    assert [int(part["step"][0, 0]) for part in parts] == [1, 2, 3, 4]
    assert [bool(part["final"][0, 0]) for part in parts] == [False, False, False, True]
    want = reference(tiny_schnell, order())
    assert_same_image(parts[-1]["image"], want)
    for part in parts[:-1]:
        assert part["image"].shape == want.shape
        assert np.abs(part["image"].astype(int) - want.astype(int)).max() > 1


def test_the_expected_end_of_a_straight_way_is_its_end() -> None:
    generator = np.random.default_rng(5)
    image, noise = generator.standard_normal((2, 1, 16, 4, 4), np.float32)
    sigmas = np.array([[0.75, 0.5]], np.float32)
    before, after = (image + s * (noise - image) for s in sigmas[0])
    np.testing.assert_allclose(expected_end(before, after, sigmas), image, atol=1e-5)


@pytest.mark.parametrize("name", ["clip_encoder_py", "dit_transformer_py", "flux_bls"])
def test_a_missing_checkpoint_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("BUILDER_FLUX_CHECKPOINT", str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"no FLUX\.1 checkpoint") as caught:
        start_model(model_class(TWINS / name / "1" / "model.py"), TWINS / name)
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_truncated_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_schnell: Path
) -> None:
    folder = shutil.copytree(tiny_schnell, tmp_path / "cut")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    monkeypatch.setenv("BUILDER_FLUX_CHECKPOINT", str(folder))
    name = "dit_transformer_py"
    with pytest.raises(BuilderError, match="diffusion_pytorch_model"):
        start_model(model_class(TWINS / name / "1" / "model.py"), TWINS / name)


def test_a_checkpoint_of_one_variant_serves_that_one(
    monkeypatch: pytest.MonkeyPatch, tiny_dev: Path
) -> None:
    """With FLUX.1 dev alone, guidance is an input like the others."""
    monkeypatch.setenv("BUILDER_FLUX_CHECKPOINT", str(tiny_dev))
    name = "dit_transformer_py"
    cls = model_class(TWINS / name / "1" / "model.py")
    config = cls.auto_complete_config(
        pb_stand_in.ModelConfig(
            json.dumps({"name": name, "max_batch_size": 8, "input": [], "output": []})
        )
    ).as_dict()
    assert {i["name"]: i.get("optional", False) for i in config["input"]}["guidance"] is False
    with LocalModels(TWINS) as fresh:
        (sample,) = steps_at([1], guided=False)
        response = execute(fresh[name], [make_request(sample | {"guidance": one(3, np.float32)})])
        assert not response[0].has_error()


def test_requests_beyond_the_limit_wait_in_the_queue(models: LocalModels) -> None:
    folder = TWINS / "flux_bls"
    model = start_model(model_class(folder / "1" / "model.py"), folder, {"concurrency": "1"})
    go, begun = threading.Event(), threading.Event()

    def serve(request: pb_stand_in.InferenceRequest) -> pb_stand_in.InferenceResponse:
        begun.set()
        go.wait(60)
        return models.serve(request)

    pb_stand_in.serve = serve
    requests = [make_request(order()), make_request(order())]
    starter = threading.Thread(target=model.execute, args=(requests,))
    starter.start()
    assert begun.wait(60)
    assert starter.is_alive(), "the second request has to wait for the first"
    go.set()
    starter.join(60)
    for request in requests:
        (response,) = request.get_response_sender().wait(60)
        assert outputs(response)["image"].shape == (1, 32, 48, 3)
    model.finalize()


def test_unloading_answers_what_is_in_flight(models: LocalModels) -> None:
    folder = TWINS / "flux_bls"
    model = start_model(model_class(folder / "1" / "model.py"), folder)
    go, begun = threading.Event(), threading.Event()

    def serve(request: pb_stand_in.InferenceRequest) -> pb_stand_in.InferenceResponse:
        begun.set()
        go.wait(60)
        return models.serve(request)

    pb_stand_in.serve = serve
    request = make_request(order())
    model.execute([request])
    assert begun.wait(60)
    threading.Timer(0.2, go.set).start()
    model.finalize()
    (response,) = request.get_response_sender().wait(60)
    assert response.error().code() == CODES.UNAVAILABLE
    assert "unloaded" in response.error().message()

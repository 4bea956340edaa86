"""The plain pipeline against diffusers' own `FluxPipeline`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from builder.errors import UsageError
from builder.families.flux.checkpoint import COMPONENTS, load_component
from builder.families.flux.flux_pipeline import FluxReference, pack, unpack
from builder.families.flux.noise import normal

PROMPTS = ["a red fox in the snow", "Ein Haus am See, 😀"]
SEEDS = [1, 2]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["tiny_schnell", "tiny_dev"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def reference(folder: Path) -> FluxReference:
    return FluxReference(folder, max_sequence_length=24)


@pytest.mark.parametrize(("height", "width", "steps"), [(64, 64, 4), (32, 96, 3), (48, 16, 28)])
def test_images_and_every_step_are_diffusers(
    folder: Path, reference: FluxReference, height: int, width: int, steps: int
) -> None:
    pipeline = FluxPipeline(**{name: load_component(folder, name) for name in COMPONENTS})
    pipeline.set_progress_bar_config(disable=True)
    theirs: list[torch.Tensor] = []

    def keep(_: Any, number: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        theirs.append(tensors["latents"])
        return tensors

    ours: list[torch.Tensor] = []
    images = reference.generate(
        PROMPTS, SEEDS, height, width, steps, on_step=lambda _, latents: ours.append(latents)
    )
    start, _ = reference.prepare(SEEDS, height, width, steps)
    wanted = pipeline(
        PROMPTS, height=height, width=width, num_inference_steps=steps, guidance_scale=3.5,
        latents=pack(start), max_sequence_length=24, output_type="np", callback_on_step_end=keep,
    ).images  # fmt: skip
    assert images.shape == (2, height, width, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, (wanted * 255).round().astype(np.uint8))
    assert len(ours) == len(theirs) == steps
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, unpack(other, height // 16, width // 16))


def test_an_image_depends_on_everything(reference: FluxReference) -> None:
    guidance = 2.0 if reference.guided else None
    first = reference.generate(["a red fox"], [1], 64, 64, 4)
    others = [
        reference.generate(["a blue house, oil painting"], [1], 64, 64, 4),
        reference.generate(["a red fox"], [2], 64, 64, 4),
        reference.generate(["a red fox"], [1], 64, 64, 5),
    ]
    if reference.guided:
        others.append(reference.generate(["a red fox"], [1], 64, 64, 4, guidance))
    for other in others:
        assert np.abs(first.astype(int) - other).mean() > 1
    assert 20 < first.std() < 110
    assert ((first == 0) | (first == 255)).mean() < 0.3
    assert np.array_equal(first, reference.generate(["a red fox"], [1], 64, 64, 4))


def test_a_batch_is_its_images(reference: FluxReference) -> None:
    scales = [2.0, 5.0] if reference.guided else None
    both = reference.generate(PROMPTS, SEEDS, 32, 48, 4, scales)
    for i, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        alone = reference.generate([prompt], [seed], 32, 48, 4, None if not scales else scales[i])
        assert np.abs(both[i].astype(int) - alone[0]).max() <= 1


def test_the_noise_is_the_seeds(reference: FluxReference) -> None:
    latents, sigmas = reference.prepare([3, 4], 32, 48, 4)
    assert latents.shape == (2, 16, 4, 6)
    assert np.array_equal(latents.numpy().reshape(2, -1), normal(np.array([3, 4]), 16 * 4 * 6))
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_pack_and_unpack() -> None:
    latents = torch.randn(2, 16, 6, 4)
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 4))
    assert torch.equal(unpack(tokens, 3, 2), latents)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 24}, "height is 24"), ({"width": 0}, "width is 0"),
        ({"height": 4096}, "limit is 2048"), ({"steps": 0}, "0 steps"),
        ({"seeds": [1]}, "a seed for each"), ({"prompts": "a fox"}, "a list of prompts"),
        ({"prompts": [], "seeds": []}, "a list of prompts"),
    ],
)  # fmt: skip
def test_bad_requests(reference: FluxReference, changes: dict[str, Any], message: str) -> None:
    good = {"prompts": PROMPTS, "seeds": SEEDS, "height": 64, "width": 64, "steps": 1}
    with pytest.raises(UsageError, match=message):
        reference.generate(**{**good, **changes})


def test_bad_guidance(reference: FluxReference) -> None:
    message = "guidance is nan" if reference.guided else "takes no guidance"
    with pytest.raises(UsageError, match=message):
        reference.generate(["a"], [1], 16, 16, 1, float("nan"))

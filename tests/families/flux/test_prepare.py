"""`flux_prepare` against NumPy, and sigmas against diffusers' scheduler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from builder.errors import CheckpointError, ConfigError
from builder.families.flux.options import FluxOptions, size_problem
from builder.families.flux.prepare_graph import (
    PreparePlan,
    prepare_model,
    prepare_plan,
    prepare_reference,
)
from builder.families.flux.schedule import Schedule
from builder.stage import Arrays

SCHNELL: dict[str, Any] = {"shift": 1.0}
DEV: dict[str, Any] = {"shift": 3.0, "use_dynamic_shifting": True}
MAX_SIZE = 512

Run = Callable[[Arrays], Arrays]


def runner(plan: PreparePlan, level: str = "ORT_ENABLE_ALL") -> Run:
    model = prepare_model(plan)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def request_of(seeds: list[int], height: int, width: int, guidance: float | None = None) -> Arrays:
    column = np.array(seeds, np.int64)[:, None]
    arrays = {
        "seed": column,
        "height": np.full_like(column, height),
        "width": np.full_like(column, width),
    }
    if guidance is not None:
        arrays["guidance"] = np.full(column.shape, guidance, np.float32)
    return arrays


@pytest.fixture(scope="module")
def schnell() -> Run:
    return runner(PreparePlan(4, SCHNELL, MAX_SIZE))


@pytest.fixture(scope="module")
def dev() -> Run:
    return runner(PreparePlan(28, DEV, MAX_SIZE, guided=True))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize(("config", "steps"), [(SCHNELL, 4), (SCHNELL, 1), (DEV, 28), (DEV, 7)])
def test_every_bit_is_numpys(config: dict[str, Any], steps: int, level: str) -> None:
    plan = PreparePlan(steps, config, MAX_SIZE)
    run = runner(plan, level)
    for seeds, height, width in (
        ([0], 16, 16),
        ([1, 2, -3, 2**63 - 1, -(2**63)], 256, 96),
        ([2**32, 2**32 + 1], 512, 512),
    ):
        arrays = request_of(seeds, height, width)
        got, want = run(arrays), prepare_reference(plan, arrays)
        assert got.keys() == want.keys()
        for name, array in want.items():
            assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
            assert got[name].tobytes() == array.tobytes(), name


def test_four_million_values_are_numpys_to_the_bit() -> None:
    plan = PreparePlan(4, SCHNELL, 2048)
    arrays = request_of([3, 1, 4, 1], 2048, 2048)
    assert runner(plan)(arrays)["latents"].tobytes() == (
        prepare_reference(plan, arrays)["latents"].tobytes()
    )


@pytest.mark.parametrize("config", [SCHNELL, DEV, {"shift": 3.0}, {**DEV, "max_shift": 0.9},
                                    {**DEV, "time_shift_type": "linear"}])  # fmt: skip
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 28, 50])
def test_sigmas_are_diffusers(config: dict[str, Any], steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    shift = [scheduler.config[name] for name in names]
    schedule = Schedule.from_config(scheduler.config)
    for tokens in (1, 24, 255, 256, 1000, 4096, 16384):
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens, *shift)
        )
        found = schedule.sigmas(steps, tokens)
        assert found.dtype == np.float32
        assert found.tobytes() == scheduler.sigmas.numpy().tobytes()


@pytest.mark.parametrize(
    "used", ["use_karras_sigmas", "invert_sigmas", "shift_terminal", "stochastic_sampling"]
)
def test_other_schedulers_are_refused(used: str) -> None:
    with pytest.raises(CheckpointError, match=used):
        Schedule.from_config({used: True})


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (0, 64, "height must be a positive multiple of 16"),
        (-16, 64, "height must be a positive multiple of 16"),
        (24, 64, "height must be a positive multiple of 16"),
        (64, 1, "width must be a positive multiple of 16"),
        (64, -(2**63), "width must be a positive multiple of 16"),
        (64, 528, "width must not be above 512"),
        (2**62, 64, "height must not be above 512"),
    ],
)
def test_bad_sizes_fail_with_a_message_and_harm_nothing(
    schnell: Run, dev: Run, height: int, width: int, message: str
) -> None:
    for run, guidance in ((schnell, None), (dev, 3.5)):
        before = run(request_of([1], 64, 64, guidance))
        with pytest.raises(Exception, match=message):
            run(request_of([1, 2], height, width, guidance))
        after = run(request_of([1], 64, 64, guidance))
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    plan = PreparePlan(4, SCHNELL, MAX_SIZE)
    with pytest.raises(ValueError, match=r"multiple of 16|limit is 512"):
        prepare_reference(plan, request_of([1, 2], height, width))


def test_one_bad_row_is_enough(schnell: Run) -> None:
    arrays = request_of([1, 2], 64, 64)
    arrays["height"][1] = 48
    with pytest.raises(Exception, match="every image of a request must have the same height"):
        schnell(arrays)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf"), -float("inf"), 1e9])
def test_guidance_must_be_a_number(dev: Run, guidance: float) -> None:
    with pytest.raises(Exception, match="guidance must be a number between"):
        dev(request_of([1], 64, 64, guidance))
    plan = PreparePlan(4, DEV, MAX_SIZE, guided=True)
    with pytest.raises(ValueError, match="guidance must be a number between"):
        prepare_reference(plan, request_of([1], 64, 64, guidance))


def test_guidance_passes_through(dev: Run) -> None:
    assert dev(request_of([1, 2], 64, 64, 3.5))["checked_guidance"].tolist() == [[3.5], [3.5]]


def test_the_plan_of_a_checkpoint(tiny_schnell: Path, tiny_dev: Path) -> None:
    options = FluxOptions(max_size=128)
    schnell, dev = (prepare_plan(f, 4, options) for f in (tiny_schnell, tiny_dev))
    assert (schnell.channels, schnell.guided, schnell.schedule.dynamic) == (16, False, False)
    assert (dev.channels, dev.guided, dev.schedule.dynamic) == (16, True, True)
    for steps in (0, -1, 1001):
        with pytest.raises(ConfigError, match="steps"):
            prepare_plan(tiny_dev, steps, options)


def test_size_problem() -> None:
    assert size_problem(64, 512, 512) is None
    assert "height is 8" in str(size_problem(8, 64, 512))
    assert "width is 528, the limit is 512" in str(size_problem(64, 528, 512))

"""Requests at different denoising steps share executions, and answer as they do alone."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from builder.families.flux.models import pipelines
from builder.families.flux.models.specs import PipelineSpec
from builder.serving.client import connect, infer, statistics
from builder.serving.server import TritonServer

pytestmark = pytest.mark.e2e

SEEDS = range(8)


def paint(client: InferenceServerClient, spec: PipelineSpec, seed: int) -> np.ndarray:
    # Images of two sizes: these never share a batch, and must not be mixed up either.
    size = (128, 128) if seed % 4 else (96, 160)
    arrays = pipelines.request(spec, [f"a picture of {seed}"], [seed], *size, 1.0 + seed)
    return infer(client, spec.name, arrays)["image"]


def at_once(native: TritonServer, jobs: list[Callable[[InferenceServerClient], None]]) -> None:
    """Run each job in a thread with a client of its own; a failure is raised here."""
    failures: list[BaseException] = []

    def work(job: Callable[[InferenceServerClient], None]) -> None:
        connection = connect(native.grpc_url)
        try:
            job(connection)
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize(
    ("name", "stage"), [("flux_schnell", "dit_step"), ("flux_dev", "dit_step_dev")]
)
def test_concurrent_requests_share_executions_and_keep_their_images(
    native: TritonServer,
    client: InferenceServerClient,
    flux: dict[str, PipelineSpec],
    name: str,
    stage: str,
) -> None:
    spec = flux[name]
    alone = {seed: paint(client, spec, seed) for seed in SEEDS}
    [before] = statistics(client, stage)

    def job(seed: int) -> Callable[[InferenceServerClient], None]:
        def run(connection: InferenceServerClient) -> None:
            for _ in range(2):
                np.testing.assert_array_equal(paint(connection, spec, seed), alone[seed])

        return run

    at_once(native, [job(seed) for seed in SEEDS])
    [after] = statistics(client, stage)
    inferences = after.inferences - before.inferences
    executions = after.executions - before.executions
    assert inferences == 2 * len(SEEDS) * spec.steps
    assert executions < 0.75 * inferences


def test_different_steps_share_executions(
    native: TritonServer, client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    """Requests that start one after the other are never at the same step."""
    spec = flux["flux_dev"]
    seeds = [1, 2, 3]
    alone = {seed: paint(client, spec, seed) for seed in seeds}
    began = time.perf_counter()
    paint(client, spec, 1)
    third = (time.perf_counter() - began) / 3
    [before] = statistics(client, "dit_step_dev")

    def job(place: int) -> Callable[[InferenceServerClient], None]:
        def run(connection: InferenceServerClient) -> None:
            time.sleep(place * third)
            seed = seeds[place]
            np.testing.assert_array_equal(paint(connection, spec, seed), alone[seed])

        return run

    at_once(native, [job(place) for place in range(3)])
    [after] = statistics(client, "dit_step_dev")
    inferences = after.inferences - before.inferences
    assert inferences == 3 * spec.steps
    assert after.executions - before.executions < inferences


def test_a_repeated_prompt_skips_the_text_encoders(
    client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_schnell"]
    prompt = "a prompt that no other test uses"

    def counts() -> list[tuple[int, int]]:
        stages = ("clip_encoder", "t5_encoder")
        found = [statistics(client, stage)[0] for stage in stages]
        return [(s.executions, s.cache_hits) for s in found]

    def run(seed: int) -> np.ndarray:
        arrays = pipelines.request(spec, [prompt], [seed], 64, 64, 0.0)
        return infer(client, spec.name, arrays)["image"]

    first = run(1)
    before = counts()
    np.testing.assert_array_equal(run(1), first)
    assert not np.array_equal(run(2), first)
    assert counts() == [(executions, hits + 2) for executions, hits in before]


def test_a_bad_request_among_good_ones_fails_alone(
    native: TritonServer, client: InferenceServerClient, flux: dict[str, PipelineSpec]
) -> None:
    spec = flux["flux_schnell"]
    alone = paint(client, spec, 1)
    refused = []

    def good(connection: InferenceServerClient) -> None:
        for _ in range(4):
            np.testing.assert_array_equal(paint(connection, spec, 1), alone)

    def bad(connection: InferenceServerClient) -> None:
        for changes in ({"height": 17}, *[{"prompt": b"\xff"}] * 9) * 4:
            arrays = pipelines.request(spec, ["x"], [1], 128, 128, 0.0)
            for key, value in changes.items():
                arrays[key] = np.array([[value]], dtype=arrays[key].dtype)
            with pytest.raises(Exception, match=r"multiple of 16|UTF-8"):
                infer(connection, spec.name, arrays)
            refused.append(changes)

    at_once(native, [good, good, bad, good, bad])
    assert len(refused) == 80

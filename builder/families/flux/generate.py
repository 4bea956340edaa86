"""`builder generate`: a prompt to an image, by a server that is running."""

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.config import Config
from builder.errors import UsageError
from builder.families.flux.generate_options import (
    check_guidance,
    check_prompt,
    check_seed,
    check_strength,
    choose,
    read_size,
    read_start,
)
from builder.families.flux.models.specs import PipelineSpec
from builder.families.flux.pictures import save_png

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tritonclient.grpc import InferenceServerClient

    from builder.families.flux.pictures import Picture
    from builder.stage import Arrays


@dataclass(frozen=True, slots=True)
class StageTime:
    """What one stage did for a request.

    Attributes:
        runs: Times that it answered; the denoising step answers once per step.
        cached: How many of those answers came from the response cache.
        compute_ms: Time in the model, in milliseconds.
        queue_ms: Time in its queue, in milliseconds.
    """

    stage: str
    runs: int
    cached: int
    compute_ms: float
    queue_ms: float


@click.command("generate")
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG to write.  [default: build/generate/<pipeline>-<seed>.png]",
)
@click.option("--seed", type=int, help="Seed of the noise.  [default: a random one, printed]")
@click.option("--size", help="HEIGHTxWIDTH or one number for a square, in pixels.")
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="Start with this picture; --size scales it.",
)
@click.option(
    "--strength",
    type=float,
    help="How far to go from --image: above 0, where it stays as it is, up to 1.  [default: 0.6]",
)
@click.option("--steps", type=int, help="Take the pipeline that has so many steps.")
@click.option("--pipeline", help="Name of the pipeline.  [default: the first one]")
@click.option("--guidance", type=float, help="Guidance scale, for FLUX.1 dev.")
@click.option("--url", help="gRPC endpoint of the server.  [default: as configured]")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds to wait.")
@click.option("--compare", is_flag=True, help="Run the PyTorch pipeline as well and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def generate_command(
    config: Config,
    prompt: str,
    output: Path | None,
    seed: int | None,
    size: str | None,
    image: Path | None,
    strength: float | None,
    steps: int | None,
    pipeline: str | None,
    guidance: float | None,
    url: str | None,
    timeout: float,
    compare: bool,
    as_json: bool,
) -> None:
    """Make an image of PROMPT with a running server.

    \b
    builder generate "a lighthouse at dusk" -o lighthouse.png
    builder generate "a lighthouse at dusk" --size 768x1024 --seed 7 --pipeline flux_dev
    builder generate "a watercolour" --image photo.png --size 512 --strength 0.7 -o new.png
    """
    spec = choose(config, pipeline, steps, image=image is not None)
    strength = check_strength(strength, spec)
    start = None if image is None else read_start(image, size, spec)
    height, width = start.shape[:2] if start is not None else read_size(size, spec)
    guidance = check_guidance(guidance, spec)
    check_prompt(prompt)
    seed = secrets.randbits(32) if seed is None else check_seed(seed)
    if output is not None and output.suffix.lower() != ".png":
        raise UsageError("images are saved as .png", where=output, hint="rename the output")
    output = output or config.build_dir / "generate" / f"{spec.name}-{seed}.png"

    from builder.families.flux.models.pipelines import image_request, request
    from builder.serving.client import connect, infer

    arrays: Arrays
    if start is not None:
        arrays = image_request(spec, [prompt], [seed], start[None], strength, guidance)
    else:
        arrays = request(spec, [prompt], [seed], height, width, guidance)
    client = connect(url or f"{config.server.host}:{config.server.grpc_port}")
    try:
        before = _counters(client, spec)
        began = time.perf_counter()
        with _waiting(f"{spec.name}, {spec.steps} steps"):
            made = infer(client, spec.name, arrays, timeout=timeout)["image"][0]
        seconds = time.perf_counter() - began
        times = stage_times(before, _counters(client, spec))
    finally:
        client.close()
    save_png(made, output)
    difference = None
    if compare:
        with _waiting("the PyTorch pipeline"):
            difference = compare_with_reference(spec, arrays, made)
    report = {
        "image": str(output),
        "pipeline": spec.name,
        "seed": seed,
        "height": height,
        "width": width,
        "seconds": round(seconds, 4),
        "stages": [
            {
                "stage": t.stage,
                "runs": t.runs,
                "cached": t.cached,
                "compute_ms": round(t.compute_ms, 3),
                "queue_ms": round(t.queue_ms, 3),
            }
            for t in times
        ],
        "difference": difference,
    }
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        _print(report, times)


def compare_with_reference(
    spec: PipelineSpec, arrays: "Mapping[str, Any]", image: "Picture"
) -> dict[str, Any]:
    """Run the PyTorch pipeline with the same inputs and compare.

    Returns:
        The largest difference in levels, and the number of values that differ.
    """
    import numpy as np

    from builder.families.flux.models.pipelines import reference

    want = reference(spec, dict(arrays))["image"][0]
    apart = np.abs(image.astype(np.int16) - want.astype(np.int16))
    return {
        "max_levels": int(apart.max()),
        "values_that_differ": int((apart > 0).sum()),
        "values": int(apart.size),
    }


def stage_times(
    before: Mapping[str, tuple[int, int, int, int]], after: Mapping[str, tuple[int, int, int, int]]
) -> list[StageTime]:
    """What each stage did between two readings of the server's counters.

    Other clients' requests in the meantime are counted, too.
    """
    times = []
    for stage, now in after.items():
        runs, cached, compute, queue = (
            a - b for a, b in zip(now, before.get(stage, (0, 0, 0, 0)), strict=True)
        )
        times.append(StageTime(stage, runs, cached, compute / 1e6, queue / 1e6))
    return times


def _counters(
    client: "InferenceServerClient", spec: PipelineSpec
) -> dict[str, tuple[int, int, int, int]]:
    """Answers, answers from the cache, and nanoseconds of computing and waiting, by stage."""
    from builder.families.flux.models.pipelines import pipeline

    counters = {}
    for stage in dict.fromkeys(step.model for step in pipeline(spec).steps):
        answer = client.get_inference_statistics(stage)
        stats = answer.model_stats[-1].inference_stats
        counters[stage] = (
            stats.success.count,
            stats.cache_hit.count,
            stats.compute_infer.ns,
            stats.queue.ns,
        )
    return counters


@contextmanager
def _waiting(text: str) -> "Iterator[None]":
    """A spinner with a clock, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        progress.add_task(text, total=None)
        yield


def _print(report: Mapping[str, Any], times: list[StageTime]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "runs", "from cache", "compute", "queue"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for t in times:
        compute, queue = f"{t.compute_ms:.1f} ms", f"{t.queue_ms:.1f} ms"
        table.add_row(t.stage, str(t.runs), str(t.cached), compute, queue)
    console.print(table)
    size = f"{report['height']}x{report['width']}"
    console.print(
        f"{report['image']}: {size}, seed {report['seed']}, {report['pipeline']}, "
        f"{report['seconds']:.2f} s",
        markup=False,
        soft_wrap=True,
    )
    if (difference := report["difference"]) is not None:
        console.print(
            f"PyTorch differs in {difference['values_that_differ']} of {difference['values']} "
            f"values, by {difference['max_levels']} of 255 levels at most",
            markup=False,
        )

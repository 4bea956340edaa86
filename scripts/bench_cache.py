#!/usr/bin/env python
"""What does the response cache save where a prompt comes again?

    .venv/bin/python scripts/bench_cache.py             # builds nothing: run `make engines` before

Images from one prompt that is sent again and again, and images from prompts that are all new,
take turns on one server. Only the text encoders are cached, so every image is computed.
"""

import itertools
import statistics
import time

import click
import numpy as np

from builder.config import load_config
from builder.serving.client import connect, infer
from builder.serving.client import statistics as server_statistics
from builder.serving.launch import make_server

ENCODERS = ("clip_encoder", "t5_encoder")


@click.command()
@click.option("--pipeline", default="flux_schnell", show_default=True)
@click.option("--pixels", default=64, show_default=True, help="Height and width of an image.")
@click.option("--images", default=200, show_default=True, help="Images of either kind.")
def main(pipeline: str, pixels: int, images: int) -> None:
    """Compare repeated prompts with new ones."""
    server, _ = make_server(load_config(), models=[pipeline], free_ports=True)
    numbers = itertools.count()

    def image(prompt: str) -> float:
        arrays = {
            "prompt": np.array([[prompt.encode()]], object),
            "seed": np.array([[next(numbers)]], np.int64),
            "height": np.array([[pixels]], np.int64),
            "width": np.array([[pixels]], np.int64),
        }
        began = time.perf_counter()
        infer(client, pipeline, arrays)
        return (time.perf_counter() - began) * 1e3

    with server:
        client = connect(server.grpc_url)
        for _ in range(10):
            image("a mill by a river")
        before = {name: server_statistics(client, name)[0].cache_hits for name in ENCODERS}
        again, new = [], []
        for number in range(images):
            again.append(image("a mill by a river"))
            new.append(image(f"picture {number} of a mill"))
        for name in ENCODERS:
            hits = server_statistics(client, name)[0].cache_hits - before[name]
            click.echo(f"{name}: {hits} of {2 * images} answers from the cache")
        client.close()
    for title, times in (("the same prompt", again), ("new prompts", new)):
        low, median, high = np.percentile(times, [10, 50, 90])
        click.echo(f"{title:16} {median:6.2f} ms an image (10 % to 90 %: {low:.2f} to {high:.2f})")
    ratio = statistics.median(b / a for a, b in zip(again, new, strict=True))
    click.echo(f"new / same: {ratio:.2f} (median over pairs)")


if __name__ == "__main__":
    main()

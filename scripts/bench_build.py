#!/usr/bin/env python
"""Measure the build: the whole of it, 27 detectors once the graph is traced, doing nothing.

    .venv/bin/python scripts/bench_build.py

Works in a temporary folder; what is published stays as it is.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from builder.build.execute import execute
from builder.build.plan import make_context, make_plan
from builder.config import load_config
from builder.family import Registry


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Runs of the build with no work.")
def main(rounds: int) -> None:
    """Measure the build."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(root=Path(folder), environ={})
        context = make_context(config, Registry.load(config))
        exports = [a for a in make_plan(context, ["SMAP_*-?"]) if a.artefact == "export"]
        execute(exports[:1], context.digests)
        start = time.perf_counter()
        execute(exports[1:], context.digests)
        seconds = time.perf_counter() - start
        click.echo(f"{len(exports) - 1} detectors after the first: {seconds:.1f} s")
        command = [sys.executable, "-m", "builder", "build"]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        click.echo(
            f"the rest, with the last proof on a server: {time.perf_counter() - start:.1f} s"
        )
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        click.echo(f"a build with nothing to do: {statistics.median(times):.2f} s (median)")


if __name__ == "__main__":
    main()

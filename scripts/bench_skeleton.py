#!/usr/bin/env python
"""Measure the export of the full-size FLUX.1 graphs: time and peak memory, as a Markdown table.

    .venv/bin/python scripts/bench_skeleton.py

Every component is exported in a process of its own, so that no peak hides another.
"""

import json
import os
import subprocess
import sys
import tempfile

import click

from builder.families.flux.export_command import COMPONENTS, WEIGHTS


@click.command()
@click.option("--component", "components", type=click.Choice(COMPONENTS), multiple=True)
@click.option("--depth", type=click.IntRange(min=1), help="Blocks of each kind.  [default: all]")
@click.option("--variant", default="schnell", show_default=True)
@click.option("--weights", type=click.Choice(WEIGHTS), default="bf16", show_default=True)
def main(components: tuple[str, ...], depth: int | None, variant: str, weights: str) -> None:
    """Measure the export of the full-size FLUX.1 graphs."""
    click.echo("| component | blocks | parameters | nodes | file | tracing | in all | peak RSS |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for component in components or COMPONENTS:
        command = [sys.executable, "-m", "builder", "export", "flux", "--skeleton", "--json"]
        command += ["--component", component, "--variant", variant, "--weights", weights]
        command += ["--depth", str(depth)] if depth is not None else []
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
            )
        [report] = json.loads(done.stdout)
        click.echo(
            f"| {component} | {'+'.join(map(str, report['blocks'])) or 'all'} "
            f"| {report['parameters'] / 1e9:.3f} B | {report['nodes']} "
            f"| {report['bytes'] / 1e6:.1f} MB | {report['trace_seconds']:.0f} s "
            f"| {report['seconds']:.0f} s | {report['peak_rss_gib']:.2f} GiB |"
        )
    load = "/".join(f"{value:.1f}" for value in os.getloadavg())
    click.echo(f"\n{variant}, weights {weights}; {os.cpu_count()} cores, load average {load}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Compare one model served natively with its python-backend twin, in one interleaved run.

    .venv/bin/python scripts/bench_serving.py                     # SMAP_A-1 and omnianomaly_py
    .venv/bin/python scripts/bench_serving.py --json report.json --concurrency 1,4,8

Both are loaded in one server. In each round every combination of model and concurrency runs for
a few seconds, so that a machine whose speed drifts hurts all of them alike; medians over rounds
and the range of the ratios are reported. Each client is a process of its own.
"""

import json
import multiprocessing
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from builder.config import load_config
from builder.digest import versions_of
from builder.families.anomaly.models.detector import telemetry_window
from builder.serving.client import connect, infer
from builder.serving.launch import make_server


def client_loop(
    url: str, model: str, samples: int, start: Any, seconds: float, results: Any
) -> None:
    """Send one window after the other until the time is up; report latencies in ms."""
    client = connect(url)
    window = {"input_data": telemetry_window(samples, np.random.default_rng(0))}
    infer(client, model, window)
    latencies = []
    start.wait()
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        infer(client, model, window)
        latencies.append((time.perf_counter() - began) * 1e3)
    results.put(latencies)
    client.close()


def measure(
    url: str, model: str, samples: int, concurrency: int, seconds: float
) -> dict[str, float]:
    """Windows per second and latencies of one combination."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(concurrency), context.Queue()
    arguments = (url, model, samples, start, seconds, results)
    clients = [context.Process(target=client_loop, args=arguments) for _ in range(concurrency)]
    for process in clients:
        process.start()
    latencies = np.concatenate([results.get() for _ in clients])
    for process in clients:
        process.join()
    return {
        "per_second": len(latencies) / seconds,
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
    }


@click.command()
@click.option("--native", default="SMAP_A-1", show_default=True, help="Natively served model.")
@click.option("--twin", default="omnianomaly_py", show_default=True, help="Its python twin.")
@click.option("--samples", default=100, show_default=True, help="Samples in a window.")
@click.option("--concurrency", default="1,8", show_default=True, help="Numbers of clients.")
@click.option("--rounds", default=5, show_default=True, help="Rounds.")
@click.option("--seconds", default=3.0, show_default=True, help="Seconds of each measurement.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the figures here.")
def main(
    native: str,
    twin: str,
    samples: int,
    concurrency: str,
    rounds: int,
    seconds: float,
    report: Path | None,
) -> None:
    """Compare a native model with its python-backend twin."""
    levels = [int(level) for level in concurrency.split(",")]
    server, _ = make_server(load_config(), python=True, models=[native, twin], free_ports=True)
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    with server:
        for done in range(rounds):
            for level in levels:
                for model in (native, twin):
                    figures = measure(server.grpc_url, model, samples, level, seconds)
                    runs.setdefault((model, level), []).append(figures)
            click.echo(f"round {done + 1} of {rounds}", err=True)
    rows = []
    for level in levels:
        pairs = zip(runs[native, level], runs[twin, level], strict=True)
        ratios = [a["per_second"] / b["per_second"] for a, b in pairs]
        for model in (native, twin):
            median = {
                key: statistics.median(run[key] for run in runs[model, level])
                for key in ("per_second", "p50_ms", "p99_ms")
            }
            rows.append({"model": model, "concurrency": level, **median})
            click.echo(
                f"{model:16} {level:2} clients: {median['per_second']:7.0f} windows/s, "
                f"p50 {median['p50_ms']:6.2f} ms, p99 {median['p99_ms']:6.2f} ms"
            )
        rows[-2]["ratio"] = statistics.median(ratios)
        rows[-2]["ratio_range"] = [min(ratios), max(ratios)]
        click.echo(
            f"  native / python: {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f} over {rounds} rounds)"
        )
    if report is not None:
        machine = {"cores": os.cpu_count(), "platform": platform.platform()}
        versions = dict(versions_of("torch", "onnxruntime", "nvidia-pytriton"))
        data = {"machine": machine, "versions": versions, "samples": samples, "rows": rows}
        report.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""`builder detect`: score a file of telemetry on a running server."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.config import Config
from builder.errors import DataError, UsageError
from builder.families.anomaly.channels import Channel, find_channel

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

    from builder.families.anomaly.remote import RemoteModel, Scored
    from builder.families.anomaly.segments import Detection


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--channel", help="Channel whose detector to ask, e.g. E-1.")
@click.option(
    "--pipeline",
    metavar="NAME",
    help="Ask this pipeline (or any other model with that contract) instead of the bare detector. "
    "Pipelines accept NaN and Inf.",
)
@click.option("--url", help="gRPC address of the server.  [default: [server] of the configuration]")
@click.option("--version", default="", help="Version of the model.  [default: the server's choice]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to save the plot, a .png.  [default: build/detect/<file>-<model>.png]",
)
@click.option("--no-plot", is_flag=True, help="Save no plot.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def detect_command(
    config: Config,
    file: Path,
    channel: str | None,
    pipeline: str | None,
    url: str | None,
    version: str,
    output: Path | None,
    no_plot: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Detect anomalies in FILE with a running server (see `builder serve`).

    FILE is a .npy array [T,25]: per sample the telemetry value and 24 command features. Prints
    the detected segments and saves a plot of them.

    \b
    builder detect test/E-1.npy --channel E-1
    builder detect raw.npy --pipeline anomaly_pipeline -o raw.png
    """
    name = _model_name(config, channel, pipeline)
    if output is not None and output.suffix.lower() != ".png":
        raise UsageError("plots are saved as .png", where=output, hint="rename the output")

    import numpy as np

    from builder.families.anomaly.remote import find_model
    from builder.families.anomaly.segments import bridge, detections
    from builder.families.anomaly.telemetry import load_samples
    from builder.serving.client import connect

    telemetry = load_samples(file, allow_invalid=True)
    bad = ~np.isfinite(telemetry).all(axis=1)
    client = connect(url or f"{config.server.host}:{config.server.grpc_port}")
    try:
        model = find_model(client, name, version)
        if bad.any() and not model.sanitises:
            raise DataError(
                f"{int(bad.sum())} of {len(bad)} samples hold NaN, Inf or numbers beyond FP32, "
                f"the first is sample {int(bad.argmax())}",
                where=file,
                hint=f"{_sanitising_hint(channel)}, which fills them in",
            )
        scored = _score(client, model, telemetry, timeout)
    finally:
        client.close()
    flags = scored.detected if scored.valid is None else bridge(scored.detected, scored.valid)
    found = detections(flags, scored.score)

    saved = None
    if not no_plot:
        from builder.families.anomaly.evaluate import Scores
        from builder.families.anomaly.plots import plot_channel

        # A fused score is in units of the threshold; a detector keeps its threshold to itself.
        threshold = 1.0 if model.fused else float("inf")
        gaps = np.where(bad[:, None], np.nan, telemetry)
        saved = output or config.build_dir / "detect" / f"{file.stem}-{name}.png"
        plot_channel(saved, f"{file.name}: {name}", gaps, Scores(scored.score, flags, threshold))
    if as_json:
        click.echo(json.dumps(_as_json(file, model, scored, found, saved), indent=2))
    else:
        _print(file, model, scored, found, saved)


def _model_name(config: Config, channel: str | None, pipeline: str | None) -> str:
    """The model to ask."""
    wanted = None if channel is None else find_channel(channel)
    if pipeline is None:
        if wanted is None:
            raise UsageError(
                "which detector is to look at the file?",
                where="builder detect",
                hint="name its channel, --channel E-1, or a pipeline, --pipeline anomaly_pipeline",
            )
        return wanted.model
    if wanted is not None:
        _check_belongs(config, wanted, pipeline)
    return pipeline


def _check_belongs(config: Config, wanted: Channel, pipeline: str) -> None:
    """Refuse a pipeline that is known to be another channel's."""
    from builder.family import Registry

    known = Registry.load(config).pipelines.get(pipeline)
    channel = wanted.name if known is None else known.metadata.get("channel", wanted.name)
    if channel != wanted.name:
        raise UsageError(
            f"is trained on channel {channel}, not on {wanted.name}",
            where=pipeline,
            hint=f"use --pipeline {wanted.model}_pipeline, or leave out --channel",
        )


def _sanitising_hint(channel: str | None) -> str:
    name = "anomaly_pipeline" if channel is None else f"{find_channel(channel).model}_pipeline"
    return f"use --pipeline {name}"


def _score(
    client: "InferenceServerClient", model: "RemoteModel", telemetry: Any, timeout: float
) -> "Scored":
    """Ask the server, with a progress bar where it is worth one."""
    from builder.families.anomaly.remote import MAX_SAMPLES

    if len(telemetry) <= MAX_SAMPLES or not sys.stderr.isatty():
        return model.score(client, telemetry, timeout=timeout)
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(model.name, total=len(telemetry))
        return model.score(
            client,
            telemetry,
            timeout=timeout,
            progress=lambda samples: bar.update(task, completed=samples),
        )


def _invalid(scored: "Scored") -> int:
    return 0 if scored.valid is None else int((~scored.valid).sum())


def _as_json(
    file: Path,
    model: "RemoteModel",
    scored: "Scored",
    found: "tuple[Detection, ...]",
    saved: Path | None,
) -> dict[str, Any]:
    return {
        "file": str(file),
        "model": model.name,
        "version": model.version or None,
        "samples": len(scored.score),
        "invalid_samples": _invalid(scored),
        "anomalous_samples": int(scored.detected.sum()),
        "segments": [
            {
                "first": d.segment.first,
                "last": d.segment.last,
                "length": d.segment.length,
                "peak_score": d.peak,
                "peak_sample": d.peak_at,
            }
            for d in found
        ],
        "plot": None if saved is None else str(saved),
    }


def _print(
    file: Path,
    model: "RemoteModel",
    scored: "Scored",
    found: "tuple[Detection, ...]",
    saved: Path | None,
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("first", "last", "samples", "peak score", "at sample"):
            table.add_column(column, justify="right")
        for d in found:
            numbers = (d.segment.first, d.segment.last, d.segment.length, f"{d.peak:.4g}")
            table.add_row(*map(str, numbers), str(d.peak_at))
        console.print(table)
    share = f"{int(scored.detected.sum())} of {len(scored.score)} samples"
    many = f"{len(found)} segment{'' if len(found) == 1 else 's'}" if found else "no anomaly"
    console.print(f"{file.name}, {model.name}: {many}, {share} anomalous", markup=False)
    if invalid := _invalid(scored):
        console.print(f"{invalid} samples held NaN or Inf and were filled in", markup=False)
    if saved is not None:
        console.print(f"plot: {saved}", markup=False, soft_wrap=True)

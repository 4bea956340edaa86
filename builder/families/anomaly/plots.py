"""A picture per channel: telemetry, score, threshold, labelled and detected segments."""

import io
from pathlib import Path

import numpy as np

from builder.families.anomaly.channels import TELEMETRY_COLUMN
from builder.families.anomaly.evaluate import Scores
from builder.families.anomaly.telemetry import Samples, Segment, to_segments
from builder.files import write_atomic

LABELLED_COLOUR = "#e69f00"
DETECTED_COLOUR = "#0072b2"
_SCORE_CEILING = 5.0
"""The score axis ends at this many thresholds, so that the threshold stays visible."""


def plot_channel(
    path: Path,
    title: str,
    samples: Samples,
    answer: Scores,
    labelled: tuple[Segment, ...] = (),
) -> None:
    """Write a PNG for FP32 [T,25] and what a detector said about it.

    Raises:
        BuilderError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    value_axes, score_axes = figure.subplots(2, 1, sharex=True)
    value_axes.plot(samples[:, TELEMETRY_COLUMN], color="black", linewidth=0.6)
    value_axes.set_ylabel("telemetry value")
    value_axes.set_title(title, loc="left")
    # Labelled in the upper half, detected in the lower: agreement is one above the other.
    for segments, label, colour, (low, high) in (
        (labelled, "labelled", LABELLED_COLOUR, (0.5, 1.0)),
        (to_segments(answer.detected), "detected", DETECTED_COLOUR, (0.0, 0.5)),
    ):
        for number, segment in enumerate(segments):
            value_axes.axvspan(
                segment.first - 0.5,
                segment.last + 0.5,
                ymin=low,
                ymax=high,
                color=colour,
                alpha=0.35,
                linewidth=0,
                label=label if number == 0 else None,
            )
    if labelled or answer.detected.any():
        value_axes.legend(loc="upper left", ncols=2, fontsize="small")
    score_axes.plot(answer.score, color="black", linewidth=0.6)
    if np.isfinite(answer.threshold):
        score_axes.axhline(answer.threshold, color="#d55e00", linestyle="--", label="threshold")
        score_axes.set_ylim(0, _SCORE_CEILING * answer.threshold)
        score_axes.legend(loc="upper left", fontsize="small")
    score_axes.set_ylabel("anomaly score")
    score_axes.set_xlabel("sample")
    score_axes.set_xlim(0, max(1, len(samples) - 1))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomic(path, buffer.getvalue())

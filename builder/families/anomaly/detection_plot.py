"""The plot of `builder detect`: telemetry above, score below, detected segments shaded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from builder.errors import from_os_error
from builder.families.anomaly.channels import TELEMETRY_COLUMN
from builder.families.anomaly.remote import Scored
from builder.families.anomaly.segments import Detection

_BLUE, _GREY, _RED = "#1f5a99", "#555555", "#d62728"
_LINEAR_UP_TO = 20.0
"""Scores beyond this would flatten all others, so the axis becomes logarithmic above 1."""


def plot_detections(
    path: Path,
    title: str,
    telemetry: NDArray[np.float32],
    scored: Scored,
    found: Sequence[Detection],
) -> None:
    """Write the plot.

    Args:
        path: A .png, .svg or .pdf file; its folder is made.
        title: Heading.
        telemetry: FP32 [T,25]; gaps where it is not finite.
        scored: What the model said.
        found: The detected segments.

    Raises:
        RepositoryError: The file cannot be written.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    value = telemetry[:, TELEMETRY_COLUMN]
    upper.plot(np.where(np.isfinite(value), value, np.nan), color=_BLUE, linewidth=0.8)
    upper.set_ylabel("telemetry value")
    upper.set_title(title, loc="left")
    lower.plot(scored.score, color=_GREY, linewidth=0.8)
    lower.set_ylabel("anomaly score")
    lower.set_xlabel("sample")
    if scored.score.max() > _LINEAR_UP_TO:
        lower.set_yscale("symlog", linthresh=1.0)
    for axes in (upper, lower):
        for detection in found:
            segment = detection.segment
            axes.axvspan(segment.first - 0.5, segment.last + 0.5, color=_RED, alpha=0.25, lw=0)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    if scored.valid is not None and not scored.valid.all():
        invalid = np.flatnonzero(~scored.valid)
        bottom = upper.get_xaxis_transform()
        upper.plot(
            invalid, np.full(len(invalid), 0.02), "|", color="black", transform=bottom,
            label="filled-in samples",
        )  # fmt: skip
        upper.legend(loc="upper right", frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise from_os_error(error, "saving the plot", path) from error

"""What the two kinds of detector have in common: their contract and example telemetry."""

from typing import TYPE_CHECKING

from builder.families.anomaly.channels import FEATURES
from builder.stage import Arrays, Range, Shape, Tensor

if TYPE_CHECKING:
    import numpy as np

INPUTS = (Tensor("input_data", "FP32", ("T", FEATURES)),)
OUTPUTS = (
    Tensor("reconstruction", "FP32", ("T", FEATURES)),
    Tensor("anomaly_score", "FP32", ("T",)),
    Tensor("anomaly_detected", "BOOL", ("T",)),
)
PROFILE = {"T": Range(1, 100, 4096)}
SHAPES: tuple[Shape, ...] = ({"T": 100}, {"T": 1}, {"T": 257}, {"T": 0})
"""The usual window, the shortest, one that no exporter could have guessed, and an empty one."""


def telemetry_example(shape: Shape, rng: "np.random.Generator") -> Arrays:
    """One window as `input_data`; from 50 samples on with a drop-out (a row of NaN)."""
    return {"input_data": telemetry_window(shape["T"], rng, dropout=shape["T"] >= 50)}


def telemetry_window(
    samples: int, rng: "np.random.Generator", *, dropout: bool = False
) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Telemetry-like values: a slow wave with noise and a step, then 24 one-hot commands.

    Returns:
        FP32 [samples,25].
    """
    import numpy as np

    window = np.zeros((samples, FEATURES), np.float32)
    time = np.arange(samples)
    window[:, 0] = np.sin(time / 17.0 + rng.uniform(0, 6)) + rng.normal(0, 0.05, samples)
    window[samples // 2 :, 0] += rng.uniform(-1, 1)
    window[time, rng.integers(1, FEATURES, samples)] = 1.0
    if dropout:
        window[samples // 3] = np.nan
    return window

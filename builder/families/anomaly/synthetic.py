"""Synthetic telemetry of the telemanom layout, for machines without the real set.

Every channel is a seeded signal of one of five shapes (steady, switching, orbital, sawtooth,
noisy), partly steered by its command features; the test array has two labelled anomalies. It is
made to exercise the code, not to predict detection on real telemetry.
"""

import csv
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.families.anomaly.channels import CHANNEL_NAMES, FEATURES
from builder.families.anomaly.telemetry import LABELS_FILE, Segment
from builder.files import write_atomic

TRAIN_SAMPLES = 2000
TEST_SAMPLES = 4000
_ACTIVE_COMMANDS = 8
_ANOMALIES = ("shift", "stuck", "noise", "flip")


@dataclass(frozen=True, slots=True)
class SyntheticChannel:
    """Telemetry of one channel.

    Attributes:
        train: FP64 [T,25] without anomalies.
        test: FP64 [T,25] with anomalies.
        segments: The anomalies of `test`.
    """

    train: NDArray[np.float64]
    test: NDArray[np.float64]
    segments: tuple[Segment, ...]


def make_channel(
    name: str,
    seed: int = 0,
    train_samples: int = TRAIN_SAMPLES,
    test_samples: int = TEST_SAMPLES,
) -> SyntheticChannel:
    """The same telemetry for the same arguments, on every machine."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    shape = int(rng.integers(5))
    period = float(rng.uniform(40, 120))
    total = train_samples + test_samples
    commands = np.zeros((total, FEATURES - 1))
    for column in rng.choice(FEATURES - 1, _ACTIVE_COMMANDS, replace=False):
        commands[:, column] = rng.random(total) < rng.uniform(0.005, 0.2)
    value = _signal(shape, period, commands, rng)
    train = np.column_stack((value, commands))[:train_samples]
    test = np.column_stack((value, commands))[train_samples:]
    segments = _add_anomalies(test[:, 0], float(np.ptp(train[:, 0])), rng)
    return SyntheticChannel(np.clip(train, -1, 1), np.clip(test, -1, 1), segments)


def write_folder(
    folder: Path,
    channels: Sequence[str] = CHANNEL_NAMES,
    seed: int = 0,
    train_samples: int = TRAIN_SAMPLES,
    test_samples: int = TEST_SAMPLES,
) -> None:
    """Write channels as a folder that `builder.families.anomaly.telemetry` reads.

    Raises:
        BuilderError: The folder cannot be written.
    """
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("chan_id", "spacecraft", "anomaly_sequences", "class", "num_values"))
    for name in channels:
        made = make_channel(name, seed, train_samples, test_samples)
        for part, array in (("train", made.train), ("test", made.test)):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            write_atomic(folder / part / f"{name}.npy", buffer.getvalue())
        pairs = json.dumps([[s.first, s.last] for s in made.segments])
        kinds = f"[{', '.join('point' for _ in made.segments)}]"
        rows.writerow((name, "SYNTHETIC", pairs, kinds, len(made.test)))
    write_atomic(folder / LABELS_FILE, table.getvalue().encode())


def _signal(
    shape: int, period: float, commands: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    samples = len(commands)
    phase = np.arange(samples) / period + rng.random()
    steered = np.convolve(commands[:, 0] + commands[:, 1], np.exp(-np.arange(20) / 5))[:samples]
    if shape == 0:  # steady, a relay that hardly ever moves
        base = np.full(samples, -0.9)
    elif shape == 1:  # switching between two levels
        base = np.where(np.sin(2 * np.pi * phase) > rng.uniform(-0.3, 0.3), 0.6, -0.6)
    elif shape == 2:  # orbital: day and night with a harmonic
        base = 0.5 * np.sin(2 * np.pi * phase) + 0.15 * np.sin(6 * np.pi * phase)
    elif shape == 3:  # sawtooth: heating up, being cooled
        base = 1.2 * (phase % 1.0) - 0.6
    else:  # noise with a memory
        base = np.convolve(rng.normal(0, 0.15, samples), np.ones(8) / 4)[:samples]
    signal: NDArray[np.float64] = base + 0.05 * steered + rng.normal(0, 0.01, samples)
    return signal


def _add_anomalies(
    value: NDArray[np.float64], span: float, rng: np.random.Generator
) -> tuple[Segment, ...]:
    """Change two stretches of a signal in place, one in each half."""
    segments = []
    half = len(value) // 2
    for start in (0, half):
        length = int(rng.integers(max(1, half // 20), max(2, half // 5)))
        first = start + int(rng.integers(half // 4, half - length))
        part = slice(first, first + length)
        match _ANOMALIES[int(rng.integers(len(_ANOMALIES)))]:
            case "shift":
                value[part] += span * rng.choice((-0.7, 0.7))
            case "stuck":
                value[part] = value[first]
            case "noise":
                value[part] += rng.normal(0, 0.3 * span, length)
            case _:
                value[part] = value.max() + value.min() - value[part]
        segments.append(Segment(first, first + length - 1))
    return tuple(segments)

"""Reading a telemetry folder of the telemanom layout.

    DIR/train/<channel>.npy           float [T,25], normal operation
    DIR/test/<channel>.npy            float [T,25], with anomalies
    DIR/labeled_anomalies.csv         chan_id,spacecraft,anomaly_sequences,class,num_values

Column 0 is the telemetry value, the others are one-hot command features. `anomaly_sequences` is
a list of [first, last] sample numbers of the test array, `last` included. A channel may have more
than one row; its segments are then the union. Arrays are never unpickled.
"""

import csv
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.errors import DataError
from builder.families.anomaly.channels import FEATURES

Samples = NDArray[np.float32]
"""Telemetry, FP32 [T,25], in raw units."""

Mask = NDArray[np.bool_]
"""One decision per sample, BOOL [T]."""

LABELS_FILE = "labeled_anomalies.csv"
SAMPLES_PER_DAY = 1440
"""SMAP telemetry of this set is taken as one sample per minute."""

_LAYOUT = "expected train/<channel>.npy, test/<channel>.npy and labeled_anomalies.csv"
_MAX_CSV_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """Consecutive anomalous samples.

    Attributes:
        first: Number of the first sample, from 0.
        last: Number of the last sample, which still belongs to the segment.
    """

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of samples."""
        return self.last - self.first + 1


def load_samples(path: Path, *, allow_invalid: bool = False) -> Samples:
    """The telemetry of one .npy file as FP32 [T,25].

    Args:
        path: The file.
        allow_invalid: Accept NaN and Inf.

    Raises:
        DataError: The file is missing, truncated or no .npy file, or the array is empty, not
            numeric, not [T,25], or holds NaN or Inf.
    """
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            trailing = file.read(1)
    except FileNotFoundError as error:
        raise DataError("there is no such telemetry file", where=path, hint=_LAYOUT) from error
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(
            f"not a complete .npy array of numbers ({error})",
            where=path,
            hint="write it with numpy.save, as float [T,25]",
        ) from error
    if not isinstance(array, np.ndarray) or trailing:
        raise DataError("not a single .npy array", where=path, hint="write it with numpy.save")
    return check_samples(array, path, allow_invalid=allow_invalid)


def check_samples(
    array: NDArray[np.generic], where: str | Path, *, allow_invalid: bool = False
) -> Samples:
    """The array as FP32 [T,25], if it is telemetry.

    Raises:
        DataError: As for `load_samples`.
    """
    if array.ndim != 2 or array.shape[1] != FEATURES:
        raise DataError(
            f"the array has shape {list(array.shape)}, not [T,{FEATURES}]",
            where=where,
            hint="one row per sample: the telemetry value and 24 command features",
        )
    if array.shape[0] == 0:
        raise DataError("the array holds no samples", where=where)
    if array.dtype.kind not in "fiub":
        raise DataError(f"the array holds {array.dtype}, not numbers", where=where)
    with np.errstate(over="ignore"):
        samples = array.astype(np.float32)
    bad = ~np.isfinite(samples)
    if bad.any() and not allow_invalid:
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{int(bad.sum())} values are NaN, Inf or beyond FP32, the first in row {row}, "
            f"column {column}",
            where=where,
            hint="repair or drop those samples; only the served models accept them",
        )
    return samples


def load_train(folder: Path, channel: str) -> Samples:
    """The train array of a channel, FP32 [T,25]; raises DataError as `load_samples` does."""
    return load_samples(folder / "train" / f"{channel}.npy")


def load_test(folder: Path, channel: str) -> Samples:
    """The test array of a channel, FP32 [T,25]; raises DataError as `load_samples` does."""
    return load_samples(folder / "test" / f"{channel}.npy")


def load_labels(folder: Path) -> dict[str, tuple[Segment, ...]]:
    """The labelled segments by channel, sorted, overlapping ones merged.

    Raises:
        DataError: The csv is missing, lacks a column, or has a row that is no list of segments.
    """
    path = folder / LABELS_FILE
    try:
        if path.stat().st_size > _MAX_CSV_BYTES:
            raise DataError("too large for a file of labels", where=path)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError("there is no file of labels", where=path, hint=_LAYOUT) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=path, hint=_LAYOUT) from error
    reader = csv.DictReader(text.splitlines(), strict=True)
    segments: dict[str, list[Segment]] = {}
    try:
        if missing := {"chan_id", "anomaly_sequences"} - set(reader.fieldnames or ()):
            raise DataError(f"no column {', '.join(sorted(missing))}", where=path, hint=_LAYOUT)
        for row in reader:
            parsed = _parse_segments(row["anomaly_sequences"], f"{path}:{reader.line_num}")
            segments.setdefault(row["chan_id"], []).extend(parsed)
    except csv.Error as error:
        raise DataError(f"not a csv file ({error})", where=path, hint=_LAYOUT) from error
    return {name: merge(found) for name, found in segments.items()}


def merge(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The union of segments: sorted, without overlaps. Touching segments become one."""
    merged: list[Segment] = []
    for segment in sorted(segments):
        if merged and segment.first <= merged[-1].last + 1:
            merged[-1] = Segment(merged[-1].first, max(merged[-1].last, segment.last))
        else:
            merged.append(segment)
    return tuple(merged)


def to_mask(segments: Sequence[Segment], samples: int) -> Mask:
    """BOOL [samples], true inside the segments. Parts beyond the array are dropped."""
    mask = np.zeros(samples, dtype=np.bool_)
    for segment in segments:
        mask[segment.first : segment.last + 1] = True
    return mask


def to_segments(mask: Mask) -> tuple[Segment, ...]:
    """The runs of true values of BOOL [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return tuple(
        Segment(int(first), int(end) - 1)
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    )


def channels_with_data(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that have a train array.

    Raises:
        DataError: The folder has none of them.
    """
    found = tuple(name for name in names if (folder / "train" / f"{name}.npy").is_file())
    if not found:
        raise DataError("no telemetry of any known channel", where=folder, hint=_LAYOUT)
    return found


def _parse_segments(text: str | None, where: str) -> list[Segment]:
    try:
        pairs = json.loads(text or "")
        segments = [Segment(first, last) for first, last in pairs]
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"anomaly_sequences {text!r} is not a list of [first, last]", where=where
        ) from error
    for segment in segments:
        numbers = type(segment.first) is int and type(segment.last) is int
        if not numbers or not 0 <= segment.first <= segment.last:
            raise DataError(
                f"segment [{segment.first}, {segment.last}] is not 0 <= first <= last",
                where=where,
            )
    return segments

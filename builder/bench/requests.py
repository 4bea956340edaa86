"""Requests as files: JSON for perf_analyzer, .npz for the loop without a server."""

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import DataError, from_os_error
from builder.golden import golden_bytes, read_golden
from builder.stage import Arrays

if TYPE_CHECKING:
    import numpy as np


def perf_analyzer_json(requests: Sequence[Arrays], *, batched: bool) -> str:
    """The requests as perf_analyzer's `--input-data` wants them.

    Args:
        requests: Arrays by name, as a client sends them.
        batched: Whether the model has a batch dim. The format has none: the first dim, which
            must be 1, is left out then.

    Raises:
        DataError: A request is a batch of several.
    """
    return json.dumps({"data": [_entry(arrays, batched) for arrays in requests]})


def _entry(arrays: Arrays, batched: bool) -> dict[str, Any]:
    entry = {}
    for name, array in arrays.items():
        shape = list(array.shape)
        if batched:
            if shape[:1] != [1]:
                raise DataError(f"a request is one sample, this has shape {shape}", where=name)
            shape = shape[1:]
        content = {"b64": base64.b64encode(_raw(array)).decode("ascii")}
        entry[name] = {"content": content, "shape": shape}
    return entry


def _raw(array: "np.ndarray[Any, Any]") -> bytes:
    """The tensor as Triton's protocol has it: strings with their length in front."""
    if array.dtype.kind not in "OSU":
        return array.tobytes()
    texts = (t.encode() if isinstance(t, str) else bytes(t) for t in array.reshape(-1))
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def write_requests(folder: Path, requests: Sequence[Arrays]) -> list[Path]:
    """Write each request as an .npz into a new folder.

    Raises:
        RepositoryError: The folder cannot be written.
    """
    paths = [folder / f"{number}.npz" for number in range(len(requests))]
    try:
        folder.mkdir(parents=True)
        for path, arrays in zip(paths, requests, strict=True):
            path.write_bytes(golden_bytes(arrays, {}))
    except OSError as error:
        raise from_os_error(error, "writing requests", folder) from error
    return paths


def read_request(path: Path) -> Arrays:
    """What `write_requests` wrote."""
    return read_golden(path)[0]

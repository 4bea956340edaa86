"""The tensors of a checkpoint component by name, from the headers of its safetensors files.

Nothing but headers is read, so that a checkpoint of 24 GB is checked in a moment and its tensors
can be used where they lie. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.errors import CheckpointError
from builder.stored import StoredTensor

MAX_HEADER = 100_000_000
"""Largest header that the format allows, in bytes."""

MAX_JSON = 64 * 2**20
"""No index or configuration is near this size."""

ITEM_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip

_INDEX = ".safetensors.index.json"
_RESTORE = "restore the file, for example by downloading it again"


def shard_files(folder: Path, stem: str) -> tuple[Path, ...]:
    """The index, where there is one, and the safetensors files of a component.

    Args:
        folder: Folder of the component.
        stem: `model` (transformers) or `diffusion_pytorch_model` (diffusers).

    Raises:
        CheckpointError: There are none, or the index is damaged or names a file elsewhere.
    """
    index, single = folder / f"{stem}{_INDEX}", folder / f"{stem}.safetensors"
    if not index.is_file():
        if single.is_file():
            return (single,)
        found = (
            "only a pickle, which could run code when loaded" if any(folder.glob("*.bin")) else ""
        )
        raise CheckpointError(
            f"neither {single.name} nor {index.name} is there" + (f" ({found})" if found else ""),
            where=folder,
            hint="FLUX.1 is loaded from safetensors files in the layout of diffusers",
        )
    names = sorted(set(_weight_map(index).values()))
    if bad := [n for n in names if Path(n).name != n or not n.endswith(".safetensors")]:
        raise CheckpointError(f"names the file {bad[0]!r}", where=index, hint=_RESTORE)
    files = [folder / name for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing: {', '.join(missing)}",
            where=folder,
            hint=_RESTORE,
        )
    return (index, *files)


def stored_tensors(folder: Path, stem: str) -> dict[str, StoredTensor]:
    """All tensors of a component by their stored name.

    Raises:
        CheckpointError: A file is missing, truncated or damaged; a tensor is stored twice, or is
            not in the file that the index names.
    """
    files = shard_files(folder, stem)
    index = files[0] if files[0].name.endswith(_INDEX) else None
    tensors: dict[str, StoredTensor] = {}
    for file in files if index is None else files[1:]:
        for tensor in read_header(file):
            if tensor.name in tensors:
                other = tensors[tensor.name].file.name
                raise CheckpointError(f"{tensor.name} is also in {other}", where=file)
            tensors[tensor.name] = tensor
    if index is not None:
        problems = [
            f"{name} is not in {file}"
            for name, file in _weight_map(index).items()
            if name not in tensors or tensors[name].file.name != file
        ]
        if problems:
            raise CheckpointError("; ".join(problems), where=index, hint=_RESTORE)
    return tensors


def read_header(file: Path) -> list[StoredTensor]:
    """The tensors of one safetensors file.

    Raises:
        CheckpointError: The file is truncated, or is no safetensors file.
    """
    try:
        total = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER, total - 8):
                raise CheckpointError(
                    "truncated, or not a safetensors file", where=file, hint=_RESTORE
                )
            header = json.loads(stream.read(length))
        tensors = [
            _stored(file, name, entry, 8 + length)
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"damaged safetensors header ({error})", where=file, hint=_RESTORE
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=file) from error
    end = max((t.offset + t.size for t in tensors), default=8 + length)
    if end != total:
        raise CheckpointError(
            f"{total} bytes long, its header speaks of {end}: truncated or damaged",
            where=file,
            hint=_RESTORE,
        )
    return tensors


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: The file is missing, too large, or holds no JSON object.
    """
    try:
        if file.stat().st_size > MAX_JSON:
            raise CheckpointError(f"larger than {MAX_JSON} bytes", where=file)
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError("no such file", where=file, hint=_RESTORE) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read as JSON ({error})", where=file) from error
    if not isinstance(value, dict):
        raise CheckpointError("holds no JSON object", where=file, hint=_RESTORE)
    return value


def _stored(file: Path, name: str, entry: Mapping[str, Any], data: int) -> StoredTensor:
    begin, end = (int(n) for n in entry["data_offsets"])
    shape = tuple(int(n) for n in entry["shape"])
    dtype = str(entry["dtype"])
    if dtype not in ITEM_BITS:
        raise ValueError(f"{name} has the unknown data type {dtype}")
    size = math.prod(shape) * ITEM_BITS[dtype] // 8
    if begin < 0 or min(shape, default=0) < 0 or end - begin != size:
        raise ValueError(f"{name} of shape {list(shape)} does not take {end - begin} bytes")
    return StoredTensor(file, name, dtype, shape, data + begin, size)


def _weight_map(index: Path) -> dict[str, str]:
    entries = read_json(index).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointError("has no weight_map", where=index, hint=_RESTORE)
    return {str(name): str(file) for name, file in entries.items()}

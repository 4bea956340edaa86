"""External data: the weights of an ONNX file, in files beside it.

A weight stays where it is if it can: its entry in the ONNX file points into the safetensors file,
which is hard-linked into the folder of the ONNX file. ONNX Runtime refuses locations outside that
folder, and symbolic links that lead out of it. Other weights are streamed, one at a time, into
`<model>.data`, each at the start of a page.

The ONNX checker refuses hard links when it is given a path; check the skeleton instead.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import CheckpointError, ExportError, from_os_error
from builder.stored import DTYPES, StoredTensor, StoredWeights

if TYPE_CHECKING:
    import onnx
    import torch

PAGE = 4096
"""Streamed weights start at multiples of this, so that a runtime can map them."""

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and how much there is."""

_MIB = 1 << 20
_CHUNK = 1 << 24


def silent(phase: str, done: int, total: int) -> None:
    """Say nothing."""


@dataclass(slots=True)
class DataFile:
    """The file that weights are streamed into; it is only made when the first one comes.

    Args:
        path: The file to write.
    """

    path: Path
    end: int = 0

    def append(self, name: str, tensor: "torch.Tensor") -> tuple[int, int]:
        """Write a tensor at the next page.

        Returns:
            Its offset and its size in bytes.

        Raises:
            RepositoryError: The disk is full, or the file cannot be written.
        """
        import torch

        offset = -(-self.end // PAGE) * PAGE
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        try:
            with self.path.open("r+b" if self.path.exists() else "xb") as file:
                file.seek(offset)
                file.write(raw.data)
        except OSError as error:
            raise from_os_error(error, f"writing {name} into", self.path) from error
        self.end = offset + raw.nbytes
        return offset, raw.nbytes


def place_weights(
    model: "onnx.ModelProto",
    names: Iterable[str],
    weights: StoredWeights,
    path: Path,
    progress: Progress = silent,
) -> dict[str, int]:
    """Turn the inputs of a skeleton that are weights into initialisers, and write it.

    At no time more than one weight is in memory.

    Args:
        model: The skeleton, with the data types that `stored_types` gives; changed in place.
        names: Its weights.
        path: The ONNX file to write; links and the data file come beside it.
        progress: Told the MiB that are checked.

    Returns:
        Bytes that are used `in_place`, and bytes that were `streamed`.

    Raises:
        CheckpointError: A weight holds NaN or Inf; every such weight is named.
        RepositoryError: The disk is full, or a file cannot be written.
    """
    import onnx

    stored, changes = weights.tensors(), weights.changes()
    data = DataFile(path.with_name(f"{path.name}.data"))
    links = _link_names({stored[name].file for name in names}, reserved={path.name, data.path.name})
    linked: set[Path] = set()
    initialisers: list[onnx.TensorProto] = []
    problems: list[str] = []
    total = sum(stored[name].size for name in names) // _MIB
    done = in_place = 0
    for name in names:
        tensor = stored[name]
        values = tensor.read()
        if not is_finite(values):
            problems.append(f"{name} holds NaN or Inf")
        if name in changes or not _fits_in_place(tensor):
            values = values.float()
            if name in changes:
                values = changes[name](values)
                if tuple(values.shape) != tensor.shape or not is_finite(values):
                    problems.append(f"{name} is changed to {list(values.shape)}, or not finite")
            place = (data.path.name, *data.append(name, values))
            kind = "F32"
        else:
            if tensor.file not in linked:
                link_file(tensor.file, path.with_name(links[tensor.file]), progress)
                linked.add(tensor.file)
            place = (links[tensor.file], tensor.offset, tensor.size)
            kind = tensor.dtype
            in_place += tensor.size
        initialisers.append(external_tensor(name, tensor.shape, kind, *place))
        done += tensor.size
        progress("checking weights", done // _MIB, total)
    if problems:
        raise CheckpointError(
            "; ".join(problems[:20]),
            where=stored[next(iter(names))].file.parent,
            hint="download the files again",
        )
    own = [value for value in model.graph.input if value.name not in set(names)]
    del model.graph.input[:]
    model.graph.input.extend(own)
    model.graph.initializer.extend(initialisers)
    write_model(model, path)
    return {"in_place": in_place, "streamed": data.end}


def stored_types(weights: StoredWeights) -> dict[str, str]:
    """The data type that each weight will have in the ONNX file, as safetensors calls it.

    Raises:
        CheckpointError: The files do not fit the module.
    """
    changes = weights.changes()
    return {
        name: tensor.dtype if name not in changes and _fits_in_place(tensor) else "F32"
        for name, tensor in weights.tensors().items()
    }


def external_tensor(
    name: str, shape: Iterable[int], dtype: str, location: str, offset: int, size: int
) -> "onnx.TensorProto":
    """An initialiser whose values lie in another file.

    Args:
        dtype: As safetensors calls it.
        location: The file, beside the ONNX file.
    """
    import onnx

    tensor = onnx.TensorProto(
        name=name,
        dims=shape,
        data_type=onnx.TensorProto.DataType.Value(DTYPES[dtype][1]),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, value in (("location", location), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def stored_tensor(tensor: "onnx.TensorProto", folder: Path) -> StoredTensor:
    """Where the values of an external initialiser lie.

    Raises:
        ExportError: The entry leads out of the folder, or its data type is no floating-point one.
    """
    import onnx

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, kind = entries.get("location", ""), onnx.TensorProto.DataType.Name(tensor.data_type)
    dtype = next((name for name, (_, other) in DTYPES.items() if other == kind), None)
    if Path(location).name != location or not location or dtype is None:
        raise ExportError(
            f"{tensor.name} of type {kind} lies in {location!r}",
            where=folder,
            hint="export the model again",
        )
    size = int(entries.get("length", 0))
    offset = int(entries.get("offset", 0))
    return StoredTensor(folder / location, tensor.name, dtype, tuple(tensor.dims), offset, size)


def outline(path: Path) -> "onnx.ModelProto":
    """An ONNX file without its external data."""
    import onnx

    model: onnx.ModelProto = onnx.load(str(path), load_external_data=False)
    return model


def external_files(model: "onnx.ModelProto", folder: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its weights, by name.

    Raises:
        ExportError: An entry leads out of the folder.
    """
    return tuple(sorted({stored_tensor(t, folder).file for t in _external(model)}))


def external_bytes(tensors: "Iterable[onnx.TensorProto]") -> int:
    """Bytes that initialisers have outside the ONNX file."""
    lengths = (e.value for t in tensors for e in t.external_data if e.key == "length")
    return sum(int(value) for value in lengths)


def link_file(source: Path, target: Path, progress: Progress = silent) -> None:
    """Hard-link a file, or copy it where that is impossible.

    The link is to the file itself, where `source` is a symbolic link, as in a cache of the hub.

    Raises:
        RepositoryError: There is no room for a copy, or it cannot be written.
    """
    real = source.resolve()
    try:
        os.link(real, target)
        return
    except OSError:  # another file system, or links are not allowed
        pass
    try:
        size = real.stat().st_size
        with real.open("rb") as reading, target.open("xb") as writing:
            while chunk := reading.read(_CHUNK):
                writing.write(chunk)
                progress(f"copying {source.name}", writing.tell() // _MIB, size // _MIB)
        shutil.copystat(real, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise from_os_error(error, f"copying {source.name} to", target) from error


def write_model(model: "onnx.ModelProto", path: Path) -> None:
    """Write an ONNX file whose external data is already in place.

    Raises:
        RepositoryError: It cannot be written.
    """
    try:
        path.write_bytes(model.SerializeToString())
    except OSError as error:
        raise from_os_error(error, "writing", path) from error


def check_external(model: "onnx.ModelProto", path: Path) -> None:
    """Run the full ONNX checker on a model whose weights lie beside `path`.

    The checker itself refuses hard links, and would read all of the weights; that they are where
    the model says is checked by their offsets and sizes.

    Raises:
        ExportError: It refuses the graph, or a file ends before a weight does.
    """
    import onnx

    from builder.export.skeleton import check_skeleton

    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    kept = [t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL]
    del skeleton.graph.initializer[:]
    skeleton.graph.initializer.extend(kept)
    for tensor in _external(model):
        place = stored_tensor(tensor, path.parent)
        if not place.file.is_file() or place.file.stat().st_size < place.offset + place.size:
            raise ExportError(f"{tensor.name} is not in {place.file.name}", where=path)
        skeleton.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    check_skeleton(skeleton, str(path))


def is_finite(tensor: "torch.Tensor") -> bool:
    """Whether no value is NaN or infinite; looked at in pieces, so that memory stays bounded."""
    import torch

    flat = tensor.reshape(-1)
    pieces = (flat[start : start + _CHUNK] for start in range(0, flat.numel(), _CHUNK))
    if tensor.dtype.itemsize == 1:  # of 8-bit types PyTorch knows little but how to convert them
        pieces = (piece.float() for piece in pieces)
    return all(bool(torch.isfinite(piece).all()) for piece in pieces)


def _fits_in_place(tensor: StoredTensor) -> bool:
    """Whether a runtime can use a tensor where it lies: a known type, on its own boundary."""
    known = tensor.dtype in ("F32", "F16", "BF16")
    return known and tensor.size > 0 and tensor.offset % (4 if tensor.dtype == "F32" else 2) == 0


def _link_names(files: Iterable[Path], reserved: set[str]) -> Mapping[Path, str]:
    """A name for each file in one folder; two may have the same name in different folders."""
    names: dict[Path, str] = {}
    for file in sorted(files):
        name, number = file.name, 1
        while name in names.values() or name in reserved:
            number += 1
            name = f"{file.stem}-{number}{file.suffix}"
        names[file] = name
    return names


def _external(model: "onnx.ModelProto") -> "list[onnx.TensorProto]":
    import onnx

    kind = onnx.TensorProto.EXTERNAL
    return [t for t in model.graph.initializer if t.data_location == kind]

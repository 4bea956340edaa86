"""The signature of an ONNX file: names, data types and dims of its inputs and outputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from builder.errors import RepositoryError, from_os_error
from builder.repository.wire import Field, WireError, content, fields
from builder.stage import NUMPY_DTYPES, Dim, Tensor

if TYPE_CHECKING:
    import onnx

# Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME = 8

# onnx.TensorProto.DataType -> Triton data type.
_ONNX_DTYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a model, the batch dim included where it has one."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """An input or output as an ONNX file states it, which may be incomplete.

    Attributes:
        dtype: Triton data type; None for what Triton does not know (sequences, maps, float8).
        dims: None where the file does not even state the rank.
    """

    name: str
    dtype: str | None
    dims: tuple[Dim, ...] | None

    def __str__(self) -> str:
        dims = "[?]" if self.dims is None else f"[{','.join(map(str, self.dims))}]"
        return f"{self.name} {self.dtype or 'unknown'} {dims}"


def onnx_signature(path: Path) -> Signature:
    """Read the signature of an ONNX file; neither weights nor external data are read.

    A dim keeps the name of its symbol; one without name gets a name of its own.

    Raises:
        RepositoryError: The file is missing, truncated or no ONNX model, or a tensor has no
            shape or a data type that Triton cannot transport.
    """
    inputs, outputs = read_value_infos(path)
    return Signature(
        tuple(_tensor(info, path) for info in inputs),
        tuple(_tensor(info, path) for info in outputs),
    )


def read_value_infos(path: Path) -> tuple[list[ValueInfo], list[ValueInfo]]:
    """Inputs and outputs of an ONNX file as it states them.

    Raises:
        RepositoryError: The file is missing, truncated or no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    hint = "export the model again, or copy the file again if it came from elsewhere"
    initializers: set[str] = set()
    found: dict[int, list[onnx.ValueInfoProto]] = {_GRAPH_INPUT: [], _GRAPH_OUTPUT: []}
    try:
        size = path.stat().st_size
        if size == 0:
            raise RepositoryError("the file is empty", where=path, hint=hint)
        with path.open("rb") as file:
            graphs = [f for f in fields(file, 0, size) if f.number == _MODEL_GRAPH]
            for field in (f for g in graphs for f in fields(file, g.start, g.end)):
                if field.number == _GRAPH_INITIALIZER:
                    initializers.add(_initializer_name(file, field))
                elif field.number in found:
                    proto = onnx.ValueInfoProto.FromString(content(file, field))
                    found[field.number].append(proto)
    except OSError as error:
        raise from_os_error(error, "reading", path) from error
    except (WireError, DecodeError, UnicodeDecodeError) as error:
        raise RepositoryError(
            f"is truncated or no ONNX model: {error}", where=path, hint=hint
        ) from error
    if not found[_GRAPH_OUTPUT]:
        raise RepositoryError("is no ONNX model: it has no output", where=path, hint=hint)
    # Up to IR version 3 weights were inputs, too; ONNX Runtime does not ask for those.
    inputs = [p for p in found[_GRAPH_INPUT] if p.name not in initializers]
    return [_value_info(p) for p in inputs], [_value_info(p) for p in found[_GRAPH_OUTPUT]]


def _initializer_name(file: BinaryIO, tensor: Field) -> str:
    for field in fields(file, tensor.start, tensor.end):
        if field.number == _TENSOR_NAME:
            return content(file, field).decode()
    return ""


def _value_info(proto: "onnx.ValueInfoProto") -> ValueInfo:
    kind = proto.type.tensor_type
    dims: tuple[Dim, ...] | None = None
    if kind.HasField("shape"):
        dims = tuple(
            # 0 and -1 are written by old exporters where they mean "any size"
            d.dim_param or max(d.dim_value, 0) or f"{proto.name}.{i}"
            for i, d in enumerate(kind.shape.dim)
        )
    return ValueInfo(proto.name, _ONNX_DTYPES.get(kind.elem_type), dims)


def _tensor(info: ValueInfo, path: Path) -> Tensor:
    if info.dtype is None or info.dtype not in NUMPY_DTYPES:
        raise RepositoryError(
            f"tensor {info} has a data type that cannot be served",
            where=path,
            hint=f"cast it to one of {', '.join(NUMPY_DTYPES)} inside the graph",
        )
    if info.dims is None:
        raise RepositoryError(
            f"tensor {info} has no shape",
            where=path,
            hint="state its shape at export, or run onnx.shape_inference on the model",
        )
    return Tensor(info.name, info.dtype, info.dims)

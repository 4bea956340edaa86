"""Reading single fields of a protobuf file without reading the rest.

An ONNX file holds its weights between the few bytes that describe its inputs and outputs. This
walks the fields (https://protobuf.dev/programming-guides/encoding/) and skips what nobody asked
for with a seek, so that the signature of a model of 2 GB is read in a millisecond. Every length
is checked against the file before it is trusted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10  # bytes of the longest 64-bit varint


class WireError(ValueError):
    """The bytes are no protobuf message; the message says where it stops to be one."""


@dataclass(frozen=True, slots=True)
class Field:
    """One length-delimited field: its number and where its content lies in the file."""

    number: int
    start: int
    end: int


def fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """The length-delimited fields of the message between two offsets.

    The file may be moved between two fields.

    Raises:
        WireError: The bytes are no message.
    """
    position = start
    while position < end:
        file.seek(position)
        key = _varint(file, end)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise WireError(f"no field starts at byte {position}")
        if kind == _VARINT:
            _varint(file, end)
            position = file.tell()
        elif kind == _BYTES:
            size = _varint(file, end)
            begin = file.tell()
            position = begin + size
            if position > end:
                raise WireError(
                    f"the field at byte {begin} needs {size} bytes, {end - begin} are there"
                )
            yield Field(number, begin, position)
        elif kind in (_FIXED64, _FIXED32):
            position = file.tell() + (8 if kind == _FIXED64 else 4)
            if position > end:
                raise WireError(f"it ends within the number at byte {file.tell()}")
        else:
            raise WireError(f"no field starts at byte {position}")


def content(file: BinaryIO, field: Field) -> bytes:
    """The bytes of a field."""
    file.seek(field.start)
    return file.read(field.end - field.start)


def _varint(file: BinaryIO, end: int) -> int:
    value = 0
    for index in range(_MAX_VARINT):
        byte = file.read(1)
        if not byte or file.tell() > end:
            raise WireError("it ends within a number")
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:
            return value
    raise WireError(f"a number of more than {_MAX_VARINT} bytes before byte {file.tell()}")

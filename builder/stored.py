"""Weights where they lie: in safetensors files, read one tensor at a time or not at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from builder.errors import CheckpointError

if TYPE_CHECKING:
    import torch

DTYPES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "F64": ("float64", "DOUBLE"),
        "F32": ("float32", "FLOAT"),
        "F16": ("float16", "FLOAT16"),
        "BF16": ("bfloat16", "BFLOAT16"),
        "F8_E4M3": ("float8_e4m3fn", "FLOAT8E4M3FN"),
        "F8_E5M2": ("float8_e5m2", "FLOAT8E5M2"),
    }
)
"""Floating-point types as safetensors, PyTorch and ONNX call them."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies.

    Attributes:
        file: The safetensors file.
        name: Its name in that file.
        dtype: As safetensors calls it: F32, BF16, ...
        shape: Its sizes.
        offset: First byte, from the start of the file.
        size: Bytes.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def read(self) -> "torch.Tensor":
        """The tensor as it is stored, in memory of its own.

        Raises:
            CheckpointError: It cannot be read, or is no floating-point tensor.
        """
        import torch

        if self.dtype not in DTYPES:
            raise CheckpointError(f"{self.name} has the data type {self.dtype}", where=self.file)
        data = bytearray(self.size)
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.offset)
                view, done = memoryview(data), 0
                while done < self.size and (count := file.readinto(view[done:])):
                    done += count
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", where=self.file) from error
        if done < self.size:
            raise CheckpointError(
                f"ends inside {self.name}: it was truncated after it was opened",
                where=self.file,
                hint="restore the file and run the command again",
            )
        dtype = getattr(torch, DTYPES[self.dtype][0])
        if not data:
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype).reshape(self.shape)


Change = Callable[["torch.Tensor"], "torch.Tensor"]
"""What is done to a weight before it is used: FP32 in, FP32 of the same shape out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """A module whose weights may stay where they are.

    Attributes:
        module: Makes the module in eval mode, with parameters on the `meta` device and real
            buffers.
        tensors: The stored tensor of each parameter, by the parameter's name in the module;
            raises CheckpointError where the files do not fit the module.
        changes: Makes changes of weights, by the parameter's name: a LoRA that is fused. Such a
            weight is streamed; all others can be used in place.
    """

    module: Callable[[], "torch.nn.Module"]
    tensors: Callable[[], Mapping[str, StoredTensor]]
    changes: Callable[[], Mapping[str, Change]] = field(default=lambda: MappingProxyType({}))

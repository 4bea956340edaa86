"""Reading the requests of a python-backend model: every tensor is checked against its declaration,
so that a wrong request gets an answer of its own before it can spoil a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from builder.stage import NUMPY_DTYPES, Arrays, Tensor


def read(
    pb_utils: Any,
    request: Any,
    inputs: Sequence[Tensor],
    optional: Sequence[Tensor] = (),
    smallest: int = 1,
) -> Arrays:
    """The arrays of a request, by name.

    Args:
        pb_utils: `triton_python_backend_utils` or its stand-in.
        inputs: Tensors that the request has to have; equal symbols mean equal sizes.
        optional: Tensors that it may have.
        smallest: The least size of a dynamic dim.

    Raises:
        ValueError: A tensor is missing, or of another dtype or shape; it says which.
    """
    arrays: Arrays = {}
    sizes: dict[str, int] = {}
    for tensor in (*inputs, *optional):
        sent = pb_utils.get_input_tensor_by_name(request, tensor.name)
        if sent is None:
            if tensor in optional:
                continue
            raise ValueError(f"there is no input {tensor.name}; expected {tensor}")
        array = sent.as_numpy()
        if array.dtype != np.dtype(NUMPY_DTYPES[tensor.dtype]):
            raise ValueError(f"input {tensor.name} holds {array.dtype}, not {tensor.dtype}")
        _check_shape(tensor, array.shape, sizes, smallest)
        arrays[tensor.name] = array
    return arrays


def _check_shape(
    tensor: Tensor, shape: tuple[int, ...], sizes: dict[str, int], smallest: int
) -> None:
    expected = ",".join(map(str, tensor.dims))
    wrong = ValueError(f"input {tensor.name} has shape {list(shape)}, not [{expected}]")
    if len(shape) != len(tensor.dims):
        raise wrong
    for dim, size in zip(tensor.dims, shape, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise wrong
        elif size < smallest:
            raise ValueError(f"input {tensor.name} is empty: send {smallest} sample(s) or more")
        elif sizes.setdefault(dim, size) != size:
            raise ValueError(
                f"input {tensor.name} has {size} samples, another input {sizes[dim]}: "
                "all inputs must have the same length"
            )

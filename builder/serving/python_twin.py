"""What the python-backend twins of native models share.

A twin declares its tensors once; this module turns that into the auto-completed config, checks
every request against it, runs the good ones as one batch and gives each of the others an error
of its own:

    INVALID_ARG   the request is wrong: a shape, a dtype, lengths that differ, an unknown channel
    UNAVAILABLE   the request is fine but cannot be answered now: weights or memory are missing
    CANCELLED     the client has gone
    INTERNAL      everything else
"""

import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.errors import BuilderError, UsageError
from builder.stage import NUMPY_DTYPES, Arrays, Tensor

if TYPE_CHECKING:
    import torch

Compute = Callable[[list[Arrays], Callable[[], None]], list[Arrays]]
"""Answers a batch of requests. The second argument may be called between parts of the work: it
raises `AbandonedError` once nobody waits for the answer any more."""


class AbandonedError(Exception):
    """Every client of the batch has gone."""


def parameter(args: Mapping[str, str], key: str, default: str) -> str:
    """The string parameter `key` of the model's config, or the default if it is empty.

    Args:
        args: What the python backend passes to `initialize`.
    """
    parameters = json.loads(args["model_config"]).get("parameters", {})
    return str(parameters.get(key, {}).get("string_value") or default)


def use_threads(args: Mapping[str, str]) -> None:
    """Let PyTorch use as many threads as the config's parameter `threads` says, by default 1.

    One is what the native models get, too; these networks are too small to gain from more.

    Raises:
        ValueError: The parameter is no positive number.
    """
    import torch

    text = parameter(args, "threads", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"parameter threads: expected 1 or more, got {text!r}")
    torch.set_num_threads(int(text))


def named(outputs: Sequence[Tensor], values: "Sequence[torch.Tensor]") -> Arrays:
    """PyTorch outputs in the declared order as arrays by name."""
    return {t.name: value.numpy() for t, value in zip(outputs, values, strict=True)}


def declare(
    config: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    optional: Sequence[Tensor] = (),
) -> Any:
    """Write a twin's tensors into the config that is being auto-completed, and return it.

    Raises:
        ValueError: config.pbtxt says something else about one of them.
    """
    config.set_max_batch_size(0)
    for tensor in inputs:
        config.add_input(_entry(tensor))
    for tensor in optional:
        config.add_input(_entry(tensor) | {"optional": True})
    for tensor in outputs:
        config.add_output(_entry(tensor))
    return config


def answer(
    pb_utils: Any,
    requests: Sequence[Any],
    compute: Compute,
    inputs: Sequence[Tensor],
    *,
    optional: Sequence[Tensor] = (),
    smallest: int = 1,
) -> list[Any]:
    """Answer a batch of requests; one that is wrong fails alone.

    Args:
        pb_utils: `triton_python_backend_utils` or its stand-in.
        requests: The requests.
        compute: Makes the outputs of all requests that are in order.
        inputs: Tensors that every request has to have; equal symbols mean equal sizes.
        optional: Tensors that a request may have.
        smallest: The least size of a dynamic dim.

    Returns:
        One response per request, in their order.
    """
    responses: list[Any] = [None] * len(requests)
    batch: dict[int, Arrays] = {}
    for index, request in enumerate(requests):
        if request.is_cancelled():
            responses[index] = _cancelled(pb_utils)
            continue
        try:
            batch[index] = _read(pb_utils, request, inputs, optional, smallest)
        except ValueError as error:
            responses[index] = _failed(pb_utils, str(error), pb_utils.TritonError.INVALID_ARG)
    for index, outcome in _compute(batch, requests, compute).items():
        if isinstance(outcome, Exception):
            responses[index] = _explained(pb_utils, outcome)
        elif requests[index].is_cancelled():
            responses[index] = _cancelled(pb_utils)
        else:
            tensors = [pb_utils.Tensor(name, array) for name, array in outcome.items()]
            responses[index] = pb_utils.InferenceResponse(output_tensors=tensors)
    return responses


def _entry(tensor: Tensor) -> dict[str, Any]:
    dtype = "STRING" if tensor.dtype == "BYTES" else tensor.dtype
    dims = [-1 if isinstance(d, str) else d for d in tensor.dims]
    return {"name": tensor.name, "data_type": f"TYPE_{dtype}", "dims": dims}


def _read(
    pb_utils: Any,
    request: Any,
    inputs: Sequence[Tensor],
    optional: Sequence[Tensor],
    smallest: int,
) -> Arrays:
    """The arrays of a request; ValueError says what is wrong with it."""
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


def _compute(
    batch: Mapping[int, Arrays], requests: Sequence[Any], compute: Compute
) -> dict[int, Arrays | Exception]:
    """Outputs or an exception for each request of the batch, by its index."""

    def stop_if_abandoned() -> None:
        if all(requests[index].is_cancelled() for index in batch):
            raise AbandonedError

    if not batch:
        return {}
    try:
        outputs = compute(list(batch.values()), stop_if_abandoned)
        return dict(zip(batch, outputs, strict=True))
    except Exception as error:
        if len(batch) == 1 or isinstance(error, AbandonedError):
            return dict.fromkeys(batch, error)
    # One of them is bad: find out which, and answer the others.
    single: dict[int, Arrays | Exception] = {}
    for index, arrays in batch.items():
        single |= _compute({index: arrays}, requests, compute)
    return single


def _explained(pb_utils: Any, error: Exception) -> Any:
    codes = pb_utils.TritonError
    if isinstance(error, AbandonedError):
        return _cancelled(pb_utils)
    if isinstance(error, UsageError):
        return _failed(pb_utils, str(error), codes.INVALID_ARG)
    if isinstance(error, BuilderError):
        return _failed(pb_utils, str(error), codes.UNAVAILABLE)
    # torch reports a failed allocation as a RuntimeError of the allocator.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return _failed(pb_utils, "out of memory: send fewer samples", codes.UNAVAILABLE)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{last.filename}:{last.lineno}"
    return _failed(pb_utils, f"{type(error).__name__}: {error} ({where})", codes.INTERNAL)


def _cancelled(pb_utils: Any) -> Any:
    return _failed(pb_utils, "the client has cancelled", pb_utils.TritonError.CANCELLED)


def _failed(pb_utils: Any, message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))

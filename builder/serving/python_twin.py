"""What the python-backend twins of native models share.

A twin declares its tensors once; this module turns that into the auto-completed config, checks
every request against it, runs the good ones as one batch and gives each of the others an error
of its own (`twin_errors` says which). `joined` is for networks with a batch dim; models that call
other models answer with `twin_tasks`.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.errors import UsageError
from builder.serving.stub_exit import leave_quickly
from builder.serving.twin_errors import AbandonedError, cancelled, explained, failed
from builder.serving.twin_requests import read
from builder.stage import Arrays, Tensor

if TYPE_CHECKING:
    import torch

leave_quickly()

Compute = Callable[[list[Arrays], Callable[[], None]], list[Arrays]]
"""Answers a batch of requests. The second argument may be called between parts of the work: it
raises `AbandonedError` once nobody waits for the answer any more."""


def parameter(args: Mapping[str, str], key: str, default: str) -> str:
    """The string parameter `key` of the model's config, or the default if it is empty.

    Args:
        args: What the python backend passes to `initialize`.
    """
    return config_parameter(json.loads(args["model_config"]), key, default)


def config_parameter(config: Mapping[str, Any], key: str, default: str) -> str:
    """The same for a config that is being auto-completed, as a dict."""
    parameters = config.get("parameters", {})
    return str(parameters.get(key, {}).get("string_value") or default)


def number(args: Mapping[str, str], key: str, default: int) -> int:
    """The parameter `key` as a positive number.

    Raises:
        ValueError: It is none.
    """
    text = parameter(args, key, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"parameter {key}: expected 1 or more, got {text!r}")
    return int(text)


def use_threads(args: Mapping[str, str], default: int = 1) -> None:
    """Let PyTorch use as many threads as the config's parameter `threads` says.

    Args:
        args: What the python backend passes to `initialize`.
        default: Threads where it says nothing: those of the native model, 1 unless builder.toml
            has another `intra_op_threads`; 0 means one per core, as there.

    Raises:
        ValueError: The parameter is no positive number.
    """
    import torch

    torch.set_num_threads(number(args, "threads", default or os.cpu_count() or 1))


def device(args: Mapping[str, str]) -> str:
    """Where PyTorch runs this instance: `cpu`, or the GPU that the server has given it."""
    if args.get("model_instance_kind") != "GPU":
        return "cpu"
    return f"cuda:{args['model_instance_device_id']}"


def named(outputs: Sequence[Tensor], values: "Sequence[torch.Tensor]") -> Arrays:
    """PyTorch outputs in the declared order as arrays by name."""
    return {t.name: value.cpu().numpy() for t, value in zip(outputs, values, strict=True)}


def declare(
    config: Any,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    optional: Sequence[Tensor] = (),
    max_batch_size: int = 0,
) -> Any:
    """Write a twin's tensors into the config that is being auto-completed, and return it.

    Args:
        max_batch_size: If not 0, the first dim of every tensor is the batch, which the config
            leaves out; it may set a smaller one.

    Raises:
        ValueError: config.pbtxt says something else about one of them.
    """
    config.set_max_batch_size(max_batch_size)
    batched = max_batch_size > 0
    for tensor in inputs:
        config.add_input(_entry(tensor, batched))
    for tensor in optional:
        config.add_input(_entry(tensor, batched) | {"optional": True})
    for tensor in outputs:
        config.add_output(_entry(tensor, batched))
    return config


def answer(
    pb_utils: Any,
    requests: Sequence[Any],
    compute: Compute,
    inputs: Sequence[Tensor],
    *,
    optional: Sequence[Tensor] = (),
    smallest: int = 1,
    check: Callable[[Arrays], None] | None = None,
) -> list[Any]:
    """Answer a batch of requests; one that is wrong fails alone.

    Args:
        pb_utils: `triton_python_backend_utils` or its stand-in.
        requests: The requests.
        compute: Makes the outputs of all requests that are in order.
        inputs: Tensors that every request has to have; equal symbols mean equal sizes.
        optional: Tensors that a request may have.
        smallest: The least size of a dynamic dim.
        check: Raises UsageError where the values of a request are out of range.

    Returns:
        One response per request, in their order.
    """
    responses: list[Any] = [None] * len(requests)
    batch: dict[int, Arrays] = {}
    for index, request in enumerate(requests):
        if request.is_cancelled():
            responses[index] = cancelled(pb_utils)
            continue
        try:
            arrays = read(pb_utils, request, inputs, optional, smallest)
            if check is not None:
                check(arrays)
            batch[index] = arrays
        except (ValueError, UsageError) as error:
            responses[index] = failed(pb_utils, str(error), pb_utils.TritonError.INVALID_ARG)
    for index, outcome in _compute(batch, requests, compute).items():
        if isinstance(outcome, Exception):
            responses[index] = explained(pb_utils, outcome)
        elif requests[index].is_cancelled():
            responses[index] = cancelled(pb_utils)
        else:
            tensors = [pb_utils.Tensor(name, array) for name, array in outcome.items()]
            responses[index] = pb_utils.InferenceResponse(output_tensors=tensors)
    return responses


def joined(batch: Sequence[Arrays], run: Callable[[Arrays], Arrays]) -> list[Arrays]:
    """Run requests that are alike as one: arrays are joined along the batch dim, and parted again.

    Args:
        batch: Requests; the first dim of all arrays of one request is its batch.
        run: From joined inputs to joined outputs.

    Returns:
        The outputs of each request. Those that send other tensors, or tensors of another shape,
        run by themselves.
    """
    alike: dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]] = {}
    for index, arrays in enumerate(batch):
        key = tuple((name, array.shape[1:]) for name, array in sorted(arrays.items()))
        alike.setdefault(key, []).append(index)
    answers: list[Arrays] = [{} for _ in batch]
    for indices in alike.values():
        if len(indices) == 1:
            answers[indices[0]] = run(batch[indices[0]])
            continue
        names = batch[indices[0]]
        outputs = run({name: np.concatenate([batch[i][name] for i in indices]) for name in names})
        lengths = [len(next(iter(batch[i].values()))) for i in indices]
        cuts = np.cumsum(lengths)[:-1]
        for name, values in outputs.items():
            for index, part in zip(indices, np.split(values, cuts), strict=True):
                answers[index][name] = part
    return answers


def _entry(tensor: Tensor, batched: bool) -> dict[str, Any]:
    dtype = "STRING" if tensor.dtype == "BYTES" else tensor.dtype
    dims = [-1 if isinstance(d, str) else d for d in tensor.dims]
    return {"name": tensor.name, "data_type": f"TYPE_{dtype}", "dims": dims[batched:]}


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
    # One of them is bad, or all are too much at once: answer those that can be.
    single: dict[int, Arrays | Exception] = {}
    for index, arrays in batch.items():
        single |= _compute({index: arrays}, requests, compute)
    return single

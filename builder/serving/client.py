"""Talking to a running server over gRPC.

client = connect("127.0.0.1:8001")
outputs = infer(client, "SMAP_A-1", {"input_data": window})
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from builder.errors import ServerError
from builder.stage import NUMPY_DTYPES, Arrays

if TYPE_CHECKING:
    import numpy as np
    from tritonclient.grpc import InferenceServerClient

START_HINT = "start the server with: builder serve"

_DTYPES = {numpy_name: triton for triton, numpy_name in NUMPY_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a model has done since it was loaded.

    Attributes:
        inferences: Requests answered, every element of a batch counted.
        executions: Times that the model ran; fewer where requests were batched together.
        failures: Requests that failed.
        cache_hits: Requests answered from the response cache.
        compute_ms: Mean time that a request spent in the model, in milliseconds.
        queue_ms: Mean time that a request waited, in milliseconds.
    """

    model: str
    version: str
    inferences: int
    executions: int
    failures: int
    cache_hits: int
    compute_ms: float
    queue_ms: float


def connect(url: str, *, timeout: float = 5.0) -> "InferenceServerClient":
    """A client of the server at `url` (`host:port` of its gRPC endpoint), which is ready.

    Raises:
        ServerError: No server answers there within `timeout` seconds.
    """
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(url.removeprefix("grpc://"))
    try:
        ready = client.is_server_ready(client_timeout=timeout)
    except InferenceServerException as error:
        client.close()
        _raise(error, url)
    if not ready:
        client.close()
        raise ServerError("is not ready: it is loading models", where=url, hint="try again soon")
    return client


def infer(
    client: "InferenceServerClient",
    model: str,
    arrays: Mapping[str, "np.ndarray[Any, Any]"],
    *,
    outputs: Sequence[str] | None = None,
    timeout: float | None = 60.0,
    version: str = "",
) -> Arrays:
    """Send one request.

    Args:
        arrays: Inputs by name. Object arrays are BYTES.
        outputs: Outputs to ask for; None asks for all.
        timeout: Seconds to wait for the answer; None waits for ever.
        version: Version of the model; empty leaves the choice to the server.

    Raises:
        ServerError: There is no server, no such model, the request is invalid, or the model
            failed; the message holds the server's reason.
    """
    from tritonclient.grpc import InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    inputs = []
    for name, array in arrays.items():
        item = InferInput(name, list(array.shape), triton_dtype(array, where=f"{model}: {name}"))
        item.set_data_from_numpy(array)
        inputs.append(item)
    wanted = None if outputs is None else [InferRequestedOutput(name) for name in outputs]
    try:
        result = client.infer(
            model, inputs, model_version=version, outputs=wanted, client_timeout=timeout
        )
    except InferenceServerException as error:
        _raise(error, model)
    return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


def triton_dtype(array: "np.ndarray[Any, Any]", *, where: str = "array") -> str:
    """Triton's name for the data type of an array.

    Raises:
        ServerError: Triton has no such type.
    """
    name = "object" if array.dtype.kind in "SU" else str(array.dtype)
    try:
        return _DTYPES[name]
    except KeyError:
        raise ServerError(
            f"Triton has no data type for {array.dtype}",
            where=where,
            hint=f"convert it to one of: {', '.join(sorted(_DTYPES))}",
        ) from None


def statistics(client: "InferenceServerClient", model: str = "") -> list[Statistics]:
    """Statistics of the versions of one model, or of all models.

    Raises:
        ServerError: There is no server, or no such model.
    """
    from tritonclient.utils import InferenceServerException

    try:
        answer = client.get_inference_statistics(model)
    except InferenceServerException as error:
        _raise(error, model or "server")
    return [_statistics(entry) for entry in answer.model_stats]


def _statistics(entry: Any) -> Statistics:
    stats = entry.inference_stats

    def mean_ms(duration: Any) -> float:
        return duration.ns / duration.count / 1e6 if duration.count else 0.0

    return Statistics(
        model=entry.name,
        version=entry.version,
        inferences=entry.inference_count,
        executions=entry.execution_count,
        failures=stats.fail.count,
        cache_hits=stats.cache_hit.count,
        compute_ms=mean_ms(stats.compute_infer),
        queue_ms=mean_ms(stats.queue),
    )


def _raise(error: Any, where: str) -> NoReturn:
    """Turn the client library's error into one that says what to do."""
    status = str(error.status() or "")
    reason = str(error.message() or error)
    if "UNAVAILABLE" in status and ("connect" in reason or "Socket closed" in reason):
        raise ServerError("no server answers there", where=where, hint=START_HINT) from error
    hint = None
    if "DEADLINE_EXCEEDED" in status:
        reason, hint = "no answer in time", "raise the timeout, or see if the server is overloaded"
    elif "unknown model" in reason:
        version = re.search(r"version (\d+) is not found", reason)
        what = f"version {version[1]} of it" if version else "such model"
        reason, hint = f"the server has no {what}", "builder list says what there is"
    elif "is not ready" in reason or "is not found" in reason or "no available versions" in reason:
        hint = "the output of builder serve says why it was not loaded"
    raise ServerError(reason, where=where, hint=hint) from error

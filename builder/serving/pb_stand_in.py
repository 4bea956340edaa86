"""A stand-in for `triton_python_backend_utils`, so that python-backend models run on their own.

The real module only exists inside the python backend's stub process. This one has what the
models of this project use of it, with the same names and behaviour; a model imports it where
the real one is missing:

    try:
        import triton_python_backend_utils as pb_utils
    except ModuleNotFoundError:
        from builder.serving import pb_stand_in as pb_utils
"""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
"""Flag of the last response to a request."""

serve: "Callable[[InferenceRequest], InferenceResponse] | None" = None
"""Answers the requests that models make of other models; `local_models` sets it."""


class TritonModelException(Exception):  # noqa: N818  (the real module's name)
    """Raised by a model that cannot go on."""


class TritonError:
    """The error of one request.

    Args:
        message: What the client reads.
        code: One of the constants; INTERNAL by default.
    """

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL):
        self._message = message
        self._code = code

    def message(self) -> str:
        """What the client reads."""
        return self._message

    def code(self) -> int:
        """One of the constants."""
        return self._code


class Tensor:
    """A named array. Strings of an object array turn into bytes, as they do on their way."""

    def __init__(self, name: str, array: Array):
        self._name = name
        if array.dtype == np.object_:
            encoded = [x if isinstance(x, bytes) else str(x).encode() for x in array.flat]
            array = np.array(encoded, np.object_).reshape(array.shape)
        self._array = np.ascontiguousarray(array).reshape(array.shape)

    def name(self) -> str:
        """Name of the input or output."""
        return self._name

    def as_numpy(self) -> Array:
        """The values."""
        return self._array


class InferenceRequest:
    """What a client sent, or what a model asks of another one.

    Args:
        inputs: The tensors.
        request_id: Free text of the client.
        cancelled: Whether the client has gone.
        model_name: The other model.
        requested_output_names: Which of its outputs are wanted.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        request_id: str = "",
        cancelled: bool = False,
        *,
        model_name: str = "",
        requested_output_names: Sequence[str] = (),
    ):
        self._inputs = list(inputs)
        self._request_id = request_id
        self._cancelled = cancelled
        self._sender = InferenceResponseSender(self)
        self._model_name = model_name
        self._requested_output_names = list(requested_output_names)

    def inputs(self) -> list[Tensor]:
        """The tensors."""
        return self._inputs

    def request_id(self) -> str:
        """Free text of the client."""
        return self._request_id

    def model_name(self) -> str:
        """The model that is asked."""
        return self._model_name

    def requested_output_names(self) -> list[str]:
        """The outputs that are wanted."""
        return self._requested_output_names

    def cancel(self) -> None:
        """What a client does that does not wait for the answer; not in the real module."""
        self._cancelled = True

    def is_cancelled(self) -> bool:
        """Whether the client has gone."""
        return self._cancelled

    def get_response_sender(self) -> "InferenceResponseSender":
        """For a model that answers after `execute` has returned."""
        return self._sender

    def exec(self) -> "InferenceResponse":
        """Ask the other model."""
        if serve is None:
            raise TritonModelException(f"unknown model {self._model_name!r}")
        return serve(self)

    async def async_exec(self) -> "InferenceResponse":
        """The same, in a thread of the running event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, self.exec)


class InferenceResponseSender:
    """Sends the responses to one request.

    Attributes:
        responses: What was sent; not in the real module.
    """

    def __init__(self, request: InferenceRequest):
        self._request = request
        self._final = threading.Event()
        self.responses: list[InferenceResponse] = []

    def send(self, response: "InferenceResponse | None" = None, flags: int = 0) -> None:
        """Send a response, or say with the flag that there are no more."""
        if self._final.is_set():
            raise TritonModelException("Unable to send response. Response sender has been closed.")
        if response is not None:
            self.responses.append(response)
        if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self._final.set()

    def is_cancelled(self) -> bool:
        """Whether the client has gone."""
        return self._request.is_cancelled()

    def wait(self, seconds: float) -> "list[InferenceResponse]":
        """All responses, when the last one is there; not in the real module.

        Raises:
            TimeoutError: It does not come.
        """
        if not self._final.wait(seconds):
            raise TimeoutError(f"no final response in {seconds} s")
        return self.responses


class InferenceResponse:
    """What a client gets: outputs or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None):
        self._output_tensors = list(output_tensors)
        self._error = error

    def output_tensors(self) -> list[Tensor]:
        """The outputs; none where there is an error."""
        return self._output_tensors

    def has_error(self) -> bool:
        """Whether the request failed."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Why the request failed."""
        return self._error


class ModelConfig:
    """A model's config while it is auto-completed.

    Args:
        model_config: The config as JSON.
    """

    def __init__(self, model_config: str):
        self._config: dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        """The config."""
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set it; ValueError where the config has a larger one."""
        if self._config["max_batch_size"] > max_batch_size:
            raise ValueError(
                f"the configuration has max_batch_size {self._config['max_batch_size']}, "
                f"the model {max_batch_size}"
            )
        self._config["max_batch_size"] = max_batch_size

    def set_model_transaction_policy(self, transaction_policy_dict: Mapping[str, bool]) -> None:
        """Say whether the model is decoupled; ValueError where the config says otherwise."""
        if set(transaction_policy_dict) != {"decoupled"}:
            raise ValueError("model transaction policy: expected the property 'decoupled' alone")
        policy = self._config.setdefault("model_transaction_policy", {})
        wanted = transaction_policy_dict["decoupled"]
        if policy.get("decoupled", wanted) != wanted:
            raise ValueError(
                f"the configuration has decoupled {policy['decoupled']}, the model {wanted}"
            )
        policy["decoupled"] = wanted

    def add_input(self, tensor: Mapping[str, Any]) -> None:
        """Add an input, or ValueError where the config has another one of that name."""
        self._add("input", tensor, ("data_type", "dims", "optional"))

    def add_output(self, tensor: Mapping[str, Any]) -> None:
        """Add an output, or ValueError where the config has another one of that name."""
        self._add("output", tensor, ("data_type", "dims"))

    def _add(self, kind: str, tensor: Mapping[str, Any], properties: Sequence[str]) -> None:
        unknown = set(tensor) - {"name", *properties}
        missing = {"name", "data_type", "dims"} - set(tensor)
        if unknown or missing:
            raise ValueError(f"{kind}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        for known in self._config[kind]:
            if known["name"] == tensor["name"]:
                for key in properties:
                    if key in known and key in tensor and known[key] != tensor[key]:
                        raise ValueError(
                            f"{kind} {tensor['name']}: the configuration has {key} {known[key]}, "
                            f"the model {tensor[key]}"
                        )
                known.update(tensor)
                return
        self._config[kind].append(dict(tensor))


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """The input of that name, None where the client did not send it."""
    return next((t for t in inference_request.inputs() if t.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """The output of that name, None where there is none."""
    return next((t for t in inference_response.output_tensors() if t.name() == name), None)

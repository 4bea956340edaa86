"""Python-backend models that call other models: many requests at a time in one process.

`execute` hands every request to an event loop in a thread of its own and returns at once; the
answers are sent when they are there, through the requests' response senders. So requests that
wait for other models do not wait for each other, and the other models' batchers see all of them.
One instance does what otherwise takes as many processes as there are concurrent requests.

A coroutine function makes the answer:

    async def paint(arrays, talk):
        ...
        talk.stop_if_cancelled()      # between parts of the work
        talk.send(partial)            # decoupled models only
        return outputs
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from builder.serving.twin_errors import (
    AbandonedError,
    CalledModelError,
    explained,
    failed,
)
from builder.serving.twin_requests import read
from builder.stage import Arrays, Tensor

_CALLS_AT_ONCE = 2
"""Calls of other models that one request makes side by side: each waits in a thread."""


class Talk:
    """One request while it is being answered."""

    def __init__(self, pb_utils: Any, sender: Any):
        self._pb_utils = pb_utils
        self._sender = sender

    def stop_if_cancelled(self) -> None:
        """Raise `AbandonedError` once the client has gone."""
        if self._sender.is_cancelled():
            raise AbandonedError

    def send(self, outputs: Arrays) -> None:
        """Send outputs before the last ones, in a decoupled model."""
        self._sender.send(_response(self._pb_utils, outputs))


Answer = Callable[[Arrays, Talk], Awaitable[Arrays]]
"""Answers one request: its arrays in, the (last) outputs out."""


class RequestTasks:
    """The requests that a model is working on.

    Args:
        pb_utils: `triton_python_backend_utils` or its stand-in.
        answer: Answers one request.
        inputs: Tensors that every request has to have.
        optional: Tensors that a request may have.
        limit: Requests at a time; more of them wait in the server's queue.
    """

    def __init__(
        self,
        pb_utils: Any,
        answer: Answer,
        inputs: Sequence[Tensor],
        *,
        optional: Sequence[Tensor] = (),
        limit: int = 16,
    ):
        self._pb_utils = pb_utils
        self._answer = answer
        self._inputs = inputs
        self._optional = optional
        self._room = threading.Semaphore(limit)
        self._loop = asyncio.new_event_loop()
        # `async_exec` waits in a thread of the loop's executor.
        self._executor = ThreadPoolExecutor(_CALLS_AT_ONCE * limit, "bls")
        self._loop.set_default_executor(self._executor)
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()

    def start(self, requests: Sequence[Any]) -> None:
        """Begin with requests; returns when there is room for the next ones."""
        for request in requests:
            self._room.acquire()
            asyncio.run_coroutine_threadsafe(self._serve(request), self._loop)

    def close(self) -> None:
        """Stop: requests that are still being answered get an error."""
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    async def _serve(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            response = await self._response(request, sender)
        except asyncio.CancelledError:
            code = self._pb_utils.TritonError.UNAVAILABLE
            response = failed(self._pb_utils, "the model is being unloaded", code)
        except BaseException as error:
            response = explained(self._pb_utils, error)
        finally:
            self._room.release()
        sender.send(response, flags=self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _response(self, request: Any, sender: Any) -> Any:
        try:
            arrays = read(self._pb_utils, request, self._inputs, self._optional)
        except ValueError as error:
            return failed(self._pb_utils, str(error), self._pb_utils.TritonError.INVALID_ARG)
        talk = Talk(self._pb_utils, sender)
        talk.stop_if_cancelled()
        return _response(self._pb_utils, await self._answer(arrays, talk))


async def call(
    pb_utils: Any, model: str, inputs: Sequence[Any], outputs: Sequence[str]
) -> Mapping[str, Any]:
    """Call another model of the server.

    Args:
        inputs: `pb_utils.Tensor`s; one may be sent again and again.

    Returns:
        `pb_utils.Tensor`s by name.

    Raises:
        CalledModelError: It failed, or is not served.
    """
    request = pb_utils.InferenceRequest(
        model_name=model, requested_output_names=list(outputs), inputs=list(inputs)
    )
    try:
        response = await request.async_exec()
    except pb_utils.TritonModelException as error:
        raise CalledModelError(model, str(error)) from error
    if response.has_error():
        raise CalledModelError(model, response.error().message())
    return {tensor.name(): tensor for tensor in response.output_tensors()}


def _response(pb_utils: Any, outputs: Arrays) -> Any:
    tensors = [pb_utils.Tensor(name, array) for name, array in outputs.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


async def _cancel_all() -> None:
    current = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not current]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

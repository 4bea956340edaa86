"""What a python-backend twin answers in place of outputs.

INVALID_ARG   the request is wrong: a shape, a dtype, a value, an unknown channel
UNAVAILABLE   the request is fine but cannot be answered now: weights or memory are missing
CANCELLED     the client has gone
INTERNAL      everything else
"""

import sys
import traceback
from typing import Any

from builder.errors import BuilderError, UsageError

OUT_OF_MEMORY = "out of memory"
"""How the message of a failed allocation starts. A model that calls another one through BLS gets
no more than the message: every code arrives there as INTERNAL (Triton 2.51)."""

_NOT_SERVED = ("is not ready", "is not found", "unknown model", "no available versions")


class AbandonedError(Exception):
    """Every client of the batch has gone."""


class CalledModelError(Exception):
    """Another model, called through BLS, has failed.

    Args:
        model: Its name.
        message: What it said.
    """

    def __init__(self, model: str, message: str):
        super().__init__(f"{model}: {message}")
        self.unavailable = message.startswith(OUT_OF_MEMORY) or any(
            text in message for text in _NOT_SERVED
        )


def explained(pb_utils: Any, error: BaseException) -> Any:
    """The error response that tells a client what an exception means."""
    codes = pb_utils.TritonError
    if isinstance(error, AbandonedError):
        return cancelled(pb_utils)
    if isinstance(error, UsageError):
        return failed(pb_utils, str(error), codes.INVALID_ARG)
    if isinstance(error, BuilderError):
        return failed(pb_utils, str(error), codes.UNAVAILABLE)
    if isinstance(error, CalledModelError):
        code = codes.UNAVAILABLE if error.unavailable else codes.INTERNAL
        return failed(pb_utils, str(error), code)
    if is_out_of_memory(error):
        release_memory()
        return failed(pb_utils, f"{OUT_OF_MEMORY}: send fewer samples", codes.UNAVAILABLE)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return failed(pb_utils, f"{type(error).__name__}: {error}{where}", codes.INTERNAL)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, in Python, in torch on the CPU, or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # On the CPU, torch reports a failed allocation as a RuntimeError of the allocator.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give what torch keeps of a GPU's memory back, for the requests that come next."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def cancelled(pb_utils: Any) -> Any:
    """The response to a client that has gone."""
    return failed(pb_utils, "the client has cancelled", pb_utils.TritonError.CANCELLED)


def failed(pb_utils: Any, message: str, code: int) -> Any:
    """A response that is an error."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))

"""Golden requests against a running server: does it answer what was proven when it was built."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.errors import BuilderError, ParityError
from builder.export.parity import compare_outputs
from builder.serving.client import connect, infer, triton_dtype
from builder.stage import Arrays, Tensor, Tolerance

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient


@dataclass(frozen=True, slots=True)
class GoldenRequest:
    """A request whose answer is known.

    Attributes:
        model: Model or pipeline to send it to.
        inputs: Arrays by name, as a client sends them (the batch dim included).
        expected: Outputs by name; others of the model's outputs are not looked at.
        tolerance: Largest difference of floating-point outputs; all others must be equal.
    """

    model: str
    inputs: Arrays
    expected: Arrays
    tolerance: Tolerance = Tolerance()
    version: str = ""


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How a golden request was answered.

    Attributes:
        max_abs: Largest absolute difference per floating-point output; empty if it failed.
        latency_ms: Time from request to answer, in milliseconds.
        error: What is wrong; None if the answer is right.
    """

    model: str
    max_abs: dict[str, float] = field(default_factory=dict)
    latency_ms: float = 0.0
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the answer is right."""
        return self.error is None

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "model": self.model,
            "ok": self.ok,
            "max_abs": self.max_abs,
            "latency_ms": round(self.latency_ms, 3),
            "error": self.error,
        }


def check_golden(
    server: "str | InferenceServerClient",
    requests: Iterable[GoldenRequest],
    *,
    timeout: float = 120.0,
) -> list[GoldenResult]:
    """Send every request and compare the answers; a failure does not end the series.

    Args:
        server: A client, or the `host:port` of the gRPC endpoint.
        timeout: Seconds that one request may take.

    Raises:
        ServerError: `server` is a URL, and no server answers there.
    """
    if not isinstance(server, str):
        return [_check(server, request, timeout) for request in requests]
    client = connect(server)
    try:
        return [_check(client, request, timeout) for request in requests]
    finally:
        client.close()


def _check(client: "InferenceServerClient", request: GoldenRequest, timeout: float) -> GoldenResult:
    outputs = [Tensor(n, triton_dtype(a), a.shape) for n, a in request.expected.items()]
    began = time.perf_counter()
    try:
        answer = infer(
            client,
            request.model,
            request.inputs,
            outputs=list(request.expected),
            timeout=timeout,
            version=request.version,
        )
    except BuilderError as error:
        return GoldenResult(request.model, error=error.what)
    latency = (time.perf_counter() - began) * 1e3
    try:
        found = compare_outputs(
            answer, request.expected, outputs, request.tolerance, where=request.model
        )
    except ParityError as error:
        return GoldenResult(request.model, latency_ms=latency, error=error.what)
    return GoldenResult(request.model, found, latency)

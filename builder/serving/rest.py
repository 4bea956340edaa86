"""The few calls of the server's HTTP API that starting and watching it takes.

The standard library does: `builder serve` needs no client library before the server is up.
"""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from builder.errors import ServerError


def call(
    url: str, path: str, *, method: str = "GET", body: bytes | None = None, timeout: float = 10.0
) -> tuple[int, bytes]:
    """Status and body of one HTTP request to the server at `url`.

    Raises:
        OSError: No server answers there, or not within `timeout` seconds.
        http.client.HTTPException: What answers there is no HTTP server.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def post(url: str, path: str, body: bytes, *, timeout: float = 10.0) -> int:
    """Status of a POST request; raises as `call` does."""
    return call(url, path, method="POST", body=body, timeout=timeout)[0]


def get_json(url: str, path: str, *, method: str = "GET", timeout: float = 10.0) -> Any:
    """The parsed JSON answer of the server at `url`.

    Raises:
        ServerError: There is no server, it refuses, or it does not answer in JSON.
    """
    try:
        status, body = call(url, path, method=method, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(
            f"no answer: {error}", where=url + path, hint="start the server with: builder serve"
        ) from error
    try:
        answer = json.loads(body) if body else {}
    except ValueError as error:
        raise ServerError(f"HTTP {status}, and no JSON", where=url + path) from error
    if status != 200:
        reason = answer.get("error") if isinstance(answer, dict) else None
        raise ServerError(f"HTTP {status}: {reason or 'no reason given'}", where=url + path)
    return answer


def triton_version(url: str) -> str | None:
    """Version of the tritonserver whose HTTP endpoint `url` is; None if there is none."""
    try:
        answer = get_json(url, "/v2", timeout=1)
    except ServerError:
        return None
    return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else None

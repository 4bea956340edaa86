"""A request that a user can paste into a shell, tried before it is shown."""

import http.client
import json
import math
import shlex
from collections.abc import Iterable
from typing import Any

from builder.errors import ServerError
from builder.serving import rest

_MAX_ELEMENTS = 256
_INTEGERS = ("INT", "UINT")


def curl_line(url: str, models: Iterable[str], *, timeout: float = 5.0) -> str:
    """A curl command for the first of the models that answers a small request of zeros.

    Where none does (text or large inputs, sizes that must not be 1), the command asks for the
    first model's metadata.

    Args:
        url: HTTP endpoint of the server.
        timeout: Seconds that the trial request may take.
    """
    names = list(models)
    for name in names:
        try:
            body = zeros_request(rest.get_json(url, f"/v2/models/{name}", timeout=timeout))
            path = f"/v2/models/{name}/infer"
            if body is not None and rest.post(url, path, body, timeout=timeout) == 200:
                data = shlex.quote(body.decode())
                return f"curl -s -X POST {url}{path} -d {data}"
        except (ServerError, OSError, http.client.HTTPException):
            continue
    return f"curl -s {url}/v2/models/{names[0]}" if names else f"curl -s {url}/v2"


def zeros_request(metadata: dict[str, Any]) -> bytes | None:
    """An inference request of zeros, dynamic dims being 1; None where that is not sensible.

    Args:
        metadata: The model's metadata (`GET /v2/models/<name>`).
    """
    inputs = []
    total = 0
    for tensor in metadata.get("inputs", []):
        shape = [1 if int(dim) < 0 else int(dim) for dim in tensor["shape"]]
        count = math.prod(shape)
        total += count
        kind = tensor["datatype"]
        if kind == "BOOL":
            zero: Any = False
        elif kind.startswith(_INTEGERS):
            zero = 0
        elif kind in ("FP32", "FP64"):
            zero = 0.0
        else:
            return None
        if total > _MAX_ELEMENTS:
            return None
        inputs.append(
            {"name": tensor["name"], "shape": shape, "datatype": kind, "data": [zero] * count}
        )
    return json.dumps({"inputs": inputs}, separators=(",", ":")).encode() if inputs else None

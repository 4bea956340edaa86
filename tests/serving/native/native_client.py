"""Talking to the server that serves the models of `native_models`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builder.serving.server import TritonServer


@dataclass
class Native:
    server: TritonServer
    bad: dict[str, tuple[str, ...]]
    log: Path
    http: Any
    grpc: Any

    def infer(self, model: str, arrays: dict[str, np.ndarray], **options: Any) -> Any:
        """One gRPC inference; arrays of strings are BYTES."""
        return self.grpc.infer(model, grpc_inputs(arrays), **options)


def grpc_inputs(arrays: dict[str, np.ndarray], dtypes: dict[str, str] | None = None) -> list[Any]:
    import tritonclient.grpc as client
    from tritonclient.utils import np_to_triton_dtype

    inputs = []
    for name, array in arrays.items():
        dtype = (dtypes or {}).get(name) or np_to_triton_dtype(array.dtype)
        tensor = client.InferInput(name, list(array.shape), dtype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs

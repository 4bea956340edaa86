"""Python-backend models in this process, without a server.

    with LocalModels(Path("model_repository/python")) as models:
        responses = execute(models["flux_bls"], requests)

Requests that a model makes of other models (BLS) are answered by those of the same folder.
A model is loaded when it is first asked for.
"""

import importlib.util
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from builder.errors import BuilderError, RepositoryError
from builder.serving import pb_stand_in

WAIT_S = 300.0


class LocalModels:
    """The models of a folder; while it is entered, they can call each other.

    Args:
        folder: A model repository.
        parameters: Config parameters to set, by model and key.
    """

    def __init__(
        self, folder: Path, parameters: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.folder = folder
        self.parameters = parameters or {}
        self._models: dict[str, Any] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "LocalModels":
        pb_stand_in.serve = self.serve
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pb_stand_in.serve = None
        for model in self._models.values():
            if hasattr(model, "finalize"):
                model.finalize()
        self._models.clear()

    def __getitem__(self, name: str) -> Any:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._models:
                folder = self.folder / name
                self._models[name] = start_model(
                    model_class(folder / "1" / "model.py"), folder, self.parameters.get(name)
                )
            return self._models[name]

    def serve(self, request: pb_stand_in.InferenceRequest) -> pb_stand_in.InferenceResponse:
        """Answer a request that one model makes of another."""
        name = request.model_name()
        if not (self.folder / name).is_dir():
            message = f"Request for unknown model: '{name}' is not found"
            return pb_stand_in.InferenceResponse(error=pb_stand_in.TritonError(message))
        model = self[name]
        with self._locks[name]:  # a server, too, never calls one instance twice at a time
            response: pb_stand_in.InferenceResponse = execute(model, [request])[0]
        error = response.error()
        if error is not None:  # the code gets lost on this way, as in a server
            error = pb_stand_in.TritonError(error.message())
            return pb_stand_in.InferenceResponse(error=error)
        return response


def model_class(file: Path) -> Any:
    """`TritonPythonModel` of a model.py."""
    spec = importlib.util.spec_from_file_location(f"{file.parents[1].name}_model", file)
    if spec is None or spec.loader is None:
        raise RepositoryError("is no Python file", where=file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel


def start_model(cls: Any, folder: Path, parameters: Mapping[str, str] | None = None) -> Any:
    """Read the config of a model, complete it, and initialize an instance.

    Args:
        cls: Its `TritonPythonModel`.
        folder: Where its config.pbtxt is.
        parameters: Config parameters to set.

    Raises:
        RepositoryError: The config cannot be read, or says something else than the model.
    """
    config = read_config(folder / "config.pbtxt")
    for key, value in (parameters or {}).items():
        config.setdefault("parameters", {})[key] = {"string_value": value}
    try:
        completed = cls.auto_complete_config(pb_stand_in.ModelConfig(json.dumps(config)))
    except BuilderError:
        raise
    except ValueError as error:
        raise RepositoryError(
            f"does not fit the model: {error}", where=folder / "config.pbtxt"
        ) from error
    model = cls()
    model.initialize(
        {
            "model_config": json.dumps(completed.as_dict()),
            "model_name": config["name"],
            "model_version": "1",
            "model_repository": str(folder),
            "model_instance_name": f"{config['name']}_0",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


def execute(
    model: Any, requests: Sequence[pb_stand_in.InferenceRequest], seconds: float = WAIT_S
) -> list[Any]:
    """The last response to each request, whether `execute` returns them or sends them later.

    Raises:
        TimeoutError: One is not answered.
    """
    responses = model.execute(list(requests))
    if responses is None:
        return [request.get_response_sender().wait(seconds)[-1] for request in requests]
    return list(responses)


def read_config(path: Path) -> dict[str, Any]:
    """A config.pbtxt as the dict that the python backend passes on as JSON.

    Raises:
        RepositoryError: It is missing or no model configuration.
    """
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    message = model_config_pb2.ModelConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise RepositoryError(f"no model configuration: {error}", where=path) from error
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    config.setdefault("max_batch_size", 0)
    for kind in ("input", "output"):
        for tensor in config.setdefault(kind, []):
            # protobuf writes 64-bit integers as strings, Triton does not.
            tensor["dims"] = [int(d) for d in tensor["dims"]]
    return config

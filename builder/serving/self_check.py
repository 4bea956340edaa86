"""Running a python-backend model without a server, as a check that it works at all.

    if __name__ == "__main__":
        self_check(TritonPythonModel, __file__, example, expected)

does what the server does, with `pb_stand_in` in place of the real utilities: read the config,
auto-complete it, initialize, execute one batch of requests of several lengths of which one is
wrong and one is cancelled, finalize.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuilderError, ParityError, RepositoryError
from builder.serving import pb_stand_in
from builder.stage import Arrays, Shape

LENGTHS = (100, 1, 57, 100)
ATOL = 1e-4
SEED = 7

_Example = Callable[[Shape, np.random.Generator], Arrays]


def self_check(
    model_class: type[Any], file: str, example: _Example, expected: Callable[[Arrays], Arrays]
) -> None:
    """Check a model and print what came out.

    Args:
        model_class: Its `TritonPythonModel`.
        file: Its model.py, `<model>/<version>/model.py` beside `<model>/config.pbtxt`.
        example: Makes the inputs of a request for a number of samples, `{"T": 100}`.
        expected: The right outputs for them.

    Raises:
        SystemExit: The check failed; the exit code is 1 and the message says how.
    """
    try:
        for line in check_model(model_class, Path(file).resolve(), example, expected):
            print(line)
    except BuilderError as error:
        raise SystemExit(f"failed: {error}") from error


def check_model(
    model_class: type[Any], file: Path, example: _Example, expected: Callable[[Arrays], Arrays]
) -> list[str]:
    """The lines that `self_check` prints.

    Raises:
        ParityError: An answer is wrong.
        RepositoryError: The config cannot be read, or says something else than the model.
    """
    folder = file.parent.parent
    config = read_config(folder / "config.pbtxt")
    name = config["name"]
    try:
        completed = model_class.auto_complete_config(pb_stand_in.ModelConfig(json.dumps(config)))
    except ValueError as error:
        raise RepositoryError(
            f"does not fit the model: {error}", where=folder / "config.pbtxt"
        ) from error
    model = model_class()
    model.initialize(
        {
            "model_config": json.dumps(completed.as_dict()),
            "model_name": name,
            "model_version": file.parent.name,
            "model_repository": str(folder),
            "model_instance_name": f"{name}_0",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    generator = np.random.default_rng(SEED)
    batch = [example({"T": length}, generator) for length in LENGTHS]
    requests = [_request(arrays) for arrays in batch]
    wrong = _request(dict(list(batch[0].items())[1:]))  # the first input is missing
    gone = _request(batch[0])
    gone.cancel()
    start = time.perf_counter()
    responses = model.execute([*requests, wrong, gone])
    seconds = time.perf_counter() - start
    model.finalize()

    if len(responses) != len(LENGTHS) + 2:
        raise ParityError(f"{len(responses)} responses to {len(LENGTHS) + 2} requests", where=name)
    lines = [f"{name}: {len(LENGTHS)} requests in one batch, {seconds * 1e3:.1f} ms"]
    worst = 0.0
    for arrays, response in zip(batch, responses, strict=False):
        outputs = _outputs(response, name)
        worst = max(worst, _difference(outputs, expected(arrays), name))
    for tensor, array in _outputs(responses[0], name).items():
        lines.append(f"  {tensor:18} {array.dtype} {list(array.shape)}")
    lines.append(f"  largest difference from the reference: {worst:.1e}")
    codes = pb_stand_in.TritonError
    for response, code, what in (
        (responses[-2], codes.INVALID_ARG, "a request without its first input"),
        (responses[-1], codes.CANCELLED, "a cancelled request"),
    ):
        refusal = response.error()
        if refusal is None or refusal.code() != code:
            raise ParityError(f"{what} was not refused as it should be", where=name)
        lines.append(f"  {what}: {refusal.message()}")
    return [*lines, "ok"]


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


def _request(arrays: Arrays) -> pb_stand_in.InferenceRequest:
    return pb_stand_in.InferenceRequest(
        [pb_stand_in.Tensor(name, array) for name, array in arrays.items()]
    )


def _outputs(response: Any, name: str) -> Arrays:
    if response.has_error():
        raise ParityError(f"a good request failed: {response.error().message()}", where=name)
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _difference(got: Arrays, want: Arrays, name: str) -> float:
    """The largest difference of floats; everything else has to be equal."""
    if set(got) != set(want):
        raise ParityError(f"outputs {sorted(got)}, expected {sorted(want)}", where=name)
    worst = 0.0
    for tensor, array in want.items():
        value = got[tensor]
        if value.shape != array.shape:
            raise ParityError(f"shape {value.shape}, not {array.shape}", where=f"{name} {tensor}")
        if array.dtype.kind == "f":
            difference = float(np.max(np.abs(value - array), initial=0.0))
            if not difference <= ATOL:
                raise ParityError(f"differs by {difference}", where=f"{name} {tensor}")
            worst = max(worst, difference)
        elif not np.array_equal(value, array):
            raise ParityError("differs from the reference", where=f"{name} {tensor}")
    return worst

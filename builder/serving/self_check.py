"""Running a python-backend model without a server, as a check that it works at all.

    if __name__ == "__main__":
        self_check(TritonPythonModel, __file__, example, expected)

does what the server does, with `pb_stand_in` in place of the real utilities: read the config,
auto-complete it, initialize, execute one batch of requests of several sizes of which one is wrong
and one is cancelled, finalize. Models that it calls are those of the same folder.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuilderError, ParityError
from builder.serving import pb_stand_in
from builder.serving.local_models import LocalModels, execute, read_config, start_model
from builder.stage import Arrays, Shape

__all__ = ["check_model", "read_config", "self_check"]

SHAPES: tuple[Shape, ...] = ({"T": 100}, {"T": 1}, {"T": 57}, {"T": 100})
ATOL = 1e-4
SEED = 7

_Example = Callable[[Shape, np.random.Generator], Arrays]


def self_check(
    model_class: type[Any],
    file: str,
    example: _Example,
    expected: Callable[[Arrays], Arrays],
    *,
    shapes: Sequence[Shape] = SHAPES,
    atol: float = ATOL,
    levels: int = 0,
) -> None:
    """Check a model and print what came out.

    Args:
        model_class: Its `TritonPythonModel`.
        file: Its model.py, `<model>/<version>/model.py` beside `<model>/config.pbtxt`.
        example: Makes the inputs of a request for the sizes of its symbols, `{"T": 100}`.
        expected: The right outputs for them.
        shapes: Sizes of the requests.
        atol: Largest difference of floating-point outputs.
        levels: Largest difference of integer outputs.

    Raises:
        SystemExit: The check failed; the exit code is 1 and the message says how.
    """
    path = Path(file).resolve()
    try:
        for line in check_model(model_class, path, example, expected, shapes, atol, levels):
            print(line)
    except BuilderError as error:
        raise SystemExit(f"failed: {error}") from error


def check_model(
    model_class: type[Any],
    file: Path,
    example: _Example,
    expected: Callable[[Arrays], Arrays],
    shapes: Sequence[Shape],
    atol: float = ATOL,
    levels: int = 0,
) -> list[str]:
    """The lines that `self_check` prints.

    Raises:
        ParityError: An answer is wrong.
        RepositoryError: The config cannot be read, or says something else than the model.
    """
    folder = file.parent.parent
    name = folder.name
    with LocalModels(folder.parent):
        model = start_model(model_class, folder)
        generator = np.random.default_rng(SEED)
        batch = [example(shape, generator) for shape in shapes]
        requests = [_request(arrays) for arrays in batch]
        wrong = _request(dict(list(batch[0].items())[1:]))  # the first input is missing
        gone = _request(batch[0])
        gone.cancel()
        start = time.perf_counter()
        responses = execute(model, [*requests, wrong, gone])
        seconds = time.perf_counter() - start
        model.finalize()

    if len(responses) != len(shapes) + 2:
        raise ParityError(f"{len(responses)} responses to {len(shapes) + 2} requests", where=name)
    lines = [f"{name}: {len(shapes)} requests in one batch, {seconds * 1e3:.1f} ms"]
    worst = 0.0
    for arrays, response in zip(batch, responses, strict=False):
        outputs = _outputs(response, name)
        worst = max(worst, _difference(outputs, expected(arrays), name, atol, levels))
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


def _request(arrays: Arrays) -> pb_stand_in.InferenceRequest:
    return pb_stand_in.InferenceRequest(
        [pb_stand_in.Tensor(name, array) for name, array in arrays.items()]
    )


def _outputs(response: Any, name: str) -> Arrays:
    if response.has_error():
        raise ParityError(f"a good request failed: {response.error().message()}", where=name)
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def _difference(got: Arrays, want: Arrays, name: str, atol: float, levels: int) -> float:
    """The largest difference of numbers; everything else has to be equal."""
    if set(got) != set(want):
        raise ParityError(f"outputs {sorted(got)}, expected {sorted(want)}", where=name)
    worst = 0.0
    for tensor, array in want.items():
        value = got[tensor]
        if value.shape != array.shape:
            raise ParityError(f"shape {value.shape}, not {array.shape}", where=f"{name} {tensor}")
        if array.dtype.kind == "f":
            difference = float(np.max(np.abs(value - array), initial=0.0))
            if not difference <= atol:
                raise ParityError(f"differs by {difference}", where=f"{name} {tensor}")
            worst = max(worst, difference)
        elif array.dtype.kind in "iu":
            levels_off = np.abs(value.astype(np.int64) - array.astype(np.int64)).max(initial=0)
            if levels_off > levels:
                raise ParityError(f"differs by {levels_off}", where=f"{name} {tensor}")
            worst = max(worst, float(levels_off))
        elif not np.array_equal(value, array):
            raise ParityError("differs from the reference", where=f"{name} {tensor}")
    return worst

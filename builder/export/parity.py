"""Parity: how far an artefact's outputs are from those of what it was made from."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ParityError
from builder.stage import NUMPY_DTYPES, Arrays, Shape, Stage, Tensor, Tolerance

if TYPE_CHECKING:
    import numpy as np

Runner = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True)
class Parity:
    """Differences measured at several shapes.

    Attributes:
        max_abs: Largest absolute difference per floating-point output.
        shapes: The symbol sizes that were compared.
    """

    max_abs: Mapping[str, float]
    shapes: tuple[Shape, ...]

    @property
    def worst(self) -> float:
        """Largest difference over all outputs; 0 if every output is exact."""
        return max(self.max_abs.values(), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "max_abs": dict(self.max_abs),
            "worst": self.worst,
            "shapes": [dict(shape) for shape in self.shapes],
        }


def compare_outputs(
    got: Arrays, want: Arrays, outputs: Iterable[Tensor], tolerance: Tolerance, *, where: str
) -> dict[str, float]:
    """Compare outputs by name: shape, dtype and values.

    NaN equals NaN and an infinity equals itself, so that an artefact must agree on those too.

    Returns:
        Largest absolute difference per floating-point output, and per integer output where the
        tolerance allows levels.

    Raises:
        ParityError: They differ by more than the tolerance allows.
    """
    import numpy as np

    differences: dict[str, float] = {}
    for tensor in outputs:
        a, b = got[tensor.name], want[tensor.name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ParityError(
                f"output {tensor.name} is {a.dtype}{list(a.shape)}, "
                f"expected {b.dtype}{list(b.shape)}",
                where=where,
                hint="a size that was frozen by the export shows like this",
            )
        if "INT" in tensor.dtype and tolerance.levels:
            apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
            differences[tensor.name] = float(np.max(apart, initial=0))
            if differences[tensor.name] > tolerance.levels:
                raise ParityError(
                    f"output {tensor.name} differs by up to {int(apart.max())} levels, allowed "
                    f"{tolerance.levels}",
                    where=where,
                )
            continue
        if not tensor.dtype.startswith("FP"):
            if (wrong := int((a != b).sum())) > 0:
                raise ParityError(
                    f"output {tensor.name} differs in {wrong} of {a.size} elements", where=where
                )
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore"):
            difference = np.where(same, 0.0, np.abs(x - y))
            allowed = tolerance.atol + tolerance.rtol * np.abs(y)
            bad = ~same & ~(difference <= allowed)
        worst = float(np.max(difference, initial=0.0))
        if bad.any():
            raise ParityError(
                f"output {tensor.name} differs by up to {worst:.3g}, "
                f"allowed {tolerance.atol:g} + {tolerance.rtol:g}*|x|",
                where=where,
            )
        differences[tensor.name] = worst
    return differences


def check_parity(
    stage: Stage,
    candidate: Runner,
    reference: Runner,
    *,
    what: str,
    seed: int = 0,
    shapes: Sequence[Shape] | None = None,
    tolerance: Tolerance | None = None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> tuple[Parity, tuple[Arrays, Arrays]]:
    """Compare two implementations of a stage at every shape that it declares.

    Args:
        candidate: The artefact, from inputs by name to outputs by name.
        reference: What it was made from.
        what: The artefact, for messages.
        seed: Seed of the example inputs.
        shapes: Other shapes than those that the stage declares.
        tolerance: Another tolerance than that of the stage.
        progress: Told how many shapes are compared.

    Returns:
        The parity, and the inputs and reference outputs of the first shape (a golden request).

    Raises:
        ParityError: They differ, at the shape that the message names.
    """
    import numpy as np

    shapes = shapes or stage.shapes or ({},)
    tolerance = tolerance or stage.tolerance
    worst: dict[str, float] = {}
    golden: tuple[Arrays, Arrays] | None = None
    for index, shape in enumerate(shapes):
        progress("comparing", index, len(shapes))
        inputs = stage.example(shape, np.random.default_rng(seed + index))
        check_inputs(stage, inputs, shape)
        want = reference(inputs)
        where = f"{what} of {stage.name} at {dict(shape)}"
        try:
            got = candidate(inputs)
        except ParityError:
            raise
        except Exception as error:
            first_line = str(error).strip().splitlines()[0][:300]
            raise ParityError(f"failed to run: {first_line}", where=where) from error
        found = compare_outputs(got, want, stage.outputs, tolerance, where=where)
        worst = {name: max(value, worst.get(name, 0.0)) for name, value in found.items()}
        golden = golden or (inputs, want)
    assert golden is not None
    return Parity(worst, tuple(shapes)), golden


def check_inputs(stage: Stage, inputs: Arrays, shape: Shape) -> None:
    """Check that example inputs have the declared names, dtypes and shapes.

    Raises:
        ParityError: The stage's `example` does not fit its signature.
    """
    for tensor in stage.inputs:
        array = inputs.get(tensor.name)
        want = (NUMPY_DTYPES[tensor.dtype], tensor.shape(shape))
        if array is None or (str(array.dtype), array.shape) != want:
            found = "missing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ParityError(
                f"example input {tensor.name} is {found}, declared as {want[0]}{list(want[1])}",
                where=f"stage {stage.name}",
            )


def torch_runner(stage: Stage, module: Any) -> Runner:
    """Run a PyTorch module as inputs by name -> outputs by name."""
    import torch

    def run(inputs: Arrays) -> Arrays:
        arguments = [torch.from_numpy(inputs[t.name]) for t in stage.inputs]
        with torch.inference_mode():
            results = module(*arguments)
        if isinstance(results, torch.Tensor):
            results = (results,)
        return {t.name: r.numpy() for t, r in zip(stage.outputs, results, strict=True)}

    return run


def onnx_runner(model: Path) -> Runner:
    """Run an ONNX file with ONNX Runtime on one CPU thread; in pieces if it exceeds the memory.

    Raises:
        ParityError: ONNX Runtime cannot load the file.
    """
    import onnxruntime

    from builder.export.operators import operator_libraries

    if _exceeds_memory(model):
        from builder.export.streamed import streamed_onnx_runner

        return streamed_onnx_runner(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # failures reach the caller as exceptions
    try:
        for library in operator_libraries(model).values():
            options.register_custom_ops_library(str(library))
        session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ParityError(f"ONNX Runtime cannot load it: {error}", where=model) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        feeds = {name: _as_text(array) for name, array in inputs.items()}
        return dict(zip(names, session.run(names, feeds), strict=True))

    return run


def _exceeds_memory(model: Path) -> bool:
    """Whether an ONNX file with all that lies beside it is too large to be loaded as usual.

    Half of the available memory must do for weights that grow from 16 to 32 bits, and for the
    copy that ONNX Runtime packs for its matrix products.
    """
    try:
        size = sum(file.stat().st_size for file in model.parent.iterdir() if file.is_file())
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10
    except (OSError, ValueError):
        return False
    return size * 8 > available


def _as_text(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Strings as `str`: of `bytes` ONNX Runtime's Python interface would take the repr."""
    import numpy as np

    if array.dtype != object:
        return array
    texts = [v.decode() if isinstance(v, bytes) else v for v in array.flat]
    return np.array(texts, dtype=object).reshape(array.shape)

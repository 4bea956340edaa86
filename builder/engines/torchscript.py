"""TorchScript engines, for Triton's pytorch backend."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from builder.engines.engine import EngineJob, EngineKind
from builder.errors import EngineError, ParityError
from builder.export.parity import Runner, torch_runner
from builder.stage import Stage, TorchSource
from builder.target import Target

FILE = "model.pt"


def build(job: EngineJob) -> list[Path]:
    """Trace the stage's module at its first shape and freeze it.

    Raises:
        EngineError: The stage has no PyTorch module, or it cannot be traced.
    """
    import numpy as np
    import torch

    stage = job.stage
    if not isinstance(stage.source, TorchSource):
        raise EngineError(
            "TorchScript needs a PyTorch module, and this stage is built as ONNX directly",
            where=f"stage {stage.name}",
            hint="remove torchscript from the stage's engines",
        )
    example = stage.example(stage.shapes[0], np.random.default_rng(0))
    arguments = tuple(torch.from_numpy(example[tensor.name]) for tensor in stage.inputs)
    target = job.folder / FILE
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                stage.source.load(), arguments, check_trace=False
            )
            torch.jit.freeze(traced.eval()).save(str(target))
    except RuntimeError as error:
        raise EngineError(
            f"cannot be traced: {str(error).splitlines()[0]}", where=f"stage {stage.name}"
        ) from error
    return [target]


def runner(stage: Stage, files: Sequence[Path]) -> Runner:
    """Run the traced module.

    Raises:
        ParityError: The file is no TorchScript module.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(files[0]))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ParityError(f"torch cannot load it: {error}", where=files[0]) from error
    return torch_runner(stage, module)


def supports(target: Target) -> bool:
    """One file serves every target."""
    return not target.is_gpu


KIND = EngineKind(
    name="torchscript",
    backend="pytorch",
    group="pytorch",
    suffix="_ts",
    libraries=("torch",),
    build=build,
    runner=runner,
    supports=supports,
)

"""How long the same request takes with ONNX Runtime and PyTorch, on the GPU where they can."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from builder.stage import Arrays, Stage, TorchSource

_WARMUP_RUNS, _RUNS = 3, 20
_LONGEST = 2.0  # seconds for all runs of one kind


def reference_latencies(stage: Stage, export: Path, inputs: Arrays) -> Mapping[str, float]:
    """Median milliseconds of `onnxruntime_<device>` and, for a PyTorch stage, `torch_<device>`.

    They are there to compare with; one that cannot run beside the plan (both need GPU memory) is
    left out.
    """
    found = {}
    for prepare in (partial(_onnx, export), partial(_torch, stage)):
        try:
            name, run = prepare(inputs)
            if run is not None:
                found[name] = median_ms(run)
        except Exception:
            continue
    return found


def median_ms(run: Callable[[], object]) -> float:
    """Median time of a call, over twenty runs or two seconds."""
    for _ in range(_WARMUP_RUNS):
        run()
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _LONGEST:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def _onnx(export: Path, inputs: Arrays) -> tuple[str, Callable[[], object]]:
    import onnxruntime

    device = "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"
    providers = ["CUDAExecutionProvider"] * (device == "cuda") + ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(export), providers=providers)
    return f"onnxruntime_{device}", lambda: session.run(None, inputs)


def _torch(stage: Stage, inputs: Arrays) -> tuple[str, Callable[[], object] | None]:
    if not isinstance(stage.source, TorchSource):
        return "torch", None
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = stage.source.load().to(device)
    arrays: list[Any] = [torch.from_numpy(inputs[tensor.name]) for tensor in stage.inputs]

    def run() -> object:
        # To the device and back, as the plan's time includes it, too.
        with torch.inference_mode():
            results = module(*(array.to(device) for array in arrays))
        results = (results,) if isinstance(results, torch.Tensor) else results
        return [result.cpu() for result in results]

    return f"torch_{device}", run

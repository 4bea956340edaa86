"""The detectors and pipelines in plain PyTorch: the judge of what the server answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from builder.families.anomaly.checkpoint import WEIGHTS, load_omnianomaly, load_tranad, weights_path
from builder.stage import Arrays


def load_detector(model: str, folder: Path = WEIGHTS) -> nn.Module:
    """The module behind a served detector, in eval mode.

    Args:
        model: `tranad_sat1`, or the name of an OmniAnomaly model such as `SMAP_E-1`.
        folder: Where the weights files are.

    Raises:
        CheckpointError: The weights are missing or damaged.
    """
    load = load_tranad if model.startswith("tranad") else load_omnianomaly
    return load(weights_path(model, folder))


def detect(model: str, telemetry: "np.ndarray[Any, Any]") -> Arrays:
    """What detector `model` says about FP32 [T,25]; see `OmniAnomaly.forward` for the outputs."""
    reconstruction, score, detected = run(load_detector(model), telemetry)
    return {
        "reconstruction": reconstruction,
        "anomaly_score": score,
        "anomaly_detected": detected,
    }


def run(module: nn.Module, *inputs: "np.ndarray[Any, Any]") -> "tuple[np.ndarray[Any, Any], ...]":
    """The outputs of a module in inference mode, NumPy in and out."""
    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
    return tuple(output.numpy() for output in outputs)


def thresholds(models: tuple[str, ...], folder: Path = WEIGHTS) -> tuple[float, ...]:
    """The score above which each detector raises an alarm.

    Raises:
        CheckpointError: The weights of one are missing or damaged.
    """
    return tuple(_threshold(load_detector(model, folder)) for model in models)


def _threshold(detector: nn.Module) -> float:
    state: Mapping[str, torch.Tensor] = detector.state_dict()
    return float(state["scorer.threshold"])

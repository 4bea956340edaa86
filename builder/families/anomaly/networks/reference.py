"""Stages in plain PyTorch: the judge of what the server answers."""

from typing import Any

import numpy as np
import torch
from torch import nn

from builder.stage import Arrays, Stage, TorchSource


def load(stage: Stage) -> nn.Module:
    """The module of a stage, in eval mode.

    Raises:
        CheckpointError: Its weights are missing or damaged.
        TypeError: The stage is no PyTorch module.
    """
    if not isinstance(stage.source, TorchSource):
        raise TypeError(f"stage {stage.name} has no PyTorch module")
    return stage.source.load().eval()


def answer(stage: Stage, *inputs: "np.ndarray[Any, Any]") -> Arrays:
    """The outputs of a stage by name, for inputs in the stage's order."""
    with torch.inference_mode():
        outputs = load(stage)(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs))
    tensors = zip(stage.outputs, outputs, strict=True)
    return {tensor.name: output.numpy() for tensor, output in tensors}


def threshold(stage: Stage) -> float:
    """The score above which a detector raises an alarm; +Inf before it is calibrated."""
    return float(load(stage).state_dict()["scorer.threshold"])

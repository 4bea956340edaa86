"""Running networks whose weights do not fit into memory, one layer at a time.

Slow, and made for one purpose: an export of any size is compared with PyTorch like every other.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.export.parity import Runner, onnx_runner, torch_runner
from builder.stage import Arrays, Stage
from builder.stored import StoredWeights

if TYPE_CHECKING:
    import torch


def streamed_torch_runner(stage: Stage, weights: StoredWeights) -> Runner:
    """Run a PyTorch module; each layer's weights are read when it is called, and then dropped.

    The module computes in FP32 whatever type its weights are stored in.

    Raises:
        CheckpointError: The files do not fit the module.
    """
    import torch

    module = weights.module()
    tensors, changes = weights.tensors(), weights.changes()
    # A tied weight is stored under one of its names.
    names = {id(p): name for name, p in module.named_parameters()}

    def attach(layer: "torch.nn.Module") -> None:
        held = {k: p for k, p in layer._parameters.items() if p is not None}
        if not held:
            return

        def load(layer: "torch.nn.Module", arguments: Any) -> None:
            for key, parameter in held.items():
                name = names[id(parameter)]
                values = tensors[name].read().float()
                if name in changes:
                    values = changes[name](values)
                layer._parameters[key] = torch.nn.Parameter(values, requires_grad=False)

        def drop(layer: "torch.nn.Module", arguments: Any, result: Any) -> None:
            layer._parameters.update(held)

        layer.register_forward_pre_hook(load)
        layer.register_forward_hook(drop)

    for layer in module.modules():
        attach(layer)
    return torch_runner(stage, module)


def streamed_onnx_runner(model: Path) -> Runner:
    """Run an ONNX file with ONNX Runtime, which maps its weights and keeps no copy of them.

    Nothing is folded and no matrix is packed anew, so each cast and transposed weight lives from
    its node to the next. The session only lives while it runs.
    """

    def run(inputs: Arrays) -> Arrays:
        return onnx_runner(model, keep_weights_on_disk=True)(inputs)

    return run

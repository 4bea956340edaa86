"""A checkpoint's networks with their weights left on the disk, for exports of any size."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.families.flux.checkpoint import (
    build_component,
    component_tensors,
    fill_buffers,
    parameters_of,
)
from builder.families.flux.lora import Lora
from builder.families.flux.lora_file import LowRank
from builder.families.flux.lora_fuse import architecture, changes_of
from builder.families.flux.mismatch import differences, raise_if
from builder.stored import Change, StoredTensor, StoredWeights

if TYPE_CHECKING:
    import torch


def stored_weights(
    folder: Callable[[], Path],
    component: str,
    wrap: Callable[[Any], "torch.nn.Module"],
    loras: Sequence[Lora] = (),
) -> StoredWeights:
    """The weights of a component, as the parameters of the module that is exported.

    Args:
        folder: Gives the checkpoint.
        component: `transformer`, `vae`, ...
        wrap: Makes the exported module from the network.
        loras: Files that are fused into the weights.
    """

    def build() -> "torch.nn.Module":
        network = build_component(folder(), component)
        fill_buffers(network, component)
        return network

    def module() -> "torch.nn.Module":
        return wrap(build()).eval()

    def tensors() -> Mapping[str, StoredTensor]:
        network = build()
        stored = component_tensors(folder(), component)
        shapes = {name: tuple(p.shape) for name, p in parameters_of(network).items()}
        raise_if(list(differences(stored, shapes)), network, folder() / component)
        return {outer: stored[inner] for outer, inner in names(network).items()}

    def changes() -> Mapping[str, Change]:
        if not loras:
            return {}
        fused = lora_changes(folder(), component, loras)
        return {outer: fused[inner] for outer, inner in names(build()).items() if inner in fused}

    def names(network: "torch.nn.Module") -> dict[str, str]:
        """Parameter of the exported module -> the network's own name of it."""
        inner = {id(parameter): name for name, parameter in parameters_of(network).items()}
        outer = wrap(network).named_parameters()
        return {name: inner[id(parameter)] for name, parameter in outer}

    return StoredWeights(module=module, tensors=tensors, changes=changes)


def lora_changes(folder: Path, component: str, loras: Sequence[Lora]) -> dict[str, Change]:
    """What LoRA files do to the weights of a component, by the network's own names.

    Raises:
        CheckpointError: A LoRA file cannot be used.
    """

    def change(several: Sequence[LowRank], weight: "torch.Tensor") -> "torch.Tensor":
        for one in several:
            weight = weight.add_(one.delta().to(weight.dtype))
        return weight

    found = changes_of(loras, component, architecture(folder))
    return {f"{layer}.weight": partial(change, several) for layer, several in found.items()}

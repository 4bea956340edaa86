"""Fusing LoRA files into the networks of a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import CheckpointError
from builder.families.flux.lora import Lora
from builder.families.flux.lora_file import LowRank, Shapes, read_lora
from builder.families.flux.lora_names import CLIP, TRANSFORMER

if TYPE_CHECKING:
    import torch


def layer_shapes(module: "torch.nn.Module") -> Shapes:
    """The linear layers of a network."""
    import torch

    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }


def architecture(folder: Path) -> Mapping[str, Shapes]:
    """The linear layers of the transformer and of CLIP; no weights are read.

    Raises:
        CheckpointError: A configuration is missing or damaged.
    """
    from builder.families.flux.checkpoint import build_component

    return {name: layer_shapes(build_component(folder, name)) for name in (TRANSFORMER, CLIP)}


def changes_of(
    loras: Sequence[Lora], component: str, layers: Mapping[str, Shapes]
) -> dict[str, list[LowRank]]:
    """What LoRA files change in a component: layer -> changes, which add up.

    Raises:
        CheckpointError: As `read_lora`.
    """
    changes: dict[str, list[LowRank]] = {}
    for lora in loras:
        for path, change in read_lora(lora, layers).get(component, {}).items():
            changes.setdefault(path, []).append(change)
    return changes


def fuse(module: "torch.nn.Module", changes: Mapping[str, Sequence[LowRank]], where: str) -> None:
    """Add the changes of LoRA files to the weights of a network, in place.

    Args:
        changes: From `changes_of`.
        where: The files, for messages.

    Raises:
        CheckpointError: A weight would overflow.
    """
    import torch

    for path, several in changes.items():
        weight = module.get_submodule(path).get_parameter("weight")
        with torch.no_grad():
            for change in several:
                weight.add_(change.delta().to(weight.dtype))
        if not weight.isfinite().all():
            raise CheckpointError(
                f"makes the weight of {path} overflow", where=where, hint="use a smaller scale"
            )


def fused_component(
    folder: Path, name: str, loras: Sequence[Lora], dtype: "torch.dtype | None" = None
) -> "torch.nn.Module":
    """A network of a checkpoint with LoRA files fused into it, in eval mode.

    Args:
        dtype: Data type of the network; float32 by default.

    Raises:
        CheckpointError: The checkpoint or a LoRA file cannot be used.
    """
    from builder.families.flux.checkpoint import load_component

    module: torch.nn.Module = load_component(folder, name, dtype)
    if loras:
        changes = changes_of(loras, name, architecture(folder))
        fuse(module, changes, where=", ".join(map(str, loras)))
    return module

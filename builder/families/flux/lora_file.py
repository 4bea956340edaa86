"""Reading a LoRA file: what it changes, and whether it fits.

Supported: plain LoRA for the transformer and for CLIP, as diffusers, PEFT, kohya's sd-scripts,
ComfyUI, OneTrainer and XLabs write it. Not supported, and refused by name: T5, DoRA, LoHa, LoKr,
changed biases and norms, and files for other networks. Only safetensors files are read.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import CheckpointError
from builder.families.flux.lora import Lora
from builder.families.flux.lora_names import (
    T5,
    Target,
    is_stable_diffusion,
    other_kind,
    read_key,
    targets,
)

if TYPE_CHECKING:
    import torch

    Parts = Mapping[str, tuple[str, torch.Tensor]]

_NAMED = 20
"""So many problems are written out."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's configuration: JSON whose keys start with the component."""

Shapes = Mapping[str, tuple[int, int]]
"""(out, in) of the linear layers of a component by path."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A change of one layer's weight, which is larger than what it is computed from.

    Attributes:
        up: [out,rank].
        down: [rank,in].
        factor: Scale times alpha / rank.
    """

    up: "torch.Tensor"
    down: "torch.Tensor"
    factor: float

    def delta(self) -> "torch.Tensor":
        """What is added to the weight: FP32 [out,in]."""
        return (self.up.float() @ self.down.float()) * self.factor


def read_lora(lora: Lora, layers: Mapping[str, Shapes]) -> dict[str, dict[str, LowRank]]:
    """The changes that a file makes: component -> layer -> change.

    Raises:
        CheckpointError: The file is missing, damaged, not safetensors, for another network, of an
            unsupported kind, or does not fit; every tensor that does not is named.
    """
    tensors, configuration = _read(lora.file)
    if is_stable_diffusion(tensors):
        raise CheckpointError(
            "is a LoRA for Stable Diffusion, not for FLUX.1",
            where=lora.file,
            hint="a LoRA only fits the kind of network that it was trained on",
        )
    known = {name: targets(name, shapes) for name, shapes in layers.items()}
    problems: list[str] = []
    changes: dict[str, dict[str, LowRank]] = {}
    for (component, layer), parts in _pairs(tensors, known, problems).items():
        target = known[component][layer]
        if wrong := _misfit(parts, target, layers[component]):
            problems.append(wrong)
            continue
        factor = lora.scale * _gain(component, target, parts, configuration)
        for path, change in _split(target, layers[component], parts, factor):
            if path in changes.setdefault(component, {}):
                problems.append(f"{path} is changed twice, also by {parts['up'][0]}")
            changes[component][path] = change
    _raise(problems, lora.file)
    if not changes:
        raise CheckpointError("changes nothing", where=lora.file, hint="is it a LoRA?")
    return changes


def _pairs(
    tensors: "Mapping[str, torch.Tensor]",
    known: Mapping[str, Mapping[str, Target]],
    problems: list[str],
) -> "dict[tuple[str, str], Parts]":
    """The tensors of each (component, layer) by part; what is wrong goes to `problems`."""
    found: dict[tuple[str, str], dict[str, tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        key = read_key(name)
        reason = _refusal(name, key.component, known.get(key.component, {}).get(key.layer))
        if reason is None and key.part is None:
            reason = f"unknown tensor {name}"
        if reason is None and not tensor.isfinite().all():
            reason = f"{name} holds NaN or Inf"
        if reason is not None:
            # Some tools write every layer that there is; a product with zeros changes nothing.
            if not (key.component == T5 and _has_no_effect(name, tensors)):
                problems.append(reason)
            continue
        parts = found.setdefault((key.component, key.layer), {})
        part = str(key.part)
        if part in parts:
            problems.append(f"{name} is there twice, also as {parts[part][0]}")
        parts[part] = (name, tensor)
    whole: dict[tuple[str, str], Parts] = {}
    for layer, parts in found.items():
        if set(parts) - {"alpha"} == {"up", "down"}:
            whole[layer] = parts
        else:
            problems += [_half(part, name) for part, (name, _) in parts.items()]
    return whole


def _read(file: Path) -> "tuple[dict[str, torch.Tensor], Mapping[str, Any]]":
    """All tensors, and PEFT's configuration where the file has one."""
    import safetensors

    from builder.families.flux.shards import read_header

    header = read_header(file)
    if wrong := [
        t.name for t in header if t.dtype not in _FLOATS and not t.name.endswith(".alpha")
    ]:
        raise CheckpointError(
            f"{', '.join(wrong[:_NAMED])}: no floating-point numbers",
            where=file,
            hint="quantised LoRA files are not supported",
        )
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(_METADATA)
            tensors = {tensor.name: opened.get_tensor(tensor.name) for tensor in header}
        configuration = json.loads(text) if text else {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=file) from error
    if not isinstance(configuration, dict):
        raise CheckpointError(f"{_METADATA} is no JSON object", where=file)
    return tensors, configuration


def _refusal(name: str, component: str, target: Target | None) -> str | None:
    """Why a tensor cannot be used, if its name says so."""
    if (kind := other_kind(name)) is not None:
        return f"{name} is {kind}, which is not supported"
    if component == T5:
        return f"{name} is for T5, which is not supported"
    return f"unknown tensor {name}" if target is None else None


def _has_no_effect(name: str, tensors: "Mapping[str, torch.Tensor]") -> bool:
    """Whether a tensor belongs to a product with zeros."""
    stem = re.sub(r"\.(lora_|lora\.)?(down|up|A|B)\.weight$|\.alpha$", "", name)
    ups = [t for n, t in tensors.items() if n.startswith(stem + ".") and read_key(n).part == "up"]
    return bool(ups) and not any(tensor.any() for tensor in ups)


def _half(part: str, name: str) -> str:
    missing = {"up": "down", "down": "up", "alpha": "up and down"}[part]
    return f"{name} has no {missing} beside it"


def _misfit(parts: "Parts", target: Target, shapes: Shapes) -> str | None:
    """What is wrong with the shapes of a pair, if anything."""
    (down_name, down), (up_name, up) = parts["down"], parts["up"]
    rows = sum(shapes[path][0] for path in target.layers)
    columns = shapes[target.layers[0]][1]
    if down.ndim != 2 or down.shape[1] != columns:
        return f"{down_name} has shape {list(down.shape)}, not [rank, {columns}]"
    if up.ndim != 2 or up.shape[0] != rows:
        return f"{up_name} has shape {list(up.shape)}, not [{rows}, rank]"
    if down.shape[0] != up.shape[1] or not down.shape[0]:
        return f"{down_name} has rank {down.shape[0]}, {up_name} has rank {up.shape[1]}"
    if "alpha" in parts and parts["alpha"][1].numel() != 1:
        return f"{parts['alpha'][0]} has shape {list(parts['alpha'][1].shape)}, not one number"
    return None


def _gain(
    component: str,
    target: Target,
    parts: "Parts",
    configuration: Mapping[str, Any],
) -> float:
    """Alpha / rank: 1 where the file does not say."""
    rank = parts["down"][1].shape[0]
    if "alpha" in parts:
        return float(parts["alpha"][1].item()) / rank
    given = {
        key.removeprefix(f"{component}."): value
        for key, value in configuration.items()
        if key.startswith(f"{component}.")
    }
    alpha = given.get("lora_alpha")
    patterns = given.get("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        # PEFT's rule: the pattern is the end of a path, from a dot on.
        if target.layers[0] == pattern or target.layers[0].endswith(f".{pattern}"):
            alpha = value
            break
    if not isinstance(alpha, int | float):
        return 1.0
    return float(alpha) / (math.sqrt(rank) if given.get("use_rslora") else rank)


def _split(
    target: Target,
    shapes: Shapes,
    parts: "Parts",
    factor: float,
) -> "Iterable[tuple[str, LowRank]]":
    """The layers' own shares of a product."""
    import torch

    up, down = parts["up"][1], parts["down"][1]
    if target.swapped:
        first, second = up.chunk(2)
        up = torch.cat((second, first))
    sizes = [shapes[path][0] for path in target.layers]
    for path, rows in zip(target.layers, torch.split(up, sizes), strict=True):
        yield path, LowRank(rows, down, factor)


def _raise(problems: Sequence[str], file: Path) -> None:
    if not problems:
        return
    rest = len(problems) - _NAMED
    named = [*problems[:_NAMED], *([f"and {rest} more"] if rest > 0 else [])]
    raise CheckpointError(
        f"does not fit FLUX.1: {'; '.join(named)}",
        where=file,
        hint="was it trained on FLUX.1, as a plain LoRA?",
    )

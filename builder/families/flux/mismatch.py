"""How the tensors of a checkpoint differ from those that an architecture has."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import CheckpointError
from builder.stored import StoredTensor

if TYPE_CHECKING:
    import torch

_NAMED = 20
"""So many problems are written out."""

_COMPARED = 2500
"""Above so many pairs of names it is another architecture, not a few tensors renamed."""


def differences(
    stored: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]
) -> Iterable[str]:
    """What is missing, extra, renamed or of another shape, one sentence each.

    Args:
        stored: The tensors of the files by name.
        expected: The shapes that the architecture has.
    """
    missing = [name for name in expected if name not in stored]
    extra = [name for name in stored if name not in expected]
    renamed = _renamed(missing, extra, lambda a, b: expected[a] == stored[b].shape)
    for name in missing:
        guess = renamed.get(name)
        yield f"missing tensor {name}" + (f" (is it {guess}, renamed?)" if guess else "")
    for name in extra:
        if name not in renamed.values():
            yield f"unexpected tensor {name}"
    for name, tensor in stored.items():
        if name in expected and tensor.shape != expected[name]:
            yield f"{name} has shape {list(tensor.shape)}, not {list(expected[name])}"


def _renamed(
    missing: list[str], extra: list[str], fits: Callable[[str, str], bool]
) -> dict[str, str]:
    """Which missing name probably became which extra one; the closest pairs first."""
    if len(missing) * len(extra) > _COMPARED:
        return {}
    pairs = [
        (difflib.SequenceMatcher(None, a, b).ratio(), a, b)
        for a in missing
        for b in extra
        if fits(a, b)
    ]
    found: dict[str, str] = {}
    for ratio, a, b in sorted(pairs, reverse=True):
        if ratio >= 0.8 and a not in found and b not in found.values():
            found[a] = b
    return found


def raise_if(problems: list[str], module: "torch.nn.Module", where: Path) -> None:
    """Refuse a checkpoint that has problems.

    Raises:
        CheckpointError: There is a problem; the first ones are named.
    """
    if not problems:
        return
    rest = len(problems) - _NAMED
    named = problems[:_NAMED] + ([f"and {rest} more"] if rest > 0 else [])
    raise CheckpointError(
        f"does not fit {type(module).__name__}: {'; '.join(named)}",
        where=where,
        hint="the weights and config.json must belong together; download the folder again",
    )

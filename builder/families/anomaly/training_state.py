"""The state of a training run on disk, from which a run that was killed goes on."""

import io
from pathlib import Path
from typing import Any

import torch

from builder.files import write_atomic


def save_state(
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    path: Path,
    digest: str,
    epochs: int,
) -> None:
    """Save what `resume` needs to go on after some epochs, atomically.

    Raises:
        BuilderError: The file cannot be written.
    """
    buffer = io.BytesIO()
    content = {
        "digest": digest,
        "epochs": epochs,
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def resume(
    module: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    path: Path | None,
    digest: str,
) -> int:
    """Restore a saved state; the number of epochs that it covers, 0 if there is none that fits."""
    if path is None or not path.is_file():
        return 0
    try:
        content: Any = torch.load(path, weights_only=True)
    except Exception:  # damaged bytes raise whatever the unpickler trips over
        return 0  # not written by this program: training starts again
    if not isinstance(content, dict) or content.get("digest") != digest:
        return 0  # of other data or settings
    module.load_state_dict(content["module"])
    optimiser.load_state_dict(content["optimiser"])
    return int(content["epochs"])

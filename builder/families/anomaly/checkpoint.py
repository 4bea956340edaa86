"""Reading and writing the detectors' weights.

The builder's own files are safetensors with the facts of the training run in the header. TranAD
also loads from the authors' `model.ckpt`, a pickle, of which only plain tensors are accepted.
Nothing in a checkpoint is ever executed.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from builder.errors import CheckpointError
from builder.families.anomaly.networks.omnianomaly import OmniAnomaly
from builder.families.anomaly.networks.tranad import TranAD
from builder.files import write_atomic

MAX_BYTES = 64 * 2**20
"""No detector is near this size; a larger file is refused before it is read."""

FORMAT_VERSION = "1"
_HEADER_KEY = "training"

_UNBOUNDED = frozenset({"scorer.threshold"})
"""Tensors that may hold +Inf: an uncalibrated detector detects nothing but invalid samples."""

_M = TypeVar("_M", bound=nn.Module)
_RETRAIN = "train it again with `builder train anomaly`, or restore the file"


def weights_path(folder: Path, model: str) -> Path:
    """The weights file of a model name such as `SMAP_E-1` or `tranad_sat1`."""
    return folder / f"{model}.safetensors"


def load_omnianomaly(path: Path) -> OmniAnomaly:
    """An OmniAnomaly in eval mode from a safetensors file.

    Raises:
        CheckpointError: The file is missing, truncated, or has missing, extra, wrong-shaped or
            NaN tensors.
    """
    return _restore(OmniAnomaly(), read_tensors(path), path)


def load_tranad(path: Path) -> TranAD:
    """A TranAD in eval mode from a safetensors file or an upstream `model.ckpt`.

    An upstream checkpoint knows neither the value ranges nor a threshold: the module then takes
    data that is already scaled to 0..1, and detects only invalid samples until it is calibrated
    (`builder train anomaly --model tranad --upstream model.ckpt`).

    Raises:
        CheckpointError: As for `load_omnianomaly`; or a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return _restore(TranAD(), read_tensors(path), path)
    return _restore(TranAD(), _upstream_tensors(path), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: The file is missing, too large, truncated or no safetensors file.
    """
    _check_file(path)
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"not a complete safetensors file ({error})", where=path, hint=_RETRAIN
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The facts of the training run that the header of a safetensors file holds.

    Raises:
        CheckpointError: As for `read_tensors`.
    """
    _check_file(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_HEADER_KEY, "{}"))
            return {str(name): str(value) for name, value in facts.items()}
    except (safetensors.SafetensorError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"not a complete safetensors file ({error})", where=path, hint=_RETRAIN
        ) from error


def save(module: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a detector's state_dict atomically.

    Raises:
        RepositoryError: The file cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    # safetensors writes the keys of a header in random order: with one key, equal detectors make
    # equal files.
    header = {_HEADER_KEY: json.dumps({"format_version": FORMAT_VERSION, **metadata})}
    write_atomic(path, safetensors.torch.save(tensors, metadata=header))


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            "there is no such checkpoint", where=path, hint="train it: `builder train anomaly`"
        ) from error
    if not path.is_file():
        raise CheckpointError("not a file", where=path)
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{size} bytes, which is more than the {MAX_BYTES} that a detector may have", where=path
        )


def _restore(module: _M, tensors: Mapping[str, Tensor], path: Path) -> _M:
    """Load tensors that must match the module exactly; names every difference."""
    expected = module.state_dict()
    problems = [f"missing tensor {name}" for name in expected if name not in tensors]
    problems += [f"unexpected tensor {name}" for name in tensors if name not in expected]
    for name, tensor in tensors.items():
        if name not in expected:
            continue
        if tensor.shape != expected[name].shape:
            want = list(expected[name].shape)
            problems.append(f"{name} has shape {list(tensor.shape)}, not {want}")
        elif tensor.is_floating_point() != expected[name].is_floating_point():
            problems.append(f"{name} has dtype {tensor.dtype}, not {expected[name].dtype}")
        elif tensor.isnan().any() or (name not in _UNBOUNDED and tensor.isinf().any()):
            problems.append(f"{name} holds NaN or Inf")
    if problems:
        raise CheckpointError(
            f"does not fit {type(module).__name__}: {'; '.join(problems)}",
            where=path,
            hint=_RETRAIN,
        )
    module.load_state_dict({name: t.to(expected[name].dtype) for name, t in tensors.items()})
    return module.eval()


def _upstream_tensors(path: Path) -> dict[str, Tensor]:
    """State of an upstream TranAD checkpoint, completed with the buffers that it lacks."""
    _check_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "refused: the pickle is damaged, or holds objects other than tensors, which could "
            "run code when loaded",
            where=path,
            hint="save only state_dicts and numbers: model_state_dict, epoch",
        ) from error
    except Exception as error:  # damaged bytes raise whatever the unpickler trips over
        raise CheckpointError(
            f"not a complete PyTorch checkpoint ({error})", where=path, hint="restore the file"
        ) from error
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            "not an upstream TranAD checkpoint: no model_state_dict of tensors",
            where=path,
            hint="expected keys: epoch, model_state_dict, optimizer_state_dict, "
            "scheduler_state_dict, accuracy_list",
        )
    added = {
        name: tensor
        for name, tensor in TranAD().state_dict().items()
        if name.startswith(("normaliser.", "scorer."))
    }
    return added | {str(name): tensor for name, tensor in state.items()}

"""Where things are in a model repository."""

from pathlib import Path

NATIVE_GROUPS = ("onnx", "tensorrt", "pytorch", "ensemble")
"""Groups that are generated and served without Python in the hot path."""

PYTHON_GROUP = "python"
"""The python-backend twins: written by hand, served only on request."""

GROUPS = (*NATIVE_GROUPS, PYTHON_GROUP)
"""Folders of the repository, each of which is a Triton repository of its own."""


def versions(model: Path) -> list[int]:
    """Version directories of a model, ascending; none if the model does not exist."""
    if not model.is_dir():
        return []
    # Triton takes any folder that is named by a positive number without a leading zero.
    names = (path.name for path in model.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal() and name[0] != "0")


def newest_version(model: Path) -> int | None:
    """The highest version of a model, or None."""
    return max(versions(model), default=None)

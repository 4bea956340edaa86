"""The groups of a model repository."""

NATIVE_GROUPS = ("onnx", "tensorrt", "pytorch", "ensemble")
"""Groups that are generated and served without Python in the hot path."""

PYTHON_GROUP = "python"
"""The python-backend twins: written by hand, served only on request."""

GROUPS = (*NATIVE_GROUPS, PYTHON_GROUP)
"""Folders of the repository, each of which is a Triton repository of its own."""

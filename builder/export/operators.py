"""Custom-operator libraries: which of them an ONNX file needs, and where they are."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from builder.errors import ExportError
from builder.repository.wire import content, fields

_LIBRARIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"ai.onnx.contrib": ("onnxruntime-extensions", "_extensions_pydll*.so")}
)
"""Operator domain -> distribution that has it, and its shared library."""

# Field numbers of onnx.proto.
_MODEL_OPSET_IMPORT = 8
_OPSET_DOMAIN = 1


def operator_libraries(model: Path) -> dict[str, Path]:
    """The custom-operator libraries that an ONNX file needs; its weights are not read.

    Returns:
        Distribution -> shared library.

    Raises:
        ExportError: A library that is needed is not installed.
    """
    found = {}
    for domain in _domains(model):
        if domain in _LIBRARIES:
            distribution, pattern = _LIBRARIES[domain]
            found[distribution] = _find(distribution, pattern, model)
    return found


def served_name(distribution: str) -> str:
    """File name of a library in a model's folder; the same for every Python version."""
    return f"lib{distribution.replace('-', '_')}.so"


def _domains(model: Path) -> list[str]:
    domains: list[str] = []
    with model.open("rb") as file:
        opsets = [
            f for f in fields(file, 0, model.stat().st_size) if f.number == _MODEL_OPSET_IMPORT
        ]
        for opset in opsets:
            domains += [
                content(file, field).decode()
                for field in fields(file, opset.start, opset.end)
                if field.number == _OPSET_DOMAIN
            ]
    return domains


def _find(distribution: str, pattern: str, model: Path) -> Path:
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    library = next(iter(sorted(folder.glob(pattern))), None) if folder else None
    if library is None:
        raise ExportError(
            f"needs operators of {distribution}, which is not installed",
            where=model,
            hint=f"pip install {distribution}",
        )
    return library

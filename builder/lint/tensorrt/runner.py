"""Running the operator preflight."""

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from builder.errors import RepositoryError, UsageError
from builder.lint.tensorrt import rules as package
from builder.lint.tensorrt.graph import OnnxGraph, read_graph
from builder.lint.tensorrt.model import OnnxFinding, OnnxRule


def onnx_rules() -> list[OnnxRule]:
    """Every rule, by code: the `RULE` of each module in `builder/lint/tensorrt/rules`."""
    names = [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    return sorted((importlib.import_module(n).RULE for n in names), key=lambda rule: rule.code)


def lint_onnx(
    paths: Sequence[Path], select: Iterable[str] | None = None, ignore: Iterable[str] | None = None
) -> list[OnnxFinding]:
    """Look for what the TensorRT ONNX parser does not take.

    Args:
        paths: ONNX files, or folders of them.
        select: Codes of the rules to run; all if None.
        ignore: Codes of rules not to run.

    Returns:
        The findings, by path and code; equal ones of one file are counted, not repeated.

    Raises:
        UsageError: A path does not exist, or a code is unknown.
        RepositoryError: There is no ONNX file, or one cannot be read.
    """
    chosen = _chosen(select, ignore)
    return [f for path in onnx_files(paths) for f in lint_graph(read_graph(path), chosen)]


def lint_graph(graph: OnnxGraph, rules: Iterable[OnnxRule] | None = None) -> list[OnnxFinding]:
    """The findings of one graph, by code."""
    found: dict[tuple[str, str, str], list[str]] = {}
    severities = {}
    for rule in onnx_rules() if rules is None else rules:
        severities[rule.code] = rule.severity
        for hit in rule.check(graph):
            found.setdefault((rule.code, hit.message, hit.remedy), []).append(hit.where)
    return [
        OnnxFinding(graph.path, code, severities[code], places[0], message, remedy, len(places))
        for (code, message, remedy), places in found.items()
    ]


def onnx_files(paths: Sequence[Path]) -> list[Path]:
    """The ONNX files that the paths name or hold.

    Raises:
        UsageError: A path does not exist.
        RepositoryError: There is no ONNX file.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files |= dict.fromkeys(sorted(path.rglob("*.onnx")))
        elif path.is_file():
            files[path] = None
        else:
            raise UsageError("there is no such file", where=path)
    if not files:
        where = ", ".join(map(str, paths))
        raise RepositoryError("there is no ONNX file", where=where, hint="`builder build` first")
    return list(files)


def _chosen(select: Iterable[str] | None, ignore: Iterable[str] | None) -> list[OnnxRule]:
    rules = {rule.code: rule for rule in onnx_rules()}
    wanted = list(rules) if select is None else list(select)
    unwanted = set(ignore or ())
    for code in (*wanted, *unwanted):
        if code not in rules:
            hint = "`builder lint --tensorrt --list` shows them"
            raise UsageError(f"there is no rule {code!r}", hint=hint)
    return [rules[code] for code in rules if code in wanted and code not in unwanted]

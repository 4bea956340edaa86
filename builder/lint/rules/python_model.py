"""The model.py of a python-backend model must be Python and have something to call.

The server only finds out in a process of its own, after seconds of imports. The file is parsed
here, never run.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from builder.lint.model import Context, Hit, Rule, Severity, backend_of, model_file

_CLASS = "TritonPythonModel"


def check(context: Context) -> Iterator[Hit]:
    """Yield files that do not parse, and such without `TritonPythonModel.execute`."""
    for model in context.models:
        for _, config in model.parsed:
            if backend_of(config) != "python":
                continue
            for folder in model.version_folders():
                path = model_file(folder, config, "model.py")
                if path is not None and path.suffix == ".py":
                    yield from _check_file(path)


def _check_file(path: Path) -> Iterator[Hit]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        yield Hit(path, f"is no valid Python: {error}", "correct that line", line)
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == _CLASS:
            inherits = any(not isinstance(b, ast.Name) or b.id != "object" for b in node.bases)
            methods = {
                n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            if "execute" not in methods and not inherits:
                yield Hit(path, f"{_CLASS} has no execute", "define execute", node.lineno)
            return
        names = [a.asname or a.name for a in node.names] if _is_import(node) else []
        if _CLASS in names or "*" in names:
            return
    yield Hit(path, f"there is no class {_CLASS}", "define it, with the method execute")


def _is_import(node: ast.AST) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom)


RULE = Rule("TR012", "python model cannot run", Severity.ERROR, check)

"""Running the rules."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.digest import FileDigests
from builder.errors import UsageError
from builder.lint import rules as package
from builder.lint.model import Finding, Rule
from builder.lint.scan import scan

if TYPE_CHECKING:
    from builder.lint.tensorrt.model import OnnxRule


def all_rules() -> list[Rule]:
    """Every rule, by code: the `RULE` of each module in `builder/lint/rules`."""
    names = [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    return sorted((importlib.import_module(n).RULE for n in names), key=lambda rule: rule.code)


def explain(rule: "Rule | OnnxRule") -> str:
    """Why a rule matters: the text of its module."""
    return (importlib.import_module(rule.check.__module__).__doc__ or "").strip()


def lint(
    paths: Sequence[Path],
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    *,
    digests: FileDigests | None = None,
) -> list[Finding]:
    """Check Triton repositories.

    Args:
        paths: Models, repositories, or folders of repositories.
        select: Codes of the rules to run; all if None.
        ignore: Codes of rules not to run.
        digests: Digests of files that are known already.

    Returns:
        The findings, by path, line and code.

    Raises:
        UsageError: A path does not exist, or a code is unknown.
        RepositoryError: There are no models, or they cannot be read.
    """
    rules = _chosen(select, ignore)
    context = scan(paths, digests)
    found = {
        Finding(hit.path, hit.line or 0, rule.code, rule.severity, hit.message, hit.remedy)
        for rule in rules
        for hit in rule.check(context)
    }
    return sorted(found)


def _chosen(select: Iterable[str] | None, ignore: Iterable[str] | None) -> list[Rule]:
    rules = {rule.code: rule for rule in all_rules()}
    wanted = list(rules) if select is None else list(select)
    unwanted = set(ignore or ())
    for code in (*wanted, *unwanted):
        if code not in rules:
            close = difflib.get_close_matches(code, rules, n=1)
            hint = f"did you mean {close[0]}?" if close else "`builder lint --list` shows them"
            raise UsageError(f"there is no rule {code!r}", hint=hint)
    return [rules[code] for code in rules if code in wanted and code not in unwanted]

"""Names that become folders and files: checked before they touch a path."""

import re

from builder.errors import RepositoryError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_MAX_LENGTH = 200  # leaves room for suffixes within the 255 bytes of a file name


def unsafe(name: str) -> str | None:
    """What is wrong with a name for one folder or file; None if it is safe.

    Letters, digits and `_ . + -` are allowed, not starting with a dot or a hyphen; `..` is not.
    """
    if not name:
        return "is empty"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    if ".." in name:
        return "holds '..'"
    if name.startswith("."):
        return "starts with a dot"
    if len(name) > _MAX_LENGTH:
        return f"is longer than {_MAX_LENGTH} characters"
    if _NAME.fullmatch(name) is None:
        return "holds characters other than letters, digits and _ . + -, or starts with one"
    return None


def check_name(name: str, what: str) -> str:
    """Return the name if it is safe.

    Args:
        name: The name to check.
        what: What it names, for the message, for example `model name`.

    Raises:
        RepositoryError: It is not.
    """
    if problem := unsafe(name):
        raise RepositoryError(
            f"{what} {name!r} {problem}", hint="use letters, digits, '_', '.', '+' and '-' only"
        )
    return name

"""A symbolic link may not leave the repository.

Such a link serves whatever lies at its end today, and arrives broken in a bucket, an image or on
another machine.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield links that lead out, or nowhere."""
    for model in context.models:
        for link in _links(model.folder):
            end = link.resolve()
            if not any(end.is_relative_to(root) for root in context.roots):
                yield Hit(link, f"the link leads to {end}", "copy the file into the repository")
            elif not end.exists():
                yield Hit(link, f"the link leads to {end}, which is not there", "remove the link")


def _links(folder: Path) -> Iterator[Path]:
    if folder.is_symlink():
        yield folder
    for parent, folders, files in os.walk(folder):
        yield from (p for p in (Path(parent) / n for n in (*folders, *files)) if p.is_symlink())


RULE = Rule("TR017", "symbolic link leaves the repository", Severity.ERROR, check)

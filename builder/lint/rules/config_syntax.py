"""A config that does not parse keeps its model from loading.

The server reports it in the middle of its log, without the other models' state; here it comes
with file and line.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield the configs that could not be parsed."""
    for file in (f for model in context.models for f in model.configs):
        if file.error is not None:
            line = (file.error.where or "").rpartition(":")[2]
            yield Hit(
                file.path,
                file.error.what,
                file.error.hint or "correct that line",
                int(line) if line.isdigit() else None,
            )


RULE = Rule("TR001", "config.pbtxt does not parse", Severity.ERROR, check)

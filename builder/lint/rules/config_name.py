"""A name in the config must be the name of the folder.

Triton refuses a model whose config carries another name, which happens to every folder that was
copied or renamed. Leaving the name out is fine.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield the configs that name another model."""
    for model in context.models:
        for file, config in model.parsed:
            if config.name and config.name != model.name:
                yield Hit(
                    file.path,
                    f"the config is of {config.name!r}, the folder is {model.name!r}",
                    "rename one of the two, or leave the name out",
                    file.line("name"),
                )


RULE = Rule("TR002", "name in the config differs from the folder", Severity.ERROR, check)

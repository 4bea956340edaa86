"""A name may be used once among all repositories of a server.

With `--model-repository` given several times, Triton loads neither of two models that share a
name.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield every model whose name was seen before."""
    for models in context.by_name.values():
        for model in models[1:]:
            yield Hit(
                model.folder,
                f"there is a model of the same name in {models[0].folder.parent}",
                "rename one of them; twins add _trt or _py",
            )


RULE = Rule("TR013", "two repositories have a model of the same name", Severity.ERROR, check)

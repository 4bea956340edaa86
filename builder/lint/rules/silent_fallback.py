"""Plans per compute capability and a `model.plan` do not go together.

On a GPU that `cc_model_filenames` does not list, Triton loads `model.plan` without a word. That
plan was built for another GPU: it fails to deserialise, or runs slower than it should, and
"cc_model_filenames does nothing" is what people conclude.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield the fallback files and settings beside `cc_model_filenames`."""
    for model in context.models:
        for _, config in model.parsed:
            if not config.cc_model_filenames:
                continue
            listed = set(config.cc_model_filenames.values())
            for folder in model.version_folders():
                if "model.plan" not in listed and (folder / "model.plan").exists():
                    yield Hit(
                        folder / "model.plan",
                        "GPUs that cc_model_filenames does not list load this plan silently",
                        "rename it and list it under its compute capability, or remove it",
                    )


RULE = Rule("TR006", "model.plan hides a missing compute capability", Severity.ERROR, check)

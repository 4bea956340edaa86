"""A preferred batch size above `max_batch_size` keeps the model from loading."""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield preferred sizes that are too large."""
    for model in context.models:
        for file, config in model.parsed:
            sizes = [
                *config.dynamic_batching.preferred_batch_size,
                *config.sequence_batching.oldest.preferred_batch_size,
            ]
            for size in sizes:
                if size > config.max_batch_size:
                    yield Hit(
                        file.path,
                        f"the preferred batch size {size} is above max_batch_size "
                        f"{config.max_batch_size}",
                        "raise max_batch_size, or lower the preferred size",
                        file.line("preferred_batch_size"),
                    )


RULE = Rule("TR015", "preferred batch size above the maximum", Severity.ERROR, check)

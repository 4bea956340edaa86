"""A model with state may not be answered from the response cache.

The cache knows the inputs of a request, not the state of its sequence, so it would give one
sequence the answer that was meant for another.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield sequence models with a response cache."""
    for model in context.models:
        for file, config in model.parsed:
            if config.response_cache.enable and config.HasField("sequence_batching"):
                yield Hit(
                    file.path,
                    "the response cache would mix up sequences",
                    "remove response_cache",
                    file.line("response_cache"),
                )


RULE = Rule("TR016", "response cache on a sequence model", Severity.ERROR, check)

"""A model that can batch needs a batcher to do it.

`max_batch_size` alone only lets a client send batches; without `dynamic_batching` or
`sequence_batching`, concurrent requests run one after the other.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity, backend_of


def check(context: Context) -> Iterator[Hit]:
    """Yield models that could batch, but do not."""
    for model in context.models:
        for file, config in model.parsed:
            batcher = config.HasField("dynamic_batching") or config.HasField("sequence_batching")
            if config.max_batch_size > 1 and not batcher and backend_of(config) != "ensemble":
                yield Hit(
                    file.path,
                    f"max_batch_size is {config.max_batch_size}, but requests are never batched",
                    "add `dynamic_batching {}`",
                    file.line("max_batch_size"),
                )


RULE = Rule("TR014", "batches are possible, but never made", Severity.WARNING, check)

"""An ensemble should start with one step.

Steps that need no other step's output all start when a request arrives. If one of them fails
before the others have been started, the gRPC frontend of Triton 2.51 can lock up for good: from
then on the server answers nobody. The failure need not be the model's: a shape that the step
does not take is enough.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield ensembles with several first steps."""
    for model in context.models:
        for file, config in model.parsed:
            steps = config.ensemble_scheduling.step
            made = {tensor for step in steps for tensor in step.output_map.values()}
            first = [s.model_name for s in steps if not made & set(s.input_map.values())]
            if len(first) > 1:
                yield Hit(
                    file.path,
                    f"{len(first)} steps start at once: {', '.join(first)}; if one fails, the "
                    "server can lock up",
                    "start with one step that takes every input, and wire the others behind it",
                    file.line("ensemble_scheduling"),
                )


RULE = Rule("TR018", "an ensemble with several first steps", Severity.WARNING, check)

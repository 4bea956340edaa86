"""The steps of an ensemble must name models that are there.

A server refuses the whole ensemble. Give all repositories that the server gets at once
(`builder lint onnx ensemble`), or models of the others count as missing.
"""

from collections.abc import Iterator

from builder.lint.ensembles import problems
from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield steps whose model is nowhere."""
    return problems(context, {"model"}, "correct the name, or build that model")


RULE = Rule("TR007", "ensemble step names an unknown model", Severity.ERROR, check)

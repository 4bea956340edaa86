"""An ensemble cannot loop.

Triton refuses an ensemble whose steps wait for each other, and only says that some tensor is
"not connected" or "unused".
"""

from collections.abc import Iterator

from builder.lint.ensembles import problems
from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield one cycle per ensemble that has any."""
    return problems(context, {"cycle"}, "unroll the loop into one step per turn")


RULE = Rule("TR009", "ensemble steps wait for each other", Severity.ERROR, check)

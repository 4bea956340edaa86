"""Tensor names, data types, dims and batch sizes must fit along the whole ensemble.

Triton compares neighbours when it loads the ensemble, and finds sizes that only meet two stages
later at the first request. Here they are followed through the graph.
"""

from collections.abc import Iterator

from builder.lint.ensembles import problems
from builder.lint.model import Context, Hit, Rule, Severity

_KINDS = {"wiring", "dtype", "dims", "batching"}


def check(context: Context) -> Iterator[Hit]:
    """Yield wires that do not fit."""
    return problems(context, _KINDS, "correct the input_map and output_map of the step")


RULE = Rule("TR008", "ensemble steps do not fit together", Severity.ERROR, check)

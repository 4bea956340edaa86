"""Types and shapes that contradict each other.

The strict inference of ONNX finds what the parser would stumble over: an operator with a missing
input, types that an operator's definition does not allow, sizes that do not fit.
"""

from collections.abc import Iterator

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph
from builder.lint.tensorrt.model import OnnxHit, OnnxRule


def check(graph: OnnxGraph) -> Iterator[OnnxHit]:
    """Yield why types and shapes cannot be inferred."""
    if graph.problem:
        yield OnnxHit(
            "the model",
            f"types and shapes cannot be inferred: {graph.problem}",
            "run onnx.checker.check_model with full_check=True, and correct the export",
        )


RULE = OnnxRule("ON012", "strict inference fails", Severity.ERROR, check)

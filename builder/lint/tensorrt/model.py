"""Rules over one ONNX graph, and what they find."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.lint.model import Severity
from builder.lint.tensorrt.graph import OnnxGraph


@dataclass(frozen=True, slots=True)
class OnnxHit:
    """What a rule found: the node or tensor, what is wrong, and what to do about it."""

    where: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class OnnxRule:
    """One thing that the TensorRT parser does not take.

    Attributes:
        code: `ON` and three digits.
        title: One line that says what the rule finds.
        check: Looks at a graph and yields what it finds.
    """

    code: str
    title: str
    severity: Severity
    check: Callable[[OnnxGraph], Iterator[OnnxHit]]


@dataclass(frozen=True, slots=True, order=True)
class OnnxFinding:
    """Hits of one rule with the same message.

    Attributes:
        where: The first node or tensor.
        count: How many there are.
    """

    path: Path
    code: str
    severity: Severity
    where: str
    message: str
    remedy: str
    count: int = 1

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{self.path} {self.code} {self.where}{more}: {self.message} -> {self.remedy}"

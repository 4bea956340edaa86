"""Rules over any Triton model repository, one module per rule."""

from builder.lint.model import Context, Finding, Hit, Rule, Severity
from builder.lint.runner import all_rules, lint

__all__ = ["Context", "Finding", "Hit", "Rule", "Severity", "all_rules", "lint"]

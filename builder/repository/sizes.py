"""Which sizes are equal, and what that makes them."""

from dataclasses import dataclass, field

from builder.stage import Dim


@dataclass(slots=True)
class Sizes:
    """Union-find over sizes: a variable is (scope, symbol), a class may hold one fixed size."""

    parents: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    fixed: dict[tuple[str, str], int] = field(default_factory=dict)

    def resolve(self, scope: str, dim: Dim) -> int | tuple[str, str]:
        """The fixed size of a dim, or the variable that stands for all that equal it."""
        if isinstance(dim, int):
            return dim
        node = (scope, dim)
        while (parent := self.parents.get(node)) is not None:
            node = parent
        return self.fixed.get(node, node)

    def unify(self, a: tuple[str, Dim], b: tuple[str, Dim]) -> tuple[int, int] | None:
        """Make two dims equal; the two fixed sizes if they cannot be."""
        left, right = self.resolve(*a), self.resolve(*b)
        if left == right:
            return None
        if isinstance(left, int) and isinstance(right, int):
            return left, right
        if isinstance(left, tuple):
            left, right = right, left
        assert isinstance(right, tuple)
        if isinstance(left, int):
            self.fixed[right] = left
        else:
            self.parents[right] = left
        return None

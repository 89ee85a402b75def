"""The two kinds of facts in a problem of the reasoning world: a given number, and a step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Leaf:
    """A quantity with a given value: "The lions number 3."."""
    name: str
    value: int


@dataclass(frozen=True)
class Step:
    """A quantity that is computed: left op right = target value. An operand is the name of a quantity or an int constant."""
    target: str
    op: str
    left: str | int
    right: str | int
    value: int

    def normal(self) -> tuple:
        """The step without its value, the same for a + b and b + a."""
        pair = (str(self.left), str(self.right))
        return self.op, pair if self.op == "-" else tuple(sorted(pair))

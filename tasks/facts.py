"""The two kinds of facts that a problem of the reasoning world is made of: a number that is given, and a step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Leaf:
    """A quantity whose value is given: "The lions number 3."."""
    name: str
    value: int


@dataclass(frozen=True)
class Step:
    """A quantity that is computed: left op right = target value. An operand is a quantity's name or an int constant."""
    target: str
    op: str
    left: str | int
    right: str | int
    value: int

    def normal(self) -> tuple:
        """The step without its value, the same for a + b and b + a."""
        pair = (str(self.left), str(self.right))
        return self.op, pair if self.op == "-" else tuple(sorted(pair))

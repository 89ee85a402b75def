"""How a solution of the reasoning world is written out: short, or long.

Short is one line for each step. Long thinks aloud, like a long chain of thought. For each step it restates the facts
that the step uses, computes, and checks the result; now and then it takes a wrong turn, notices, takes the step back and does it
again:

    The lions number 3. The owls number the lions plus 4.
    lions 3 + 4 = owls 8                                      a wrong turn
    Check: 8 - 4 = 4, no.
    No, owls 8 is wrong.                                      the step is taken back
    lions 3 + 4 = owls 7
    Check: 7 - 4 = 3, yes.
    Answer: 7

A sum or a difference is checked by its inverse, which must give the first operand; a product by the product the other way
round, which must give the result. A wrong turn is a slip (another result, which the check finds) or a misreading (another
operation, found by reading the fact again). tasks/verify.py reads both styles.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from tasks.facts import Leaf, Step
from tasks.graph import COMPUTE
from tasks.words import fact_text, step_text

STYLES = ("short", "long")
INVERSE = {"+": "-", "-": "+"}


class Numbers:
    """Which numbers a world has: those below its modulus, or without one those from 0 to max_value."""

    def __init__(self, modulus: int, max_value: int):
        self.modulus, self.most = modulus, modulus - 1 if modulus else max_value

    def compute(self, op: str, a: int, b: int) -> int | None:
        """a op b; None where that is no number of the world."""
        value = COMPUTE[op](a, b)
        value = value % self.modulus if self.modulus else value
        return value if 0 <= value <= self.most else None

    def near(self, value: int) -> list[int]:
        """Other numbers that one may slip to: up to 3 away."""
        return [n for n in range(max(0, value - 3), min(self.most, value + 3) + 1) if n != value]


def value_of(operand: str | int, values: dict[str, int]) -> int:
    return operand if isinstance(operand, int) else values[operand]


def long_lines(facts: Sequence[Leaf | Step], steps: Sequence[Step], values: dict[str, int], numbers: Numbers, operators: str,
               turns: float, rng: random.Random) -> list[str]:
    """The lines of the long style, without the answer's.

    facts       of the question
    steps       to write, in order; `values` of all quantities, as these steps have them
    operators   of the world, one of which may be misread for another
    turns       the chance of a wrong turn at a step
    """
    leaves = {fact.name: fact for fact in facts if isinstance(fact, Leaf)}
    behind = {frozenset((fact.target, fact.left, fact.right)): fact for fact in facts if isinstance(fact, Step)}
    lines, restated = [], set()
    for step in steps:
        # a step of a reversed problem is solved for another member of the fact that it comes from
        fact = fact_text(behind[frozenset((step.target, step.left, step.right))])
        used = [x for x in (step.left, step.right) if x in leaves and x not in restated]
        restated.update(used)
        lines.append(" ".join([*(fact_text(leaves[name]) for name in used), fact]))
        if rng.random() < turns:
            lines += _wrong_turn(step, fact, values, numbers, operators, rng)
        # the check of a step that stands says yes; of a wrong step, in a text of low quality, it is a false check
        found = step.value if step.op == "*" else value_of(step.left, values)
        lines += [step_text(step, values), _check(step, values, found, "yes")]
    return lines


def _check_sum(step: Step, values: dict[str, int]) -> tuple[str, int, int]:
    """What is computed to check a step: (operation, left, right)."""
    a, b = value_of(step.left, values), value_of(step.right, values)
    return ("*", b, a) if step.op == "*" else (INVERSE[step.op], step.value, b)


def _check(step: Step, values: dict[str, int], found: int, verdict: str) -> str:
    op, left, right = _check_sum(step, values)
    return f"Check: {left} {op} {right} = {found}, {verdict}."


def _wrong_turn(step: Step, fact: str, values: dict[str, int], numbers: Numbers, operators: str,
                rng: random.Random) -> list[str]:
    """The lines of a wrong turn, up to where the step is done again; none where there is no number to be wrong with."""
    a, b = value_of(step.left, values), value_of(step.right, values)
    misread = [replace(step, op=op, value=value) for op in operators
               if op != step.op and (value := numbers.compute(op, a, b)) not in (None, step.value)]
    slips = [slip for value in numbers.near(step.value)
             if numbers.compute(*_check_sum(slip := replace(step, value=value), values)) is not None]
    if misread and (not slips or rng.random() < 0.5):
        wrong = rng.choice(misread)
        return [step_text(wrong, values), _taken_back(wrong), fact]
    if slips:
        wrong = rng.choice(slips)
        check = _check(wrong, values, numbers.compute(*_check_sum(wrong, values)), "no")
        return [step_text(wrong, values), check, _taken_back(wrong)]
    return []


def _taken_back(step: Step) -> str:
    return f"No, {step.target} {step.value} is wrong."

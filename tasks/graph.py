"""Makes the random graph of a problem of the reasoning world: leaves have a given number, steps compute a number.

The order of the random numbers must not change: with another order all problems would be different.
"""

import random
from typing import Any

from tasks.facts import Leaf, Step

COMPUTE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


class Graph:
    """The quantities of a problem and their relations, while they are made.

    - facts: in an order in which each can be computed from the ones before it, until they are shuffled.
    - steps: the steps that solve the problem.
    - ends: the quantities that no step uses yet. Only one is left at the end, so the answer needs every step."""

    def __init__(self, world: Any, rng: random.Random, names: list[str]):
        self.world, self.rng, self.random, self.names = world, rng, rng.random, names
        self.facts, self.steps, self.values, self.ends, self.asked = [], [], {}, [], ""

    @classmethod
    def draw(cls, world: Any, rng: random.Random, ops: int, context: str) -> "Graph | None":
        """A graph with this number of operations, or None if the random numbers give no valid graph."""
        extra = world.distractors[int(rng.random() * len(world.distractors))]
        graph = cls(world, rng, rng.sample(world.names[context], 2 * ops + 1 + extra))
        for left_over in range(ops - 1, -1, -1):          # the number of steps after this one
            if not graph.add_step(left_over):
                return None
        graph.asked = graph.ends[0]
        graph.steps = [fact for fact in graph.facts if isinstance(fact, Step)]
        if world.reverse and rng.random() < world.reverse and not graph.reverse():
            return None
        if not graph.add_distractors(extra):
            return None
        if world.order == "shuffled":
            rng.shuffle(graph.facts)
        return graph

    def key(self, context: str, modulus: int) -> str:
        """A text that identifies the problem, without its wording and the order of its facts. Its hash decides the split."""
        facts = [(fact.name, fact.value) if isinstance(fact, Leaf) else (fact.target, fact.op, fact.left, fact.right)
                 for fact in self.facts]
        return f"{context}|{modulus}|{self.asked}|{sorted(map(str, facts))}"

    def leaf(self) -> str:
        """A new quantity with a given number."""
        name = self.names.pop()
        self.values[name] = int(self.random() * (self.world.modulus or self.world.given + 1))
        self.facts.append(Leaf(name, self.values[name]))
        return name

    def operand(self, used: str) -> str | int:
        """The second operand of a step: a constant, a new leaf, or sometimes an earlier quantity."""
        x = self.random()
        if x < 0.4:
            return 1 + int(self.random() * ((self.world.modulus or self.world.given + 1) - 1))
        if x < 0.55 and len(self.values) > 1:
            name = list(self.values)[int(self.random() * len(self.values))]
            return name if name != used else self.leaf()
        return self.leaf()

    def step(self, left: str, right: str | int) -> str | None:
        """A new quantity, computed from two operands; None if no operator gives a number in range."""
        name, a, b = self.names.pop(), self.value_of(left), self.value_of(right)
        for op in self.rng.sample(self.world.operators, len(self.world.operators)):
            value = COMPUTE[op](a, b)
            if self.world.modulus:
                value %= self.world.modulus
            if self.world.modulus or 0 <= value <= self.world.max_value:
                self.values[name] = value
                self.facts.append(Step(name, op, left, right, value))
                return name
        return None

    def value_of(self, operand: str | int) -> int:
        return operand if isinstance(operand, int) else self.values[operand]

    def add_step(self, left_over: int) -> bool:
        """Adds a step, which joins two open ends, starts a second line of reasoning, or continues an end. left_over: the number
        of steps after it. False if that is not possible."""
        ends, must_join = self.ends, len(self.ends) - 1 > left_over
        x = self.random()
        if must_join or (len(ends) > 1 and x < 0.3):
            a = ends.pop(int(self.random() * len(ends)))
            made = self.step(a, ends.pop(int(self.random() * len(ends))))
        elif not ends or (len(ends) <= left_over and x > 1 - self.world.branch):
            a = self.leaf()
            made = self.step(a, self.operand(a))
        else:
            a = ends.pop(int(self.random() * len(ends)))
            made = self.step(a, self.operand(a))
        if made is None:
            return False
        last = self.facts[-1]
        self.ends = [end for end in ends if end not in (last.left, last.right)]     # the operand may have been an open end
        self.ends.append(made)
        return True

    def add_distractors(self, count: int) -> bool:
        """Adds facts that the answer does not need: a leaf, or a step from an earlier quantity. False if that is not possible."""
        needed = list(self.facts)
        for _ in range(count):
            if self.random() < 0.5:
                self.leaf()
            elif self.step(list(self.values)[int(self.random() * len(self.values))], 1 + int(self.random() * 8)) is None:
                return False
            if self.facts[-1] is not needed[-1]:
                needed.insert(1 + int(self.random() * len(needed)), self.facts.pop())
        self.facts = needed
        return True

    def reverse(self) -> bool:
        """Reverses the problem: hides one leaf, gives the value of the last quantity, and asks for the leaf.

        There must be only one path from the leaf to the last quantity. Each step on it is inverted (d = a + b gives a = d - b),
        so the number of operations stays the same. False if no leaf has such a path."""
        used_by = {}
        for step in self.steps:
            for operand in (step.left, step.right):
                used_by.setdefault(operand, []).append(step)
        leaves = [fact for fact in self.facts if isinstance(fact, Leaf)]
        self.rng.shuffle(leaves)
        for hidden in leaves:
            path, name = [], hidden.name
            while name != self.asked and len(used_by.get(name, ())) == 1 and used_by[name][0].op in "+-":
                path.append(used_by[name][0])
                name = path[-1].target
            if name == self.asked:
                break
        else:
            return False
        inverse, known = [], hidden.name
        for step in path:                                 # from the leaf to the last quantity; the solution goes the other way
            other = step.right if step.left == known else step.left
            if step.op == "+":
                inverse.append(Step(known, "-", step.target, other, self.values[known]))
            elif step.left == known:
                inverse.append(Step(known, "+", step.target, other, self.values[known]))
            else:
                inverse.append(Step(known, "-", other, step.target, self.values[known]))
            known = step.target
        on_path = {step.target for step in path}
        self.facts = [fact for fact in self.facts if fact is not hidden] + [Leaf(self.asked, self.values[self.asked])]
        self.steps = [step for step in self.steps if step.target not in on_path] + inverse[::-1]
        self.asked = hidden.name
        return True

"""Draws the graph of a problem of the reasoning world: leaves, which have a number, and steps, which compute one.

The order of the random draws is part of what a world is: with another order every problem would be another one.
"""

import random

from tasks.facts import Leaf, Step

COMPUTE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


class Graph:
    """The quantities of a problem and how they hang together, while they are drawn.

    `facts` stand in an order in which each can be computed from the ones before it, until they are shuffled; `steps` are those
    that solve the problem; `ends` are the quantities that nothing uses yet: one is left at the end, so the answer needs every
    step."""

    def __init__(self, world, rng: random.Random, names: list[str]):
        self.world, self.rng, self.random, self.names = world, rng, rng.random, names
        self.facts, self.steps, self.values, self.ends, self.asked = [], [], {}, [], ""

    @classmethod
    def draw(cls, world, rng: random.Random, ops: int, context: str) -> "Graph | None":
        """A graph of that many operations, or None where the draw cannot be used."""
        extra = world.distractors[int(rng.random() * len(world.distractors))]
        graph = cls(world, rng, rng.sample(world.names[context], 2 * ops + 1 + extra))
        for left_over in range(ops - 1, -1, -1):          # steps still to come after this one
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
        """What the problem is, whatever its wording and the order of its facts. Its hash decides on the split."""
        facts = [(fact.name, fact.value) if isinstance(fact, Leaf) else (fact.target, fact.op, fact.left, fact.right)
                 for fact in self.facts]
        return f"{context}|{modulus}|{self.asked}|{sorted(map(str, facts))}"

    def leaf(self) -> str:
        """A new quantity with a number."""
        name = self.names.pop()
        self.values[name] = int(self.random() * (self.world.modulus or 10))
        self.facts.append(Leaf(name, self.values[name]))
        return name

    def operand(self, used: str) -> str | int:
        """The second operand of a step: a constant, a new leaf, or now and then an earlier quantity."""
        x = self.random()
        if x < 0.4:
            return 1 + int(self.random() * ((self.world.modulus or 10) - 1))
        if x < 0.55 and len(self.values) > 1:
            name = list(self.values)[int(self.random() * len(self.values))]
            return name if name != used else self.leaf()
        return self.leaf()

    def step(self, left: str, right: str | int) -> str | None:
        """A new quantity, computed from two; None where no operator keeps the number in range."""
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
        """Adds a step: it joins two open ends, begins a second line of reasoning, or goes on with an end. left_over: steps that
        come after it. False where that cannot be done."""
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
        """Adds facts that the answer does not need: a leaf, or a step on an earlier quantity. False where that cannot be done."""
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
        """Turns the problem round: hides one leaf, gives the last quantity, and solves for the leaf.

        Along the only path from the leaf to the last quantity each step is inverted (d = a + b gives a = d - b), so the
        number of operations stays the same. False if no leaf has such a path."""
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
        for step in path:                                 # from the leaf up; solved from the top down
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

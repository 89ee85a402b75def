"""A teacher without a model: it writes the world's own solutions, as wrong as you like.

    --init oracle:errors=0.2                 each step is wrong with this chance, and so is all that follows from it
    --init oracle:rationalise=0.3            this share of the other answers has a wrong step and right results
    --init oracle:errors=0.2,style=long      other options are the world's, in place of those of --data; only words may change

So the quality of a teacher is a variable, which costs no FLOPs. It can answer about problems of the world alone. What it writes
depends on what a transform asks for (Ask.oracle):

    solution       the steps, then "Answer: N"; in a chat the steps stand in a think block
    thinking       the steps alone
    document       question and solution in the words of the options
"""

import dataclasses
import random
import re
from collections import Counter
from collections.abc import Sequence

from tasks.graph import COMPUTE
from tasks.styles import value_of
from tasks.task import Reply
from tasks.world import World, WorldProblem
from transforms import Ask, Item
from transforms.parts import turns

OWN = ("errors", "rationalise")
TOKEN = re.compile(r"\w+|[^\w\s]")                        # an oracle has no tokenizer: a word or a sign counts as one


class Oracle:
    """An oracle:... teacher. ValueError for a SPEC that is not known."""

    def __init__(self, spec: str, seed: int):
        self.name, self.seed, self.worlds = spec, seed, {}
        parts = [part.partition("=") for part in spec.removeprefix("oracle:").split(",") if part]
        options = {key: value for key, _, value in parts}
        if len(options) < len(parts) or not all(eq for _, eq, _ in parts):
            raise ValueError(f"{spec}: use oracle:OPTION=VALUE,... with each option once")
        self.errors, self.rationalise = (self._share(options, name) for name in OWN)
        self.options = {key: value for key, value in options.items() if key not in OWN}

    def _share(self, options, name):
        given = options.get(name, "0")
        try:
            share = float(given)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ValueError(f"{self.name}: {name}={given}: use a number from 0 to 1")
        return share

    def length(self, text: str) -> int:
        """Of a document, for cutting it: problems of the world are never cut."""
        return 0

    def answer(self, asked: Sequence[tuple[Item, int, Ask]], round: int) -> tuple[list[list[Reply]], Counter]:
        """As Checkpoint.answer (transforms/parts/teachers.py); it costs nothing."""
        return [self._replies(item, ask, f"{round}/{number}") for item, number, ask in asked], Counter()

    def _replies(self, item: Item, ask: Ask, salt: str) -> list[Reply]:
        problem, replies = self._in_my_words(item), []
        chat = not isinstance(ask.prompt, str)
        for sample in range(ask.n):
            rng = random.Random(f"{self.name}/{self.seed}/{salt}/{item.number}/{sample}")
            solution = problem.solution
            wrong = [step.target for step in problem.steps if rng.random() < self.errors]
            if wrong:
                solution = with_errors(problem, wrong, rng)
            elif rng.random() < self.rationalise:
                solution = with_one_error(problem, solution, rng)
            reasoning, _, last = solution.rpartition("\n")
            text = {"solution": turns.text_of(reasoning, last) if chat else solution, "thinking": reasoning,
                    "document": f"{problem.question}\n{solution}"}[ask.oracle]
            for stop in ask.stop:
                text = text.partition(stop)[0]
            replies.append(Reply(text, len(TOKEN.findall(text)), thinking=chat, sample=sample))
        return replies

    def _in_my_words(self, item: Item) -> WorldProblem:
        """The item's problem, as the world with this oracle's options tells it; of a document with errors, the true one."""
        if item.problem is None or not isinstance(item.problem.task, World):
            raise ValueError(f"{self.name}: an oracle knows the answers of world:... alone; the data is {item.source or 'none'}")
        if not self.options:
            return item.problem.task.problem(item.index) if item.problem.task.errors else item.problem
        if item.source not in self.worlds:
            options = [part for part in item.source.removeprefix("world:").split(",") if part]
            kept = [part for part in options if part.partition("=")[0] not in self.options]
            self.worlds[item.source] = World.from_spec(",".join(kept + [f"{k}={v}" for k, v in self.options.items()]))
        problem = self.worlds[item.source].problem(item.index)
        if (problem.answer, problem.steps) != (item.problem.answer, item.problem.steps):
            raise ValueError(f"{self.name}: with these options the world has other problems than {item.source}; give it only "
                             "those that change the words")
        return problem


def with_errors(problem: WorldProblem, wrong: list[str], rng: random.Random) -> str:
    """The solution with a wrong result for each quantity in `wrong`, and all that follows from it, to the answer."""
    world, values, steps = problem.task, dict(problem.values), []
    for step in problem.steps:
        value = COMPUTE[step.op](value_of(step.left, values), value_of(step.right, values))
        value = value % problem.modulus if problem.modulus else value
        values[step.target] = rng.choice(world.numbers.near(value) or [value + 1]) if step.target in wrong else value
        steps.append(dataclasses.replace(step, value=values[step.target]))
    return world.write(problem, (steps, values, steps[-1].value))


def with_one_error(problem: WorldProblem, text: str, rng: random.Random) -> str:
    """The text with a wrong number for an operand in the line of one step. All results are right, and so is the answer: the steps
    do not lead to it, they are written around it."""
    step = rng.choice(problem.steps)
    name = next(x for x in (step.left, step.right) if isinstance(x, str))
    told, value = problem.values[name], rng.choice(problem.task.numbers.near(problem.values[name]))
    line = re.compile(rf"(?m)^(.*)\b{re.escape(name)} {told}\b(.*= {re.escape(step.target)} {step.value}\b)")
    return line.sub(rf"\g<1>{name} {value}\g<2>", text, count=1)

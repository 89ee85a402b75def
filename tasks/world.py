"""The reasoning world: word problems that are dependency graphs, with solutions that can be checked step by step.

A problem is a graph of quantities. Leaves have a given number. Every other quantity is the result of one arithmetic operation on
two earlier ones, or on an earlier one and a constant. The question asks for the last one. The number of operations is the depth
of the problem; the *context* (zoo, school, film festival, market) only gives the words. So difficulty and wording can be
controlled separately, as in "On the Interplay of Pre-Training, Mid-Training, and RL" (arXiv 2512.07783, appendix A):

    Zoo, mod 10. The lions number 3. The owls number the lions plus 4. The bears number the owls times the lions.
    How many bears?
    lions 3 + 4 = owls 7
    owls 7 * lions 3 = bears 1
    Answer: 1

Show some problems, or measure the speed of the generator:

    python -m tasks.world --data world:ops=1-4,contexts=zoo+market --show 3
    python -m tasks.world --data world:tiny,ops=2,style=long,errors=0.5 --show 4
    python -m tasks.world --data world:ops=3 --time 2

Options that do not change the questions: how a solution is written (style=long, tasks/styles.py), how many documents have an
error (errors=0.1, tasks/noise.py), the form of documents (format=qa), and whether a reply in a chat may call a calculator
(calls=4, tasks/tools.py). With numbers of several digits (modulus=0,given=99,max_value=999) it needs one.

Simpler than the paper:
- a step is one line with at most two named operands (no scratch letters);
- reverse questions use only plus and minus;
- a problem always has the wanted number of operations, so none is rejected for it.
"""

import hashlib
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from tasks import show
from tasks.facts import Leaf, Step
from tasks.graph import Graph
from tasks.noise import Told, spoil
from tasks.options import need, read_options
from tasks.styles import STYLES, Numbers, long_lines
from tasks.task import FORMATS, Problem, Reply, Task
from tasks.tools import Toolbox, call_in, calls_of, messages_with_calls
from tasks.verdict import Verdict
from tasks.verify import ANSWER, LINE, REMARK, final_answer, step_lines, verify
from tasks.words import CONTEXTS, OPERATORS, PLACES, SAY_LEAF, question_text, solution_lines

# The range of hash values (0 to 99) of each split, so no problem is in two splits.
SPLITS = {"pretrain": (0, 60), "midtrain": (60, 70), "sft": (70, 75), "rl": (75, 88), "dev": (88, 90), "test": (90, 100)}
# Options that go together: world:tiny,ops=1-3. Very small models learn this one quickly.
PRESETS = {"tiny": "contexts=zoo,modulus=0,max_value=9,branch=0"}


@dataclass
class WorldProblem(Problem):
    """A problem of the world. `solution` has the steps, one per line, then "Answer: N" (with solution=0 only that line)."""
    ops: int = 0                     # number of operations = number of steps
    context: str = ""
    steps: tuple[Step, ...] = field(repr=False, default=())
    values: dict[str, int] = field(repr=False, default_factory=dict)   # of all quantities
    modulus: int = 0
    facts: tuple[Leaf | Step, ...] = field(repr=False, default=())     # as the question has them
    key: str = field(repr=False, default="")                           # what it is, whatever its wording and order

    @property
    def reasoning(self) -> str:
        """The solution without its last line: the content of a think block."""
        return self.solution.rpartition("\n")[0]


@dataclass(eq=False)
class World(Task):
    """An endless, seeded source of problems: `world.problem(i)` is a pure function of the options and i. The fields are the
    options of a SPEC; those with a range or with shares become lists. ValueError for wrong options."""
    ops: str | list[int] = "1-4"     # depth: "3", or "1-4" (each depth equally often)
    contexts: str | list[str] = "zoo+school+festival+market"    # with shares: "zoo:3+school:1"
    operators: str = "+-*"           # any of + - *
    modulus: int = 10                # numbers are counted modulo this; 0: plain numbers from 0 to max_value
    max_value: int = 99
    given: int = 9                   # without a modulus: the largest number that a fact gives
    distractors: str | list[int] = "0"    # facts that the answer does not need: "2", or "0-3"
    order: str = "given"             # facts as they are needed ("given") or "shuffled"
    reverse: float = 0.0             # share of problems with one leaf unknown and the last quantity given
    paraphrase: int = 1              # number of ways in which each fact may be written, 1 to 4
    branch: float = 0.15             # chance that a step starts a second line of reasoning, which is joined later (0: a chain)
    places: int = 0                  # 1: quantities have a kind and a place ("lions in Oak Park"), needed beyond 20 operations
    solution: int = 1                # 0: documents have only the question and the answer
    split: str = ""                  # pretrain, midtrain, sft, rl, dev or test; "": all
    seed: int = 0                    # another seed gives other problems
    style: str | list[str] = "short"      # how solutions are written: short, long, or hybrid, which is short+long; "short:3+long"
    turns: float = 0.1               # of the long style: the chance of a wrong turn, taken back, at each step
    errors: float = 0.0              # share of documents with a wrong step that stands, or a wrong answer
    format: str = "plain"            # documents: "plain", "qa" (question and solution are marked) or "chat" (with a think block)
    calls: int = 0                   # in a chat: how often a reply may call the calculator; solutions call it at each step then
    needless: float = 0.0            # of solutions with calls: the chance that a call is made a second time

    count = None
    has_steps = True

    def __post_init__(self):
        ops, distractors = self.ops, self.distractors
        self.ops, self.distractors = _range("ops", ops, 1), _range("distractors", distractors, 0)
        self.contexts, self.shares = _shares("context", self.contexts, CONTEXTS)
        self.style, self.style_shares = _shares("style", "short+long" if self.style == "hybrid" else self.style, STYLES)
        need(self.operators and set(self.operators) <= set(OPERATORS), f"operators={self.operators}: use any of + - *")
        need(self.modulus == 0 or self.modulus >= 2, f"modulus={self.modulus}: use 0 (none) or at least 2")
        need(self.modulus or self.max_value >= 9, f"max_value={self.max_value}: use at least 9")
        need(0 < self.given <= self.max_value and (not self.modulus or self.given == 9),
             f"given={self.given}: without a modulus use 1 to max_value, with one leave it out")
        need(self.order in ("given", "shuffled"), f"order={self.order}: use given or shuffled")
        need(0 <= self.reverse <= 1 and 0 <= self.branch <= 1, "reverse and branch are shares: use 0 to 1")
        need(self.reverse == 0 or set(self.operators) & {"+", "-"}, "reverse questions need + or - among the operators")
        need(1 <= self.paraphrase <= len(SAY_LEAF), f"paraphrase={self.paraphrase}: use 1 to {len(SAY_LEAF)}")
        need(self.places in (0, 1) and self.solution in (0, 1), "places and solution: use 0 or 1")
        need(0 <= self.turns <= 1 and 0 <= self.errors <= 1, "turns and errors are shares: use 0 to 1")
        need(self.calls >= 0 and 0 <= self.needless <= 1, "calls is a number from 0 up, needless a share from 0 to 1")
        need(self.calls and self.solution or not self.needless, "needless=...: needs calls=N, and solutions with steps")
        need(self.format in FORMATS, f"format={self.format}: use one of {', '.join(FORMATS)}")
        need(self.split == "" or self.split in SPLITS, f"split={self.split}: use one of {', '.join(SPLITS)}")
        names = 32 * (len(PLACES) if self.places else 1)
        most = 2 * max(self.ops) + 1 + max(self.distractors)
        need(names >= most, f"ops={ops} with distractors={distractors} may need {most} names, there are {names}: " +
             ("use fewer" if self.places else "use places=1"))
        self.names = {}
        for context in self.contexts:
            kinds = CONTEXTS[context][1].split()
            self.names[context] = [f"{kind} in {place}" for place in PLACES for kind in kinds] if self.places else kinds
        self.low, self.high = SPLITS.get(self.split, (0, 100))
        self.numbers = Numbers(self.modulus, self.max_value)
        self.tools = Toolbox(most=self.calls) if self.calls else None

    @classmethod
    def from_spec(cls, spec: str) -> "World":
        """World from "ops=1-4,contexts=zoo+school" (a leading "world:" is dropped); ValueError for unknown options."""
        world = cls(**read_options(spec, cls, PRESETS))
        world.source = f"world:{spec.removeprefix('world:')}"
        return world

    def __iter__(self) -> Iterator[WorldProblem]:
        i = 0
        while True:
            yield self.problem(i)
            i += 1

    def problem(self, i: int) -> WorldProblem:
        """The i-th problem of this world. Problems that are invalid or of another split are made again."""
        rng = random.Random((self.seed << 44) ^ i)
        ops = self.ops[int(rng.random() * len(self.ops))]
        context = rng.choices(self.contexts, self.shares)[0] if len(self.contexts) > 1 else self.contexts[0]
        for _ in range(100_000):
            graph = Graph.draw(self, rng, ops, context)
            if graph is not None and self.low <= bucket(key := graph.key(context, self.modulus)) < self.high:
                return self._in_words(graph, rng, ops, context, key)
        raise ValueError(f"world: 100,000 draws gave no problem of {ops} operations; raise max_value, or use other operators, "
                         "fewer distractors or a modulus")

    def _in_words(self, graph: Graph, rng: random.Random, ops: int, context: str, key: str) -> WorldProblem:
        pick = (lambda: 0) if self.paraphrase == 1 else (lambda: rng.randrange(self.paraphrase))
        question = question_text(graph.facts, graph.asked, context, self.modulus, pick)
        answer = graph.values[graph.asked]
        problem = WorldProblem(question, str(answer), "", self, ops, context, tuple(graph.steps), graph.values, self.modulus,
                          tuple(graph.facts), key, domain=context)
        problem.solution = self.write(problem, (graph.steps, graph.values, answer))
        return problem

    def write(self, problem: WorldProblem, told: Told, style: str = "") -> str:
        """The steps in the style, then the answer. What is drawn for it depends on the problem alone (its key)."""
        (steps, values, answer), lines = told, []
        if self.solution:
            rng = None if self.style == ["short"] else random.Random(f"style|{problem.key}")
            drawn = rng.choices(self.style, self.style_shares)[0] if rng else "short"
            style = style or drawn
            lines = (solution_lines(steps, values) if style == "short" else
                     long_lines(problem.facts, steps, values, self.numbers, self.operators, self.turns, rng))
        return "\n".join([*lines, f"Answer: {answer}"])

    def longest(self, problem: WorldProblem) -> str:
        """The solution in the longest of the world's styles: what a reply needs room for."""
        told = problem.steps, problem.values, int(problem.answer)
        return self.write(problem, told, "long") if "long" in self.style else problem.solution

    # documents

    def told(self, problem: WorldProblem) -> Told:
        """Steps, values and answer as a document has them: right, but for a share `errors` of the problems. A problem that is
        spoiled at errors=0.1 is so at errors=0.3, in the same way."""
        rng = random.Random(f"errors|{problem.key}") if self.errors else None
        if rng and rng.random() < self.errors:
            return spoil(problem.steps, problem.values, self.numbers, rng, bool(self.solution))
        return problem.steps, problem.values, int(problem.answer)

    def lesson(self, i: int) -> WorldProblem:
        """Problem i with the solution that documents have. Its steps, values and answer are the true ones."""
        problem = self.problem(i)
        return replace(problem, solution=self.write(problem, self.told(problem))) if self.errors else problem

    def reply(self, problem: WorldProblem) -> tuple[str, str]:
        working, _, said = problem.solution.rpartition("\n")
        return working, said

    def messages(self, problem: WorldProblem) -> list[dict]:
        if not self.calls:
            return super().messages(problem)
        rng = random.Random(f"calls|{problem.key}")
        return messages_with_calls(problem.solution, LINE, self.calls, lambda: rng.random() < self.needless)

    def useful_calls(self, problem: WorldProblem) -> list[str]:
        return calls_of(problem.steps, problem.values)

    def prompt(self, problem: WorldProblem, mode: str) -> str | list[dict]:
        if mode == "plain" and self.format == "qa":
            return f"Question: {problem.question}\nSolution:\n"
        return super().prompt(problem, mode)

    def verify(self, problem: WorldProblem, text: str) -> Verdict:
        """Checks a completion against the problem's graph (see tasks/verify.py)."""
        return verify(problem, text)

    # as a task (tasks/task.py)

    def grade(self, problem: WorldProblem, reply: Reply) -> Verdict:
        return verify(problem, reply.text)

    def answer_in(self, text: str) -> str | None:
        """The number on the last "Answer:" line."""
        return final_answer(text)

    def steps_in(self, text: str) -> list[str]:
        """The lines that compute something."""
        return step_lines(text)

    def well_formed(self, text: str, thinking: bool) -> bool:
        """One "Answer: N" line, at the end. Without a think block there may be only steps before it (in the long style also the
        remarks between them)."""
        *before, last = [line for line in text.split("\n") if line.strip() and not (self.calls and call_in(line))] or [""]
        remarks = "long" in self.style
        fits = ANSWER.search(last) and (
            thinking or all(LINE.search(line) or (remarks and REMARK.search(line)) for line in before))
        return bool(fits) and len(ANSWER.findall(text)) == 1


def bucket(key: str) -> int:
    """The hundredth of all things that one belongs to; SPLITS shares them out."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100


def _range(name: str, text: str, least: int) -> list[int]:
    """"3" or "1-4" -> the list of whole numbers."""
    low, dash, high = str(text).partition("-")
    need(all(part.isdecimal() and len(part) < 5 for part in ([low, high] if dash else [low])),
         f"{name}={text}: use a number or a range such as 1-4")
    low, high = int(low), int(high or low)
    need(least <= low <= high, f"{name}={text}: use a range that rises from at least {least}")
    return list(range(low, high + 1))


def _shares(what: str, text: str, known: Collection[str]) -> tuple[list[str], list[float]]:
    """"zoo:3+school" -> (["zoo", "school"], [3.0, 1.0])."""
    names, shares = [], []
    for part in text.split("+"):
        name, colon, share = part.partition(":")
        need(name in known, f"{what} {name!r} is not known: use {'+'.join(known)}")
        need(not colon or (share.replace(".", "", 1).isdecimal() and float(share) > 0),
             f"{what} {text}: {share!r} is not a share above 0")
        names.append(name)
        shares.append(float(share or 1))
    return names, shares


def main() -> None:
    show.main("Show problems of the reasoning world, or measure its generator.", World.from_spec, "world:ops=1-4")


if __name__ == "__main__":
    main()

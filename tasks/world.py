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
    python -m tasks.world --data world:ops=3 --time 2

Simpler than the paper:
- a step is one line with at most two named operands (no scratch letters);
- reverse questions use only plus and minus;
- a problem always has the wanted number of operations, so none is rejected for it.
"""

import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from tasks.facts import Step
from tasks.graph import Graph
from tasks.task import Problem, Reply, Task
from tasks.verdict import Verdict
from tasks.verify import ANSWER, LINE, final_answer, verify
from tasks.words import CONTEXTS, OPERATORS, PLACES, SAY_LEAF, question_text, solution_lines
from training import cli

# The range of hash values (0 to 99) of each split, so no problem is in two splits.
SPLITS = {"pretrain": (0, 60), "midtrain": (60, 70), "sft": (70, 75), "rl": (75, 88), "dev": (88, 90), "test": (90, 100)}


@dataclass
class WorldProblem(Problem):
    """A problem of the world. `solution` has the steps, one per line, then "Answer: N" (with solution=0 only that line)."""
    ops: int = 0                     # number of operations = number of steps
    context: str = ""
    steps: tuple[Step, ...] = field(repr=False, default=())
    values: dict[str, int] = field(repr=False, default_factory=dict)   # of all quantities
    modulus: int = 0

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
    distractors: str | list[int] = "0"    # facts that the answer does not need: "2", or "0-3"
    order: str = "given"             # facts as they are needed ("given") or "shuffled"
    reverse: float = 0.0             # share of problems with one leaf unknown and the last quantity given
    paraphrase: int = 1              # number of ways in which each fact may be written, 1 to 4
    branch: float = 0.15             # chance that a step starts a second line of reasoning, which is joined later (0: a chain)
    places: int = 0                  # 1: quantities have a kind and a place ("lions in Oak Park"), needed beyond 20 operations
    solution: int = 1                # 0: documents have only the question and the answer
    split: str = ""                  # pretrain, midtrain, sft, rl, dev or test; "": all
    seed: int = 0                    # another seed gives other problems

    count = None
    has_steps = True

    def __post_init__(self):
        ops, distractors = self.ops, self.distractors
        self.ops, self.distractors = _range("ops", ops, 1), _range("distractors", distractors, 0)
        self.contexts, self.shares = _shares(self.contexts)
        _need(self.operators and set(self.operators) <= set(OPERATORS), f"operators={self.operators}: use any of + - *")
        _need(self.modulus == 0 or self.modulus >= 2, f"modulus={self.modulus}: use 0 (none) or at least 2")
        _need(self.modulus or self.max_value >= 9, f"max_value={self.max_value}: use at least 9")
        _need(self.order in ("given", "shuffled"), f"order={self.order}: use given or shuffled")
        _need(0 <= self.reverse <= 1 and 0 <= self.branch <= 1, "reverse and branch are shares: use 0 to 1")
        _need(self.reverse == 0 or set(self.operators) & {"+", "-"},
              "reverse questions need + or - among the operators")
        _need(1 <= self.paraphrase <= len(SAY_LEAF), f"paraphrase={self.paraphrase}: use 1 to {len(SAY_LEAF)}")
        _need(self.places in (0, 1) and self.solution in (0, 1), "places and solution: use 0 or 1")
        _need(self.split == "" or self.split in SPLITS, f"split={self.split}: use one of {', '.join(SPLITS)}")
        names = 32 * (len(PLACES) if self.places else 1)
        most = 2 * max(self.ops) + 1 + max(self.distractors)
        _need(names >= most, f"ops={ops} with distractors={distractors} may need {most} names, there are {names}: " +
              ("use fewer" if self.places else "use places=1"))
        self.names = {}
        for context in self.contexts:
            kinds = CONTEXTS[context][1].split()
            self.names[context] = [f"{kind} in {place}" for place in PLACES for kind in kinds] if self.places else kinds
        self.low, self.high = SPLITS.get(self.split, (0, 100))

    @classmethod
    def from_spec(cls, spec: str) -> "World":
        """World from "ops=1-4,contexts=zoo+school" (a leading "world:" is dropped); ValueError for unknown options."""
        kinds, options = {option.name: type(option.default) for option in fields(cls)}, {}
        text = spec.removeprefix("world:")
        for part in filter(None, text.split(",")):
            key, eq, value = part.partition("=")
            _need(key not in options, f"world option {key!r} is given twice")
            _need(eq and key in kinds, f"world option {part!r} is not known: see the options in tasks/world.py, class World")
            try:
                options[key] = kinds[key](value)
            except ValueError:
                raise ValueError(f"world option {part!r}: {value!r} is not a number") from None
        world = cls(**options)
        world.source = f"world:{text}"
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
            if graph is not None and self.low <= _bucket(graph.key(context, self.modulus)) < self.high:
                return self._in_words(graph, rng, ops, context)
        raise ValueError(f"world: 100,000 draws gave no problem of {ops} operations; raise max_value, or use other operators, "
                         "fewer distractors or a modulus")

    def _in_words(self, graph: Graph, rng: random.Random, ops: int, context: str) -> WorldProblem:
        pick = (lambda: 0) if self.paraphrase == 1 else (lambda: rng.randrange(self.paraphrase))
        question = question_text(graph.facts, graph.asked, context, self.modulus, pick)
        answer = str(graph.values[graph.asked])
        last = f"Answer: {answer}"
        solution = "\n".join([*solution_lines(graph.steps, graph.values), last]) if self.solution else last
        return WorldProblem(question, answer, solution, self, ops, context, tuple(graph.steps), graph.values, self.modulus)

    def verify(self, problem: WorldProblem, text: str) -> Verdict:
        """Checks a completion against the problem's graph (see tasks/verify.py)."""
        return verify(problem, text)

    # as a task (tasks/task.py)

    def grade(self, problem: WorldProblem, reply: Reply) -> Verdict:
        return verify(problem, reply.text)

    def answer_in(self, text: str) -> str | None:
        """The number on the last "Answer:" line."""
        return final_answer(text)

    def well_formed(self, text: str, thinking: bool) -> bool:
        """One "Answer: N" line, at the end. Without a think block there may be only steps before it."""
        *before, last = [line for line in text.split("\n") if line.strip()] or [""]
        fits = ANSWER.search(last) and (thinking or all(LINE.search(line) for line in before))
        return bool(fits) and len(ANSWER.findall(text)) == 1


def _bucket(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100


def _need(condition, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _range(name: str, text: str, least: int) -> list[int]:
    """"3" or "1-4" -> the list of whole numbers."""
    low, dash, high = str(text).partition("-")
    _need(all(part.isdecimal() and len(part) < 5 for part in ([low, high] if dash else [low])),
          f"{name}={text}: use a number or a range such as 1-4")
    low, high = int(low), int(high or low)
    _need(least <= low <= high, f"{name}={text}: use a range that rises from at least {least}")
    return list(range(low, high + 1))


def _shares(text: str) -> tuple[list[str], list[float]]:
    """"zoo:3+school" -> (["zoo", "school"], [3.0, 1.0])."""
    names, shares = [], []
    for part in text.split("+"):
        name, colon, share = part.partition(":")
        _need(name in CONTEXTS, f"context {name!r} is not known: use {'+'.join(CONTEXTS)}")
        _need(not colon or (share.replace(".", "", 1).isdecimal() and float(share) > 0),
              f"contexts={text}: {share!r} is not a share above 0")
        names.append(name)
        shares.append(float(share or 1))
    return names, shares


def main() -> None:
    parser = cli.Parser("Show problems of the reasoning world, or measure its generator.")
    parser.add_argument("--data", default="world:ops=1-4", help="which world: world:option=value,...")
    parser.add_argument("--show", type=cli.non_negative_int, default=3, metavar="N", help="problems to print")
    parser.add_argument("--time", type=cli.not_negative, default=0.0, metavar="S",
                        help="seconds to generate for; prints problems per second")
    args = parser.parse_args()
    with cli.bad_input():
        world = World.from_spec(args.data)
        for p in map(world.problem, range(args.show)):
            print(f"{p.question}\n{p.solution}\n")
    result = {"shown": args.show}
    if args.time:
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < args.time:
            world.problem(n)
            n += 1
        result["problems_per_second"] = round(n / (time.perf_counter() - start))
    cli.finish(result)


if __name__ == "__main__":
    main()

"""The reasoning world: word problems that are dependency graphs, with solutions that can be checked step by step.

A problem is a graph of quantities. Leaves have a number; every other quantity is one arithmetic operation on two
earlier ones (or on one and a constant), and the last one is asked for. The number of operations is the depth of the
problem; the *context* (zoo, school, film festival, market) only gives the words. So difficulty and surface can be
controlled apart, as in "On the Interplay of Pre-Training, Mid-Training, and RL" (arXiv 2512.07783, appendix A):

    Zoo, mod 10. The lions number 3. The owls number the lions plus 4. The bears number the owls times the lions.
    How many bears?
    lions 3 + 4 = owls 7
    owls 7 * lions 3 = bears 1
    Answer: 1

Look at some problems, or measure the generator:

    python -m tasks.world --data world:ops=1-4,contexts=zoo+market --show 3
    python -m tasks.world --data world:ops=3 --time 2

Simpler than the paper: a step is one line with at most two named operands (no scratch letters), reverse questions use
plus and minus only, and an operation count is exact by construction, so nothing has to be rejected for it.
"""

import hashlib
import random
import time
from dataclasses import dataclass, field

from tasks.verify import Step, verify
from training import cli

CONTEXTS = {  # the words of a context: how it is called, and thirty-two kinds of things to count
    "zoo": ("Zoo",
        "lions owls bears foxes wolves zebras otters seals camels hippos rhinos monkeys parrots eagles swans "
        "cranes turtles snakes frogs lizards tigers pandas koalas lemurs goats sheep horses donkeys deer "
        "moose geese ducks"),
    "school": ("School",
        "painters singers dancers readers writers runners swimmers climbers drummers actors chemists poets "
        "tutors coaches cooks nurses editors builders farmers pilots sailors bakers lawyers judges guards "
        "clerks porters tailors weavers potters miners divers"),
    "festival": ("Film festival",
        "dramas comedies westerns thrillers musicals cartoons romances epics mysteries satires parodies "
        "shorts serials sequels remakes tragedies fantasies horrors biopics noirs spoofs sagas farces pilots "
        "trailers premieres classics debuts revivals anthems ballets operas"),
    "market": ("Market",
        "apples pears plums figs dates grapes lemons limes melons peaches cherries mangoes onions carrots "
        "beans peas leeks beets radishes turnips olives nuts eggs loaves cheeses fishes crabs candles baskets "
        "flowers roses tulips"),
}
PLACES = ["Oak Park", "Elm Yard", "Pine Hall", "Ash Court", "Fir Lane", "Birch Row", "Cedar Gate", "Maple End"]
OPERATORS = {"+": "plus", "-": "minus", "*": "times"}
COMPUTE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}

# Ways to say the same thing; `paraphrase=n` draws from the first n. The first is the plainest.
SAY_LEAF = ["The {x} number {v}.", "There are {v} {x}.", "We count {v} {x}.", "Of {x} there are {v}."]
SAY_STEP = ["The {x} number {e}.", "There are as many {x} as {e}.", "To count the {x}, take {e}.",
            "Of {x} there are {e}."]
ASK = ["How many {x}?", "How many {x} are there?", "What is the number of {x}?", "Count the {x}."]

# Shares of all problems, by hash, that belong to each named split: no problem is in two of them.
SPLITS = {"pretrain": (0, 60), "midtrain": (60, 70), "sft": (70, 75), "rl": (75, 88), "dev": (88, 90), "test": (90, 100)}


@dataclass(frozen=True)
class Problem:
    question: str
    solution: str                    # the steps, one a line, then "Answer: N"; only the last line if solution=False
    answer: str
    ops: int                         # number of operations = number of steps
    context: str
    steps: tuple[Step, ...] = field(repr=False, default=())
    values: dict = field(repr=False, default_factory=dict)   # the value of every quantity that a right step may name
    modulus: int = 0

    @property
    def reasoning(self):
        """The solution without its last line, as it stands in a think block."""
        return self.solution.rpartition("\n")[0]


class World:
    """An endless, seeded source of problems: `world.problem(i)` is a pure function of the options and i.

    ops          depth: "3", or "1-4" (each depth equally often)
    contexts     "zoo+school", with shares "zoo:3+school:1"
    operators    any of + - *
    modulus      numbers are counted modulo this; 0: plain numbers from 0 to max_value
    distractors  facts that the answer does not need: "2", or "0-3"
    order        facts as they are needed ("given") or "shuffled"
    reverse      share of problems with one leaf unknown and the last quantity given
    paraphrase   number of ways in which each fact may be told, 1 to 4
    branch       chance that a step opens a second line of reasoning, to be joined later (0: a chain)
    places       1: quantities are named by kind and place ("lions in Oak Park"), needed beyond about 20 operations
    solution     0: documents hold the question and the answer alone
    split        pretrain, midtrain, sft, rl, dev or test; "" draws from all
    seed         another seed, another order of other problems
    """

    def __init__(self, ops="1-4", contexts="zoo+school+festival+market", operators="+-*", modulus=10, max_value=99,
                 distractors="0",
                 order="given", reverse=0.0, paraphrase=1, branch=0.15, places=0, solution=1, split="", seed=0):
        self.ops = _range("ops", ops, 1)
        self.distractors = _range("distractors", distractors, 0)
        self.contexts, self.shares = _shares(contexts)
        self.operators, self.modulus, self.max_value = str(operators), int(modulus), int(max_value)
        self.order, self.reverse, self.paraphrase, self.branch = order, float(reverse), int(paraphrase), float(branch)
        self.places, self.solution, self.split, self.seed = int(places), int(solution), split, int(seed)
        _need(self.operators and set(self.operators) <= set(OPERATORS), f"operators={operators}: use any of + - *")
        _need(self.modulus == 0 or self.modulus >= 2, f"modulus={modulus}: use 0 (none) or at least 2")
        _need(self.modulus or self.max_value >= 9, f"max_value={max_value}: use at least 9")
        _need(order in ("given", "shuffled"), f"order={order}: use given or shuffled")
        _need(0 <= self.reverse <= 1 and 0 <= self.branch <= 1, "reverse and branch are shares: use 0 to 1")
        _need(self.reverse == 0 or set(self.operators) & {"+", "-"},
              "reverse questions need + or - among the operators")
        _need(1 <= self.paraphrase <= len(SAY_LEAF), f"paraphrase={paraphrase}: use 1 to {len(SAY_LEAF)}")
        _need(self.places in (0, 1) and self.solution in (0, 1), "places and solution: use 0 or 1")
        _need(split == "" or split in SPLITS, f"split={split}: use one of {', '.join(SPLITS)}")
        names = 32 * (len(PLACES) if self.places else 1)
        most = 2 * max(self.ops) + 1 + max(self.distractors)
        _need(names >= most, f"ops={ops} with distractors={distractors} may need {most} names, there are {names}: " +
              ("use fewer" if self.places else "use places=1"))
        self.names = {}
        for c in self.contexts:
            kinds = CONTEXTS[c][1].split()
            self.names[c] = [f"{kind} in {place}" for place in PLACES for kind in kinds] if self.places else kinds
        low, high = SPLITS.get(split, (0, 100))
        self.low, self.high = low, high

    @classmethod
    def from_spec(cls, spec):
        """World from "ops=1-4,contexts=zoo+school" (a leading "world:" is dropped); ValueError for unknown options."""
        options = {}
        for part in filter(None, spec.removeprefix("world:").split(",")):
            key, eq, value = part.partition("=")
            _need(key not in options, f"world option {key!r} is given twice")
            _need(eq and key in cls.__init__.__code__.co_varnames[1:cls.__init__.__code__.co_argcount],
                  f"world option {part!r} is not known: see the options in tasks/world.py, class World")
            try:
                options[key] = type(cls.__init__.__defaults__[cls.__init__.__code__.co_varnames.index(key) - 1])(value)
            except ValueError:
                raise ValueError(f"world option {part!r}: {value!r} is not a number") from None
        return cls(**options)

    def __iter__(self):
        i = 0
        while True:
            yield self.problem(i)
            i += 1

    def problem(self, i):
        """The i-th problem of this world: Problem. Problems of another split or of no use are drawn again."""
        rng = random.Random((self.seed << 44) ^ i)
        r = rng.random
        ops = self.ops[int(r() * len(self.ops))]
        context = rng.choices(self.contexts, self.shares)[0] if len(self.contexts) > 1 else self.contexts[0]
        for _ in range(100_000):
            drawn = self._graph(rng, r, ops, context)
            if drawn is not None and self.low <= _bucket(drawn[0]) < self.high:
                return self._tell(rng, ops, context, *drawn[1:])
        raise ValueError(f"world: 100,000 draws gave no problem of {ops} operations; raise max_value, or take other operators, "
                         "fewer distractors or a modulus")

    def _graph(self, rng, r, ops, context):
        """Draws a graph. Returns (key, facts, steps, values, asked), or None where the draw cannot be used.

        A fact is (name, value) for a leaf and (name, op, left, right) for a step, in an order in which each can be
        computed from the ones before it. `ends` are the quantities that nothing uses yet: one is left at the end,
        so the answer needs every step.
        """
        m, top = self.modulus, self.max_value
        extra = self.distractors[int(r() * len(self.distractors))]
        names = rng.sample(self.names[context], 2 * ops + 1 + extra)
        facts, values, ends = [], {}, []

        def leaf():
            name = names.pop()
            values[name] = int(r() * (m or 10))
            facts.append((name, values[name]))
            return name

        def other(used):
            """The second operand of a step: a constant, a new leaf, or now and then a quantity told before."""
            x = r()
            if x < 0.4:
                return 1 + int(r() * ((m or 10) - 1))
            if x < 0.55 and len(values) > 1:
                name = list(values)[int(r() * len(values))]
                return name if name != used else leaf()
            return leaf()

        def step(left, right):
            name, a, b = names.pop(), _value(left, values), _value(right, values)
            for op in rng.sample(self.operators, len(self.operators)):
                value = COMPUTE[op](a, b)
                if m:
                    value %= m
                if m or 0 <= value <= top:
                    values[name] = value
                    facts.append((name, op, left, right))
                    return name
            return None                                   # no operator keeps the number in range

        for left_over in range(ops - 1, -1, -1):          # steps still to come after this one
            must_join = len(ends) - 1 > left_over
            x = r()
            if must_join or (len(ends) > 1 and x < 0.3):
                a = ends.pop(int(r() * len(ends)))
                made = step(a, ends.pop(int(r() * len(ends))))
            elif not ends or (len(ends) <= left_over and x > 1 - self.branch):
                a = leaf()
                made = step(a, other(a))
            else:
                a = ends.pop(int(r() * len(ends)))
                made = step(a, other(a))
            if made is None:
                return None
            ends = [e for e in ends if e not in facts[-1]]  # the other operand may have been an open end as well
            ends.append(made)
        asked = ends[0]
        steps = [Step(*f, values[f[0]]) for f in facts if len(f) == 4]
        if self.reverse and r() < self.reverse:
            turned = _reverse(rng, facts, steps, values, asked)
            if turned is None:
                return None
            facts, steps, asked = turned
        needed = [*facts]
        for _ in range(extra):                            # distractors: a leaf, or a step on something told before
            if r() < 0.5:
                leaf()
            elif step(list(values)[int(r() * len(values))], 1 + int(r() * 8)) is None:
                return None
            if facts[-1] is not needed[-1]:
                needed.insert(1 + int(r() * len(needed)), facts.pop())
        facts = needed
        if self.order == "shuffled":
            rng.shuffle(facts)
        key = f"{context}|{m}|{asked}|{sorted(map(str, facts))}"
        return key, facts, steps, values, asked

    def _tell(self, rng, ops, context, facts, steps, values, asked):
        """Puts a graph into words: Problem."""
        pick = (lambda: 0) if self.paraphrase == 1 else (lambda: rng.randrange(self.paraphrase))
        said = [CONTEXTS[context][0] + (f", mod {self.modulus}." if self.modulus else ".")]
        for fact in facts:
            if len(fact) == 2:
                said.append(SAY_LEAF[pick()].format(x=fact[0], v=fact[1]))
            else:
                name, op, left, right = fact
                e = f"{_the(left)} {OPERATORS[op]} {_the(right)}"
                said.append(SAY_STEP[pick()].format(x=name, e=e))
        said.append(ASK[pick()].format(x=asked))
        lines = [f"{_beside(s.left, values)} {s.op} {_beside(s.right, values)} = {s.target} {s.value}" for s in steps]
        answer = str(values[asked])
        last = f"Answer: {answer}"
        solution = "\n".join([*lines, last]) if self.solution else last
        return Problem(" ".join(said), solution, answer, ops, context, tuple(steps), values, self.modulus)

    def verify(self, problem, text):
        """Checks a completion against the problem's graph: Verdict (see tasks/verify.py)."""
        return verify(problem, text)


def _reverse(rng, facts, steps, values, asked):
    """Turns a forward problem round: hides one leaf, tells the last quantity, and solves for the leaf.

    Along the only path from the leaf to the last quantity each step is inverted (d = a + b gives a = d - b), so the
    number of operations stays the same. Returns (facts, steps, asked), or None if no leaf has such a path.
    """
    used_by = {}
    for s in steps:
        for operand in (s.left, s.right):
            used_by.setdefault(operand, []).append(s)
    leaves = [f[0] for f in facts if len(f) == 2]
    rng.shuffle(leaves)
    for hidden in leaves:
        path, name = [], hidden
        while name != asked and len(used_by.get(name, ())) == 1 and used_by[name][0].op in "+-":
            path.append(used_by[name][0])
            name = path[-1].target
        if name != asked:
            continue
        inverse, known = [], hidden
        for s in path:                                   # from the leaf up; solved from the top down
            other = s.right if s.left == known else s.left
            if s.op == "+":
                inverse.append(Step(known, "-", s.target, other, values[known]))
            elif s.left == known:
                inverse.append(Step(known, "+", s.target, other, values[known]))
            else:
                inverse.append(Step(known, "-", other, s.target, values[known]))
            known = s.target
        on_path = {s.target for s in path}
        forward = [s for s in steps if s.target not in on_path]
        told = [f for f in facts if f[0] != hidden] + [(asked, values[asked])]
        return told, forward + inverse[::-1], hidden
    return None


def _value(operand, values):
    return operand if isinstance(operand, int) else values[operand]


def _the(operand):
    return operand if isinstance(operand, int) else f"the {operand}"


def _beside(operand, values):
    """An operand in a solution. Every name there, the result's too, has its value right behind it: copying the value of
    an earlier quantity is the skill that forms last, and this is the wording in which it forms soonest."""
    return operand if isinstance(operand, int) else f"{operand} {values[operand]}"


def _bucket(key):
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") % 100


def _need(condition, message):
    if not condition:
        raise ValueError(message)


def _range(name, text, least):
    """"3" or "1-4" -> the list of whole numbers."""
    low, dash, high = str(text).partition("-")
    _need(all(part.isdecimal() and len(part) < 5 for part in ([low, high] if dash else [low])),
          f"{name}={text}: use a number or a range such as 1-4")
    low, high = int(low), int(high or low)
    _need(least <= low <= high, f"{name}={text}: use a range that rises from at least {least}")
    return list(range(low, high + 1))


def _shares(text):
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


def main():
    parser = cli.Parser("Show problems of the reasoning world, or measure its generator.")
    parser.add_argument("--data", default="world:ops=1-4", help="which world: world:option=value,...")
    parser.add_argument("--show", type=cli.whole, default=3, metavar="N", help="problems to print")
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

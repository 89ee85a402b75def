"""Needles in a haystack: a fact that is told once in a long text, and asked for at its end.

    The owls in Elm Yard number 41. The lions in Oak Park number 7. The pears in Ash Court number 88. How many lions in Oak Park?
    Answer: 7

How far back can a model look? The text is as long as one wants, and the needle stands at a chosen depth of it: 0 is its
beginning, 1 its end. Around it stand facts of the reasoning world about other things, or the text of a file. Five kinds, after
RULER (arXiv 2404.06654):

    single   one fact about the thing that is asked for
    several  facts about the same thing in several places, of which one is asked for
    chain    a number, and things that number as many as the one before; the last is asked for
    sum      facts about the same thing in several places; how many in all?
    count    the same; in how many places?

    python -m tasks.needle --data needle:tiny,length=64,kind=single --show 3
    python -m tasks.needle --data needle:length=256,kind=chain,needles=3,depth=0.5 --show 1
    python pretrain.py --data needle:tiny,length=32-256,split=pretrain --out runs/needles --steps 240
    python evaluate.py --init runs/base --needle 256-1k,places=0 --problems 20 --attention 4

The documents put the fact far back as well, so they teach what they test. Few of their tokens are answers; with asks=8 they ask
for seven other facts behind the first, and are longer by that. Lengths are counted in tokens of the model that is
asked (k is 1024); where there is no model, as in training a tokenizer, words and marks are counted. A text is at most one
sentence shorter than its length. A haystack that needs more facts than there are things repeats them, the needle never.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from formats.chat import after_thinking
from formats.texts import read_texts
from tasks import show
from tasks.answers import count_answers, extract_answer, same_answer
from tasks.facts import Leaf
from tasks.options import need, read_options, token_count
from tasks.segments import WORD, spans
from tasks.task import Problem as AnyProblem
from tasks.task import Reply, Task
from tasks.verdict import Verdict
from tasks.words import ASK, CONTEXTS, PLACES, SAY_LEAF, SAY_STEP, fact_text
from tasks.world import SPLITS
from tokenizer import Tokenizer

KINDS = ("single", "several", "chain", "sum", "count")
IN_PLACES = ("several", "sum", "count")                   # kinds that tell of one thing in several places
NAMED = ("single", "several")                             # kinds whose answer is the number of one thing
PRESETS = {"tiny": "contexts=zoo,places=0,max_value=9"}   # for models that learn world:tiny
THING = re.compile(re.escape(ASK[0]).replace(r"\{x\}", "(.+)"))              # what a question asks for
FACT = re.compile(re.escape(SAY_LEAF[0]).replace(r"\{x\}", r"([^.]+?)").replace(r"\{v\}", r"(\d+)"))     # a sentence of fact_text
MOST_TEXT = 4_000_000                                     # characters of a file that are used


@dataclass
class NeedleProblem(AnyProblem):
    """A text with needles and the question behind it (`question` is all of it). `solution` has the steps, then "Answer: N"."""
    kind: str = ""                   # one of KINDS
    length: int = 0                  # in tokens, as it was asked for
    depth: float = 0.0               # of one needle: the one asked for (single), the one with the number (chain), else the first
    needles: tuple[tuple[int, int], ...] = ()     # (start, end) in `question` of the sentences that the answer needs
    asked: int = 0                   # where in `question` the last sentence starts, which asks
    tokens: int = 0                  # of its prompt as plain text


@dataclass(eq=False)
class Needle(Task):
    """Texts with needles; ValueError for options that do not fit. The fields are the options of a SPEC."""
    kind: str = "single"             # one of KINDS
    length: str = "1k"               # tokens: "512"; "1k-16k", drawn evenly; "1k+4k", one after the other
    depth: str = "0-1"               # "0.5"; "0-1", drawn evenly; "0+0.5+1", one after the other
    needles: int = 4                 # how many, in kinds other than single; count draws a number up to this
    haystack: str = "world"          # the text around them: world, or a file (.txt, .jsonl, ...)
    contexts: str = "zoo+school+festival+market"  # what is counted
    places: int = 1                  # 1: "lions in Oak Park"; 0: "lions"
    max_value: int = 99              # the largest number
    solution: int = 1                # 0: documents of chain, sum and count have only the answer, without steps
    named: int = 0                   # 1: "Answer: lions 7": the thing stands in front of its number
    asks: int = 1                    # documents of kind single: how many facts they ask for, one after the other
    format: str = "plain"            # documents: "plain", or "chat"
    split: str = ""                  # pretrain, midtrain, sft, rl, dev or test: other texts in each; "": others again
    seed: int = 0

    count = None
    has_steps = False

    def __post_init__(self):
        need(self.kind in KINDS, f"kind={self.kind}: use one of {', '.join(KINDS)}")
        self.lengths, self.depths = _choices("length", self.length, token_count), _choices("depth", self.depth, float)
        need(all(0 <= low and high <= 1 for low, high in self.depths), f"depth={self.depth}: use 0 (beginning) to 1 (end)")
        unknown = [name for name in self.contexts.split("+") if name not in CONTEXTS]
        need(not unknown, f"context {''.join(unknown[:1])!r} is not known: use {'+'.join(CONTEXTS)}")
        need(self.places in (0, 1) and self.solution in (0, 1), "places and solution: use 0 or 1")
        need(self.places or self.kind not in IN_PLACES, f"kind={self.kind}: tells of one thing in several places; use places=1")
        self.needles = 1 if self.kind == "single" else self.needles
        need(self.kind == "single" or self.needles >= 2, f"needles={self.needles}: kind={self.kind} needs 2 or more")
        most = len(PLACES) if self.kind in IN_PLACES else 16
        need(self.needles <= most, f"needles={self.needles}: kind={self.kind} has at most {most}")
        need(self.max_value >= max(9, self.needles), f"max_value={self.max_value}: use at least {max(9, self.needles)}")
        need(self.named in (0, 1) and (not self.named or self.kind in NAMED), f"named={self.named}: use 0, or 1 with kind="
             f"{' or '.join(NAMED)}")
        need(self.asks == 1 or self.asks > 1 and (self.kind, self.haystack, self.format) == ("single", "world", "plain"),
             f"asks={self.asks}: use 1 or more, with kind=single, haystack=world and format=plain")
        need(self.format in ("plain", "chat"), f"format={self.format}: use plain or chat")
        need(self.split == "" or self.split in SPLITS, f"split={self.split}: use one of {', '.join(SPLITS)}")
        self.things = list(dict.fromkeys(thing for name in self.contexts.split("+") for thing in CONTEXTS[name][1].split()))
        self.text = [] if self.haystack == "world" else _sentences(self.haystack)
        self._take(None)

    @classmethod
    def from_spec(cls, spec: str) -> "Needle":
        """Needle from "length=1k,kind=chain" (a leading "needle:" is dropped); ValueError for unknown options."""
        task = cls(**read_options(spec, cls, PRESETS))
        task.source = f"needle:{spec.removeprefix('needle:')}"
        return task

    def prepare(self, tokenizer: Tokenizer, device: str = "cpu") -> None:
        self._take(tokenizer)

    def _take(self, tokenizer):
        """Counts in tokens of this tokenizer. ValueError where a length has no room for needles whose names are long ones."""
        self.tokenizer, self._sizes = tokenizer, {}       # _sizes: tokens of sentences of the haystack
        name = max((f"{thing} in {place}" if self.places else thing for thing in self.things for place in PLACES), key=self.size)
        told = [SAY_STEP[0].format(x=name, e=f"the {name}" if self.kind == "chain" else self.max_value)] * self.needles
        least, shortest = self._prompt_size(" ".join([*told, *self._asked(ASK[0].format(x=name))])), min(self.lengths)[0]
        need(least <= shortest, f"{self.source or 'needle'}: length={shortest} is too short, the needles and the question alone "
             f"may be {least} tokens")

    @property
    def cells(self) -> int:
        """How many problems in a row have each length with each depth once."""
        return len(self.lengths) * len(self.depths)

    def size(self, text: str) -> int:
        """The tokens of a text; its words and marks where there is no tokenizer."""
        return len(WORD.findall(text)) if self.tokenizer is None else len(self.tokenizer.encode(text))

    def _prompt_size(self, text):
        return self.size(text) + len(self.tokenizer.prefix if self.tokenizer else ())

    def _asked(self, question):
        """The question, and how its answer begins."""
        return question, "Answer:" + (f" {THING.match(question)[1]}" if self.named else "")

    # problems

    def problem(self, i: int) -> NeedleProblem:
        """Problem i, a pure function of the options and the tokenizer."""
        rng = random.Random(f"{self.seed}|{self.split}|{i}")
        length, depth = self.lengths[i % len(self.lengths)], self.depths[i // len(self.lengths) % len(self.depths)]
        length, depth = rng.randint(*length), rng.uniform(*depth)
        needles, things, asks, answer, steps = self._needles(rng)
        room = length - self.size(" ".join([*needles, *self._asked(asks)]))
        while True:
            hay = self._hay(random.Random(f"hay|{self.seed}|{self.split}|{i}"), room, things)
            at = [round(depth * len(hay)), *(rng.randint(0, len(hay)) for _ in needles[1:])]
            text, where = _mixed(hay, needles, at)
            problem = NeedleProblem(f"{text} {asks}", answer, "\n".join([*steps, f"Answer: {answer}"]), self, self.kind, length,
                                    depth, where[:1] if self.kind == "several" else where, len(text) + 1)
            problem.tokens = self._prompt_size(self.prompt(problem, "plain"))
            over = problem.tokens - length                # sentences side by side may be other tokens than each alone
            if over <= 0 or not hay:
                return problem
            room -= over

    def _needles(self, rng):
        """(sentences, the things they are about, the question, the answer, the steps). The first sentence stands at the depth."""
        n = rng.randint(1, self.needles) if self.kind == "count" else self.needles
        things = rng.sample(self.things, n if self.kind == "chain" else 1)
        places = rng.sample(PLACES, n) if self.kind in IN_PLACES else rng.choices(PLACES, k=n)
        names = [f"{thing} in {place}" if self.places else thing for thing, place in zip(things * n, places)]
        if self.kind == "chain":
            value = rng.randint(1, self.max_value)
            links = [SAY_STEP[0].format(x=name, e=f"the {before}") for before, name in zip(names, names[1:])]
            steps = [f"{before} {value} = {name} {value}" for before, name in zip(names, names[1:])]
            return ([fact_text(Leaf(names[0], value)), *links], things, ASK[0].format(x=names[-1]), str(value),
                    steps if self.solution else [])
        values = rng.sample(range(1, self.max_value + 1), n)                  # another needle's number is a wrong answer
        told = [fact_text(Leaf(name, value)) for name, value in zip(names, values)]
        if self.kind == "sum":
            steps = [f"{' + '.join(map(str, values))} = {sum(values)}"]
            return told, things, f"How many {things[0]} in all?", str(sum(values)), steps if self.solution else []
        if self.kind == "count":
            steps = [f"{number} {place}" for number, place in enumerate(places, 1)]
            return told, things, f"In how many places are {things[0]}?", str(n), steps if self.solution else []
        return told, things, ASK[0].format(x=names[0]), str(values[0]), []

    def _hay(self, rng, room, things):
        """Sentences of at most so many tokens, none of them about these things. The last one of a file may be cut off."""
        hay = []
        for sentence in self._of_file(rng) if self.text else self._of_world(rng, things):
            if sentence not in self._sizes:
                self._sizes[sentence] = self.size(f" {sentence}")
            size = self._sizes[sentence]
            if size > room and self.text:
                words = sentence.split(" ")
                while words and (size := self.size(" ".join(["", *words]))) > room:
                    words = words[:len(words) * room // size]
                return [*hay, " ".join(words)] if words else hay
            if size > room:
                return hay
            room -= size
            hay.append(sentence)

    def _of_world(self, rng, things):
        names = [f"{thing} in {place}" for thing in self.things for place in PLACES if thing not in things]
        if not self.places:
            names = [thing for thing in self.things if thing not in things]
        told = {}
        while True:                                       # again and again, in another order
            for name in rng.sample(names, len(names)):
                if name not in told:
                    told[name] = fact_text(Leaf(name, rng.randint(1, self.max_value)))
                yield told[name]

    def _of_file(self, rng):
        at = rng.randrange(len(self.text))
        while True:
            yield self.text[at % len(self.text)]
            at += 1

    # as a task (tasks/task.py)

    def prompt(self, problem: NeedleProblem, mode: str) -> str | list[dict]:
        """Where the answer is all that is written, plain text opens it: a base model then has nothing else to say."""
        if mode == "plain" and not problem.solution.partition("Answer:")[0]:
            return problem.question[:problem.asked] + "\n".join(self._asked(problem.question[problem.asked:]))
        return super().prompt(problem, mode)

    def document(self, i: int) -> tuple[str, str]:
        lesson = self.problem(i)
        given = self.prompt(lesson, "plain")
        if given == super().prompt(lesson, "plain"):
            return given, lesson.solution
        others = dict(FACT.findall(lesson.question, 0, lesson.asked)) if self.asks > 1 else {}
        others = sorted(fact for fact in others.items() if ASK[0].format(x=fact[0]) != lesson.question[lesson.asked:])
        random.Random(f"others|{self.seed}|{self.split}|{i}").shuffle(others)
        more = ("\n".join([*self._asked(ASK[0].format(x=name))]) + f" {value}" for name, value in others[:self.asks - 1])
        return given, "\n".join([f" {lesson.answer}", *more])

    def grade(self, problem: NeedleProblem, reply: Reply) -> Verdict:
        said = self.answer_in(reply.text)
        ok = same_answer(said, problem.answer)
        return Verdict(ok, None, None, "ok" if ok else f"answer {str(said)[:80]}, it is {problem.answer}")

    def answer_in(self, text: str) -> str | None:
        """The final answer (tasks/answers.py). Where the first line is a number alone, or none is marked as the answer, it is on
        the first line, else in the first "Answer:" line: behind it a base model goes on with other questions and answers."""
        said = (after_thinking(text) or "").strip()
        first = said.partition("\n")[0]
        if first.rstrip(". ").isdecimal():
            return extract_answer(first)
        if marked := re.search(r"^Answer: .*$", said, re.MULTILINE):
            return extract_answer(said[:marked.end()])
        return (None if count_answers(text) else extract_answer(first)) or extract_answer(text)

    def well_formed(self, text: str, thinking: bool) -> bool:
        return count_answers(text) == 1 or text.strip().isdecimal()


def parts_of(spec: str) -> tuple[str, ...]:
    """The SPEC, and the file of its haystack (see sources/fingerprint.py)."""
    task = Needle.from_spec(spec)
    return (spec, task.haystack) if task.text else (spec,)


def _mixed(hay: Sequence[str], needles: Sequence[str], at: Sequence[int]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Needle n in front of sentence at[n] of the hay: the text, and (start, end) of each needle in it."""
    where, parts, end = {}, [], 0
    for k in range(len(hay) + 1):
        for sentence, n in [*((needles[n], n) for n in range(len(needles)) if at[n] == k), *((h, -1) for h in hay[k:k + 1])]:
            where[n] = end, end + len(sentence)
            parts.append(sentence)
            end += len(sentence) + 1
    return " ".join(parts), tuple(where[n] for n in range(len(needles)))


def _sentences(path: str) -> list[str]:
    """The sentences of a file, up to MOST_TEXT characters of it."""
    found, size = [], 0
    for text in read_texts(path):
        text = text[:MOST_TEXT - size]
        found += [" ".join(text[a:b].split()) for a, b in spans(text)]
        size += len(text)
        if size >= MOST_TEXT:
            break
    need(found, f"haystack={path}: holds no text")
    return found


def _choices(name: str, text: str, read: type) -> list[tuple]:
    """"0+0.5+1" -> [(0, 0), (0.5, 0.5), (1, 1)]; "1k-16k" -> [(1024, 16384)]."""
    found = []
    for part in str(text).split("+"):
        low, dash, high = part.partition("-")
        need(all(re.fullmatch(r"\d{1,9}k?" if name == "length" else r"\d+(\.\d+)?", x) for x in ([low, high] if dash else [low])),
             f"{name}={text}: use a number, a range such as {'1k-16k' if name == 'length' else '0-1'}, or several with + between")
        low, high = read(low), read(high or low)
        need(low <= high, f"{name}={text}: use a range that rises")
        found.append((low, high))
    return found


def main() -> None:
    show.main("Show texts with needles in them.", Needle.from_spec, "needle:length=128")


if __name__ == "__main__":
    main()

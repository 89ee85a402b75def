"""Instructions: problems of the reasoning world that say how the answer is to be given, each with a check of its own.

    Zoo, mod 10. The lions number 3. The owls number the lions plus 4. How many owls? Answer in words.
    seven

A reply is graded twice, as in IFEval (arXiv 2311.07911), but with the truth known: whether its number is right, and whether
the instruction was followed. As a reward, `answer` looks at the number alone, `process` at the instruction alone, and `strict` at
both, which is what evaluation counts.

    python -m tasks.instructions --data instructions:tiny,ops=1-2 --show 7
    python evaluate.py --init runs/base --data instructions:tiny,ops=1,split=test --limit 100 --max-new-tokens 80

All options of the world may be given (tasks/world.py), and `kinds`, those of the instructions below: kinds=words+steps. A small
share of such data in mid-training is what OctoThinker adds (arXiv 2506.20512): instructions:tiny,ops=1-3,split=midtrain@0.01.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from tasks import show
from tasks.answers import after_thinking
from tasks.options import need, set_apart
from tasks.task import Problem as AnyProblem
from tasks.task import Reply, Task
from tasks.verdict import Verdict
from tasks.verify import final_answer, verify
from tasks.words import solution_lines
from tasks.world import World, WorldProblem

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen").split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
MOST = 999                           # the largest number that is written in words


def in_words(n: int) -> str:
    """A number from 0 to 999: "forty-two"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")


@cache
def _numbers_in_words() -> dict[str, int]:
    return {in_words(n): n for n in range(MOST + 1)}


@dataclass
class Instructed(AnyProblem):
    """A problem of the world with an instruction behind its question. `solution` follows it."""
    kind: str = ""                   # one of KINDS
    about: WorldProblem = field(default=None, repr=False)


class Kind(NamedTuple):
    """One instruction.

    wordings   ways to give it
    write      (problem of the world, its step lines, answer) -> a reply that follows it
    followed   (problem of the world, text) -> whether the text follows it, be its number right or wrong
    """
    wordings: tuple[str, ...]
    write: Callable[[WorldProblem, list[str], int], str]
    followed: Callable[[WorldProblem, str], bool]


def number_in(text: str) -> int | None:
    """The number that a reply gives, in whatever form: on its last "Answer:" line, alone, in words, or in a sentence."""
    alone = text.strip().rstrip(".").lower()
    if (marked := final_answer(text)) is not None:
        return int(marked)
    if re.fullmatch(r"-?\d{1,9}", alone):
        return int(alone)
    if alone in _numbers_in_words():
        return _numbers_in_words()[alone]
    found = {int(number) for number in re.findall(r"\b(?:is|are) (-?\d{1,9})\b(?![.,/]\d)", text)}
    return found.pop() if len(found) == 1 else None        # two numbers are no answer


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _ends_in_answer(lines: list[str]) -> bool:
    return bool(lines) and re.fullmatch(r"Answer: -?\d+", lines[-1]) is not None


def _steps_right(problem: WorldProblem, lines: list[str]) -> bool:
    return verify(problem, "\n".join(lines)).process_ok


def _numbered(problem: WorldProblem, text: str) -> bool:
    """Right steps, counted from 1, then the answer."""
    *steps, last = _lines(text)
    counted = all(step.startswith(f"{n}. ") for n, step in enumerate(steps, 1))
    return counted and _ends_in_answer([last]) and _steps_right(problem, [step.partition(". ")[2] for step in steps])


def _two_lines(problem: WorldProblem, text: str) -> bool:
    """The last step, then the answer."""
    lines = _lines(text)
    last = WorldProblem("", problem.answer, steps=problem.steps[-1:], values=problem.values)
    return len(lines) == 2 and _ends_in_answer(lines) and _steps_right(last, lines[:1])


def _repeated(problem: WorldProblem, text: str) -> bool:
    """The question, without the instruction, on the first line, and the answer on the last."""
    lines = _lines(text)
    return lines[0] == problem.question and _ends_in_answer(lines)


def _answer_first(problem: WorldProblem, text: str) -> bool:
    first, *steps = _lines(text)
    return _ends_in_answer([first]) and _steps_right(problem, steps) and "Answer:" not in "".join(steps)


def _asked(problem: WorldProblem) -> str:
    return problem.steps[-1].target


KINDS = {
    "number": Kind(("Give only the number.", "Say the number and nothing else."),
        lambda p, steps, answer: str(answer),
        lambda p, text: re.fullmatch(r"-?\d+", text.strip()) is not None),
    "words": Kind(("Answer in words.", "Write the number in letters, without digits."),
        lambda p, steps, answer: in_words(answer),
        lambda p, text: text.strip().rstrip(".").lower() in _numbers_in_words()),
    "sentence": Kind(("Answer in one full sentence.", "Reply with a whole sentence."),
        lambda p, steps, answer: f"The number of {_asked(p)} is {answer}.",
        lambda p, text: re.fullmatch(rf"The number of {_asked(p)} is -?\d+\.|There are -?\d+ {_asked(p)}\.",
                                     text.strip()) is not None),
    "steps": Kind(("List the steps with numbers.", "Number the steps of the solution."),
        lambda p, steps, answer: "\n".join([*(f"{n}. {step}" for n, step in enumerate(steps, 1)), f"Answer: {answer}"]),
        _numbered),
    "two_lines": Kind(("Answer in two lines: the last step, then the answer.", "Give the last step and the answer, no more."),
        lambda p, steps, answer: f"{steps[-1]}\nAnswer: {answer}",
        _two_lines),
    "repeat": Kind(("Repeat the question first.", "Begin with the question as it was put."),
        lambda p, steps, answer: "\n".join([p.question, *steps, f"Answer: {answer}"]),
        _repeated),
    "answer_first": Kind(("Give the answer first, then the steps.", "Begin with the answer and show the steps below it."),
        lambda p, steps, answer: "\n".join([f"Answer: {answer}", *steps]),
        _answer_first),
}


class Instructions(Task):
    """Problems of a world with instructions. ValueError for options that do not fit.

    world   where the problems come from
    kinds   names in KINDS, one of which is drawn for each problem
    """

    has_steps = True                 # what `grade` says of the process is whether the instruction was followed

    def __init__(self, world: World, kinds: list[str] | None = None):
        self.world, self.kinds = world, kinds or list(KINDS)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        need(not unknown, f"instruction {''.join(unknown[:1])!r} is not known: use {'+'.join(KINDS)}")
        need(len(set(self.kinds)) == len(self.kinds), f"kinds={'+'.join(self.kinds)}: one is given twice")
        need(world.solution and world.style == ["short"], "style and solution: an instruction says how to solve; leave them out")
        need("words" not in self.kinds or world.numbers.most <= MOST,
             f"numbers up to {world.numbers.most} are too large for words: use max_value={MOST}, or kinds without words")
        self.format = world.format

    @classmethod
    def from_spec(cls, spec: str) -> "Instructions":
        """Instructions from "instructions:kinds=words+steps,tiny,ops=1-2"; ValueError for unknown options."""
        rest, own = set_apart(spec, ["kinds"])
        task = cls(World.from_spec(rest.partition(":")[2]), own["kinds"].split("+") if "kinds" in own else None)
        task.source = spec
        return task

    def problem(self, i: int) -> Instructed:
        """Problem i of the world; which instruction it has, and in which wording, depends on the problem alone."""
        return self._instructed(self.world.problem(i), errors=False)

    def lesson(self, i: int) -> Instructed:
        return self._instructed(self.world.problem(i), errors=True)

    def _instructed(self, about: WorldProblem, errors: bool) -> Instructed:
        rng = random.Random(f"instruction|{about.key}")
        kind = rng.choice(self.kinds)
        steps, values, answer = self.world.told(about) if errors else (about.steps, about.values, int(about.answer))
        reply = KINDS[kind].write(about, solution_lines(steps, values), answer)
        return Instructed(f"{about.question} {rng.choice(KINDS[kind].wordings)}", about.answer, reply, self, kind, about,
                          domain=about.domain)

    def prompt(self, problem: Instructed, mode: str) -> str | list[dict]:
        return self.world.prompt(problem, mode)

    def reply(self, problem: Instructed) -> tuple[str, str]:
        """The steps, where there is a block to think in; then the reply as it was wanted."""
        steps, values, _ = self.world.told(problem.about)
        return "\n".join(solution_lines(steps, values)), problem.solution

    def grade(self, problem: Instructed, reply: Reply) -> Verdict:
        """answer_ok: the number is right, however it is given; process_ok: the instruction was followed."""
        said = after_thinking(reply.text) or ""
        number, followed = number_in(said), bool(said.strip()) and KINDS[problem.kind].followed(problem.about, said)
        reason = "ok"
        if not followed:
            reason = f"{problem.kind}: not followed"
        elif number != int(problem.answer):
            reason = "no answer" if number is None else f"answer {number}, it is {problem.answer}"
        return Verdict(number == int(problem.answer), followed, float(followed), reason)

    def answer_in(self, text: str) -> str | None:
        """The number of a reply, in any of the forms."""
        number = number_in(after_thinking(text) or "")
        return None if number is None else str(number)

    def steps_in(self, text: str) -> list[str]:
        """Those of the world, numbered or not."""
        return self.world.steps_in(re.sub(r"(?m)^\d+\. ", "", text))

    def well_formed(self, text: str, thinking: bool) -> bool:
        """A number in one of the forms."""
        return self.answer_in(text) is not None


def main() -> None:
    show.main("Show instructions on problems of the reasoning world.", Instructions.from_spec, "instructions:ops=1-2")


if __name__ == "__main__":
    main()

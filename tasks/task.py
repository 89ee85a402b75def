"""A task is what can be asked and checked: it yields problems, asks them, and grades the replies.

    task.count                      how many problems it has; None: it never ends
    task.problem(i)                 problem number i, the same at every call
    task.prompt(problem, mode)      what the model is given: text, or the messages of a chat
    task.grade(problem, reply)      what a reply is worth: a Verdict

Some tasks also write text to train on; such a task (tasks/problems.py, GENERATED) is a source of documents as well:

    task.lessons                    how many documents it writes; None: it never ends
    task.lesson(i)                  the problem that document i is about, with the solution that the document has
    task.document(i)                document i as text: (what is given, what is to be learned)
    task.reply(problem)             the problem's solution as a turn of a chat: (the working, what is said)

Reinforcement learning and augmentation speak to these and to nothing else, and so does evaluation, apart from its table of
the world by operations and context. The reasoning world (tasks/world.py), files of questions (tasks/questions.py) and a
class in a user's own file (tasks/user_task.py) are tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.answers import check_answer, count_answers, extract_answer
from tasks.equations import equations

# How a question is put: as plain text, as in pre-training; as a user's turn; or as one that ends in a flag (Qwen3's soft
# switch) which asks for thinking, or for none.
SWITCHES = {"chat": "", "think": " /think", "no_think": " /no_think"}
MODES = ("plain", *SWITCHES)
# What a document of a generated task looks like: plain text; question and answer, marked as such; or a conversation in ChatML.
FORMATS = ("plain", "qa", "chat")


@dataclass
class Problem:
    question: str
    answer: str                 # the gold answer, without the working
    solution: str = ""          # the working that leads to it
    domain: str = field(default="", kw_only=True)   # what it is about, if that is said: a subject, a context
    # the task that asks it and grades its replies; without one a reply is graded by its final answer
    task: Task = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        self.task = self.task or Task()

    @property
    def source(self) -> str:
        """The SPEC that it came from."""
        return self.task.source


@dataclass
class Reply:
    """One completion, as tasks and rewards see it."""
    text: str               # decoded, with thinking marks; begins with <think> also where the prompt opened the block
    tokens: int = 0         # how many it has
    limit: int = 0          # how many it could have had
    finish: str = "stop"    # "stop" or "length"
    thinking: bool = False  # whether it should think: True in a chat, False in plain text and in no-think mode
    sample: int = 0         # its number in the group
    # token by token, where somebody asked for that: the engine's Completion, and what turns ids into text
    completion: object | None = field(default=None, repr=False, compare=False)
    decode: Callable[[list[int]], str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, completion, tokenizer, limit: int, sample: int = 0) -> Reply:
        """From a sampler.Completion."""
        c, chat = completion, tokenizer.im_start is not None and tokenizer.im_start in completion.prompt
        return cls(tokenizer.decode_reply(c.prompt, c.tokens), len(c.tokens), limit, c.finish,
                   chat and tokenizer.thinking_in(c.prompt) is not False, sample)


@dataclass(frozen=True)
class Verdict:
    answer_ok: bool                  # the final answer is right
    process_ok: bool | None          # every gold step is there and right; None where a problem has no steps to check
    steps_ok: float | None           # share of the gold steps that are there and right
    reason: str                      # "ok", or the first thing that is wrong

    @property
    def ok(self) -> bool:
        """Right in answer and steps, both of which were checked."""
        return self.answer_ok and self.process_ok

    @property
    def right(self) -> bool:
        """The answer is right and, where the steps can be checked, so are they."""
        return self.answer_ok and self.process_ok is not False


class Task:
    """What a task is unless it says otherwise: the question as it stands, graded by the final answer (tasks/answers.py)."""

    count: int | None = None         # problems; None: it never ends
    lessons: int | None = None       # documents; None: it never ends
    has_steps = False                # whether `grade` checks steps, which some rewards need
    source = ""                      # the SPEC that it was opened from

    def problem(self, i: int) -> Problem:
        raise NotImplementedError

    def prompt(self, problem: Problem, mode: str) -> str | list[dict]:
        """Text (mode "plain": the question on a line of its own), or the messages of a chat. mode: one of MODES."""
        if mode == "plain":
            return problem.question + "\n"
        return [{"role": "user", "content": problem.question + SWITCHES[mode]}]

    def lesson(self, i: int) -> Problem:
        """The problem of document i, with the solution that the document has; in some tasks it may be wrong."""
        return self.problem(i)

    def document(self, i: int) -> tuple[str, str]:
        """Document i as text, in two parts: the prompt, and what is learned to follow it."""
        lesson = self.lesson(i)
        return self.prompt(lesson, "plain"), lesson.solution

    def reply(self, problem: Problem) -> tuple[str | None, str]:
        """The problem's solution as a turn of a chat: (the working, which may stand in a think block; what is said)."""
        working = re.sub(r"(####|^Answer: ).*\s*\Z", "", problem.solution, flags=re.M).strip()      # without its last line
        return working or None, f"Answer: {problem.answer}"

    def grade(self, problem: Problem, reply: Reply) -> Verdict:
        ok = check_answer(reply.text, problem.answer)
        return Verdict(ok, None, None, "ok" if ok else
                       f"answer {str(self.answer_in(reply.text))[:80]}, it is {problem.answer}")

    def answer_in(self, text: str) -> str | None:
        """The final answer of a reply's text. None where there is none, as inside a think block that is never closed."""
        return extract_answer(text)

    def steps_in(self, text: str) -> list[str]:
        """The steps that a reply's text takes, in order and in one spelling: of two replies with equal lists, one adds nothing.
        Here these are its equations."""
        return [str(equation) for equation in equations(text)]

    def well_formed(self, text: str, thinking: bool) -> bool:
        """Whether a text, without its think block, is an answer in the usual form: exactly one is marked as final.
        thinking: whether there was a think block to work in."""
        return count_answers(text) == 1


def prompt_ids(tokenizer, problem: Problem, mode: str) -> list[int]:
    """The ids of a problem's prompt, up to where the model replies. A question that ends in " /no_think" is answered behind an
    empty think block."""
    prompt = problem.task.prompt(problem, mode)
    return tokenizer.encode_document(prompt) if isinstance(prompt, str) else tokenizer.chat_prompt(prompt)

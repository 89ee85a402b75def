"""The base class of tasks: a task gives problems, makes their prompts, and grades the replies.

    task.count                      how many problems it has; None: endless
    task.problem(i)                 problem number i, the same at every call
    task.prompt(problem, mode)      the input of the model: text, or the messages of a chat
    task.grade(problem, reply)      a Verdict on the reply

Some tasks also write text to train on; such a task (tasks/options.py, GENERATED) is a source of documents as well:

    task.lessons                    how many documents it writes; None: endless
    task.lesson(i)                  the problem of document i, with the solution that the document has
    task.document(i)                document i as text: (what is given, what is to be learned)
    task.reply(problem)             the problem's solution as a turn of a chat: (the working, what is said)
    task.messages(problem)          the same as messages; solutions with calls of tools have several

A task may have tools (task.tools, tasks/tools.py) that a reply in a chat may call.

Reinforcement learning and augmentation only use these. Evaluation also has a table of the world by operations and context, and
one of needles by length and depth. Tasks are the reasoning world (tasks/world.py), knowledge (tasks/knowledge.py), instructions
(tasks/instructions.py), needles in long texts (tasks/needle.py), what a text goes on with (tasks/text.py), files of questions
(tasks/questions.py), and a class in a user's file (tasks/user_task.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from formats.chat import THINK
from tasks.answers import check_answer, count_answers, extract_answer
from tasks.equations import equations
from tasks.tools import Call, Toolbox
from tasks.verdict import Verdict
from tokenizer import Tokenizer

# How a question is asked. "plain": as text, as in pre-training. "chat": as a user's turn. "think" and "no_think": as a user's
# turn with a flag at its end (Qwen3's soft switch).
SWITCHES = {"chat": "", "think": " /think", "no_think": " /no_think"}
MODES = ("plain", *SWITCHES)
# What a document of a generated task looks like: plain text; question and answer, marked as such; or a conversation in ChatML.
FORMATS = ("plain", "qa", "chat")


@dataclass
class Problem:
    question: str
    answer: str                 # the gold answer, without the solution
    solution: str = ""          # the worked solution
    domain: str = field(default="", kw_only=True)   # its subject or context, if that is known
    # the task that makes the prompt and grades replies; without one a reply is graded by its final answer
    task: Task = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        self.task = self.task or Task()

    @property
    def source(self) -> str:
        """The SPEC of the problem."""
        return self.task.source


@dataclass
class Reply:
    """One completion, for tasks and rewards."""
    text: str               # what the model said, with thinking marks, without the turns of tools; it begins with <think> even if
                            # the prompt opened the block
    tokens: int = 0         # the number of its tokens
    limit: int = 0          # the most tokens that were allowed
    finish: str = "stop"    # "stop" or "length"
    thinking: bool = False  # whether it should think: True in a chat, False in plain text and in no-think mode
    sample: int = 0         # its number in the group
    calls: list[Call] | None = None   # of tools; None if it had none to call
    gain: float | None = None    # in nats: by how much its thought makes the text behind it likelier (rl/scoring.py)
    # token by token, where somebody asked for that: the engine's Completion, and what turns ids into text
    completion: object | None = field(default=None, repr=False, compare=False)
    decode: Callable[[list[int]], str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, completion: Any, tokenizer: Tokenizer, limit: int, sample: int = 0, tools: Toolbox | None = None) -> Reply:
        """From a sampler.Completion. tools: what it could call."""
        c, chat = completion, tokenizer.im_start is not None and tokenizer.im_start in completion.prompt
        said, between = list(c.tokens), tokenizer.encode("\n")
        for call in reversed(c.calls):                    # a tool may print anything, and only what the model says is graded
            said[call.start:call.end] = between
        return cls(tokenizer.decode_reply(c.prompt, said), len(c.tokens), limit, c.finish,
                   chat and tokenizer.thinking_in(c.prompt) is not False, sample, c.calls if tools else None)


class Task:
    """The defaults of a task: the prompt is the question, and a reply is graded by its final answer (tasks/answers.py)."""

    count: int | None = None         # the number of problems; None: endless
    lessons: int | None = None       # the number of documents; None: endless
    has_steps = False                # whether `grade` checks steps, which some rewards need
    source = ""                      # its SPEC
    tools: Toolbox | None = None     # what a reply in a chat may call
    by_gain = False                  # whether replies are thoughts that are worth what they add to a text (rl/scoring.py)
    own_reward = ""                  # why its score is more than whether the answer is right; "": it is not

    def prepare(self, tokenizer: Tokenizer, device: str = "cpu") -> None:
        """Called once, before any problem is taken: the tokenizer of the model that is asked, for a task that counts in tokens,
        and the device for models of its own."""

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

    def messages(self, problem: Problem) -> list[dict]:
        """The problem's solution as the messages that answer the question."""
        working, said = self.reply(problem)
        return [{"role": "assistant", "content": said, "reasoning": working}]

    def useful_calls(self, problem: Problem) -> list[str] | None:
        """What a reply may ask the calculator because the solution needs it; None if that is not known."""
        return None

    def grade(self, problem: Problem, reply: Reply) -> Verdict:
        ok = check_answer(reply.text, problem.answer)
        return Verdict(ok, None, None, "ok" if ok else
                       f"answer {str(self.answer_in(reply.text))[:80]}, it is {problem.answer}")

    def score(self, problem: Problem, reply: Reply, group: Sequence[Reply]) -> float:
        """What the reward `score` pays for a reply: 1 for a right answer, unless the task says otherwise. group: all replies to
        the problem."""
        return float(self.grade(problem, reply).answer_ok)

    def examine(self, problem: Problem, replies: Sequence[Reply]) -> None:
        """Called before replies to one problem are graded, for a task that can do something for all of them at once."""

    def take_bills(self) -> list[tuple[str, int, int]]:
        """What models of its own have computed since the last call: (a kind of training/ledger.py, FLOPs, tokens)."""
        return []

    def answer_in(self, text: str) -> str | None:
        """The final answer of a reply's text, or None, for example if a think block is never closed."""
        return extract_answer(text)

    def steps_in(self, text: str) -> list[str]:
        """The steps that a reply's text takes, in order and in one spelling: of two replies with equal lists, one adds nothing.
        Here these are its equations."""
        return [str(equation) for equation in equations(text)]

    def well_formed(self, text: str, thinking: bool) -> bool:
        """Whether a text (without its think block) has exactly one answer that is marked as final. thinking: whether there was a
        think block."""
        return count_answers(text) == 1


def prompt_ids(tokenizer: Tokenizer, problem: Problem, mode: str) -> list[int]:
    """The ids of the prompt of a problem, up to the model's reply. If the question ends in " /no_think", the prompt ends with an
    empty think block; if the replies to the task are thoughts, with an open one."""
    prompt, opens = problem.task.prompt(problem, mode), problem.task.by_gain
    if not isinstance(prompt, str):
        return tokenizer.chat_prompt(prompt, True if opens else None)
    thinking = [] if not opens else tokenizer.encode(THINK) if tokenizer.think is None else [tokenizer.think]
    return tokenizer.encode_document(prompt) + thinking

"""The rewards that replies earn: pure functions reward(problem, reply, group) -> float, by name and with weights.

    mix = parse_rewards("strict:1+length:0.1", spec)            rewards by name; a name alone weighs 1
    mix = parse_rewards("answer+my_rewards.py:brevity:0.2")     and from a file of your own
    score_group(problem, replies, mix, seed)                    a Score for each of the G completions of one prompt

A new reward is a function here and an entry in REWARDS, or a function in a file of your own, and no more.

Three of them are wrong on purpose, as controls (arXiv 2506.10947): where random, incorrect or majority rewards teach as
much as true ones, it was not the reward that taught. They differ from the paper's: there, majority is the mode of 64
samples of the initial model, fixed before training, and incorrect rewards agreeing with that mode on the prompts where
it is wrong. Here majority is the mode of the group itself, and incorrect takes any wrong answer to any prompt.
"""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from formats import plugins
from formats.chat import END_THINK, THINK, split_thinking
from tasks.answers import same_answer
from tasks.problems import is_generated, open_task
from tasks.task import Problem, Reply, Verdict


@dataclass
class Group:
    """What a reward may look at beside its own reply."""
    problem: Problem
    replies: list[Reply]
    seed: int = 0

    @cached_property
    def majority(self) -> str | None:
        """The answer that most replies give, the earlier one of equals; None where nobody answers."""
        answers, votes = [], []
        for answer in (answer_of(self.problem, reply) for reply in self.replies):
            if answer is not None:
                at = next((i for i, other in enumerate(answers) if same_answer(answer, other)), len(answers))
                if at == len(answers):
                    answers.append(answer)
                    votes.append(0)
                votes[at] += 1
        return answers[votes.index(max(votes))] if answers else None


def answer_of(problem: Problem, reply: Reply) -> str | None:
    """The final answer of a reply, as its task reads it."""
    return problem.task.answer_in(reply.text)


def grade(problem: Problem, reply: Reply) -> Verdict:
    """Answer and steps of a reply, as its task grades them."""
    return problem.task.grade(problem, reply)


# the rewards

def checks_steps(reward: Callable) -> Callable:
    """Marks a reward that looks at the steps of a solution: it is refused for tasks that have none."""
    reward.checks_steps = True
    return reward


def answer_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """1 for a right final answer."""
    return float(grade(problem, reply).answer_ok)


@checks_steps
def process_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """The share of the gold steps that are right."""
    return grade(problem, reply).steps_ok


@checks_steps
def strict_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """1 for a right answer by right steps: R = R_out if R_pv = 1, else 0 (arXiv 2512.07783)."""
    return float(grade(problem, reply).ok)


def format_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """1 for a finished text of the right form, whatever it says.

    - A reply that should think: one <think> at the very start, some reasoning, one </think>, and behind it exactly one final
      answer (in the world one "Answer: N" line, else one \\boxed{} or another form that count_answers knows).
    - Any other: no thinking mark, and exactly one final answer; in the world, steps alone may stand before its line.
    """
    text = reply.text
    if reply.thinking:
        reasoning, said = split_thinking(text)
        good = bool((reasoning or "").strip()) and text.lstrip().startswith(THINK)
        good = good and text.count(THINK) == text.count(END_THINK) == 1
    else:
        said, good = text, THINK not in text and END_THINK not in text
    return float(good and reply.finish == "stop" and problem.task.well_formed(said, reply.thinking))


def length_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """1 for no tokens, falling in a straight line to 0 at the limit: short is better, right or wrong."""
    if reply.limit < 1:
        raise ValueError("the length reward needs Reply.limit, the most tokens that a completion may have")
    return max(0.0, 1 - reply.tokens / reply.limit)


def random_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """A fair coin for each (seed, question, sample), blind to the text; a resumed run throws the same ones."""
    key = f"{group.seed}|{reply.sample}|{problem.question}"
    return float(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=1).digest()[0] & 1)


def incorrect_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """1 for a final answer that is there and wrong."""
    return float(answer_of(problem, reply) is not None and not grade(problem, reply).answer_ok)


def majority_reward(problem: Problem, reply: Reply, group: Group) -> float:
    """1 for the answer that most of the group give."""
    return float(group.majority is not None and same_answer(answer_of(problem, reply), group.majority))


REWARDS = {"answer": answer_reward, "process": process_reward, "strict": strict_reward, "format": format_reward,
           "length": length_reward, "random": random_reward, "incorrect": incorrect_reward, "majority": majority_reward}


# a mix of them

class Weighted(NamedTuple):
    """One reward of a mix."""
    name: str
    function: Callable[[Problem, Reply, Group], float]
    weight: float

    @property
    def checks_steps(self) -> bool:
        return getattr(self.function, "checks_steps", False)

    def value(self, problem: Problem, reply: Reply, group: Group) -> float:
        """What a reply earns, without the weight. ValueError where that is no finite number; what is wrong in a user's file
        is a plugins.PluginError."""
        if not plugins.is_plugin(self.name):
            return _finite(self.function(problem, reply, group))
        with plugins.named(self.name):
            return _finite(self.function(problem, reply, group))


def _finite(number: float) -> float:
    number = float(number)
    if not math.isfinite(number):
        raise ValueError(f"the reward is {number}")
    return number


def parse_rewards(mix: str, *specs: str) -> list[Weighted]:
    """"strict:1+my_rewards.py:brevity:0.2" -> the rewards with their weights; a name alone weighs 1.

    specs: where the problems come from, to refuse rewards that need steps where there are none. ValueError in one line."""
    rewards = []
    for part in mix.split("+"):
        name, weight = re.fullmatch(r"(.+\.py:\w+|[^:]*)(?::(.*))?", part.strip(), re.DOTALL).groups()
        if name not in REWARDS and not plugins.is_plugin(name):
            raise ValueError(f"reward {name!r} is not known: use {', '.join(REWARDS)}, as in strict:1+length:0.1, or one of a "
                             "file of your own, as in my_rewards.py:brevity")
        if name in [seen.name for seen in rewards]:
            raise ValueError(f"reward {name!r} is given twice")
        try:
            factor = 1.0 if weight is None else float(weight)
        except ValueError:
            raise ValueError(f"reward {part!r}: {weight!r} is not a number") from None
        if not math.isfinite(factor):
            raise ValueError(f"reward {part!r}: use a finite weight")
        rewards.append(Weighted(name, REWARDS[name] if name in REWARDS else _from_file(name), factor))
        if rewards[-1].checks_steps and (without := [spec for spec in specs if not _has_steps(spec)]):
            raise ValueError(f"reward {name!r} checks steps, and {without[0]} has none: use answer, or world:...")
    return rewards


def _from_file(spec: str) -> Callable[[Problem, Reply, Group], float]:
    function = plugins.load(spec)
    if not callable(function):
        raise plugins.PluginError(f"{spec}: is no function; write one, reward(problem, reply, group) -> float")
    return function


def _has_steps(spec: str) -> bool:
    """Whether the problems of a SPEC have steps to check. (Of a file it is known without reading it.)"""
    return (is_generated(spec) or plugins.is_plugin(spec)) and open_task(spec).has_steps


# the scores of a group

@dataclass
class Score:
    reward: float            # the weighted sum of the parts
    parts: dict              # each reward by name, without its weight
    answer_ok: bool
    process_ok: bool | None  # None where a problem has no steps to check: only the world has
    steps_ok: float | None
    reason: str              # "ok", or the first thing that is wrong
    checks_steps: bool = False  # whether a reward looks at the steps

    @property
    def right(self) -> bool:
        """Right by what the rewards look at: the answer, and the steps if one of them checks those."""
        return self.answer_ok and (self.process_ok is not False or not self.checks_steps)


def score_group(problem: Problem, replies: list[Reply], rewards: list[Weighted], seed: int = 0,
                on_error: Callable[[str, str, Exception], None] | None = None) -> list[Score]:
    """Scores the G completions of one prompt; `rewards` is what parse_rewards gives.

    Texts come from models and rewards from users, so a reward that raises, or is not a finite number, counts as zero,
    and on_error(name, text, exception) is called. (What on_error raises ends the scoring: grpo.py does so at the first step,
    where a reward from a user's file fails.)"""
    group, scores = Group(problem, replies, seed), []

    def guarded(name, reply, function, *arguments, otherwise):
        try:
            return function(*arguments)
        except Exception as error:
            if on_error:
                on_error(name, reply.text, error)
            return otherwise

    checked = any(reward.checks_steps for reward in rewards)
    for reply in replies:
        parts = {r.name: guarded(r.name, reply, r.value, problem, reply, group, otherwise=0.0) for r in rewards}
        verdict = guarded("grade", reply, grade, problem, reply, otherwise=Verdict(False, False, 0.0, "cannot be graded"))
        total = sum(r.weight * parts[r.name] for r in rewards)
        scores.append(Score(total, parts, verdict.answer_ok, verdict.process_ok, verdict.steps_ok, verdict.reason, checked))
    return scores

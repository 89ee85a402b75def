"""Rewards of replies: pure functions reward(problem, reply, group) -> float, with names and weights.

    mix = parse_rewards("strict:1+length:0.1", spec)            rewards by name; without a weight it is 1
    mix = parse_rewards("answer+my_rewards.py:brevity:0.2")     also from a file of your own
    score_group(problem, replies, mix, seed)                    a Score for each of the G completions of one prompt

To add a reward, write a function here and an entry in REWARDS, or only a function in a file of your own.

Three rewards are wrong on purpose, as controls (arXiv 2506.10947). If a model learns as much from random, incorrect or majority
rewards as from true ones, then the gain does not come from the reward. They differ from those of the paper:

- majority: in the paper the most common answer of 64 samples of the initial model, fixed before training; here that of the group.
- incorrect: in the paper a reward for that most common answer, on the prompts where it is wrong; here for any wrong answer to any
  prompt.

augment.py vote makes the paper's labels, for either of the two: a file of questions, on which the reward is `answer`.
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
from tasks.options import is_generated
from tasks.problems import open_task
from tasks.task import Problem, Reply
from tasks.tools import needless_calls
from tasks.verdict import Verdict


@dataclass
class ReplyGroup:
    """What a reward gets in addition to its reply."""
    problem: Problem
    replies: list[Reply]
    seed: int = 0

    @cached_property
    def majority(self) -> str | None:
        """The most common answer of the replies (of equally common ones, the first); None if no reply has an answer."""
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
    """Marks a reward that uses the steps of a solution: it is refused for tasks without steps."""
    reward.checks_steps = True
    return reward


def answer_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """1 for a right final answer."""
    return float(grade(problem, reply).answer_ok)


@checks_steps
def process_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """The share of the gold steps that are right."""
    return grade(problem, reply).steps_ok


@checks_steps
def strict_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """1 for a right answer with right steps: R = R_out if R_pv = 1, else 0 (arXiv 2512.07783)."""
    return float(grade(problem, reply).ok)


def score_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """What the task itself pays: 1 for a right answer, unless the task says otherwise (tasks/text.py)."""
    return problem.task.score(problem, reply, group.replies)


def format_reward(problem: Problem, reply: Reply, group: ReplyGroup | None = None) -> float:
    """1 for a finished text in the right form, whatever its content.

    - A reply that should think: one <think> at the very start, some reasoning, one </think>, and then exactly one final answer
      (in the world one line "Answer: N", else one \\boxed{} or another form that count_answers knows).
    - Any other reply: no thinking mark, and exactly one final answer. In the world there may be only steps before its line.
    """
    text = reply.text
    if reply.thinking:
        reasoning, said = split_thinking(text)
        good = bool((reasoning or "").strip()) and text.lstrip().startswith(THINK)
        good = good and text.count(THINK) == text.count(END_THINK) == 1
    else:
        said, good = text, THINK not in text and END_THINK not in text
    return float(good and reply.finish == "stop" and problem.task.well_formed(said, reply.thinking))


def length_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """Falls linearly from 1 for no tokens to 0 at the limit, for right and for wrong replies."""
    if reply.limit < 1:
        raise ValueError("the length reward needs Reply.limit, the most tokens that a completion may have")
    return max(0.0, 1 - reply.tokens / reply.limit)


def random_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """0 or 1 at random, from (seed, question, sample) and not from the text; a resumed run gets the same values."""
    key = f"{group.seed}|{reply.sample}|{problem.question}"
    return float(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=1).digest()[0] & 1)


def incorrect_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """1 for a wrong final answer, 0 if there is no answer."""
    return float(answer_of(problem, reply) is not None and not grade(problem, reply).answer_ok)


def majority_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """1 for the most common answer of the group."""
    return float(group.majority is not None and same_answer(answer_of(problem, reply), group.majority))


def needless_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """The number of needless calls of tools (tasks/tools.py), for a weight below 0. They count in a wrong reply, too. Where most
    replies are wrong, it may then pay to give up and call nothing: thrift is without this trap."""
    return float(needless_calls(reply.calls or (), problem.task.useful_calls(problem)))


def thrift_reward(problem: Problem, reply: Reply, group: ReplyGroup) -> float:
    """The number of needless calls where the answer is right, else 0, as in OTC (arXiv 2504.14870). Use it with a weight below 0:
    strict+thrift:-0.1."""
    return needless_reward(problem, reply, group) if grade(problem, reply).answer_ok else 0.0


REWARDS = {"answer": answer_reward, "process": process_reward, "strict": strict_reward, "score": score_reward,
           "format": format_reward, "length": length_reward, "random": random_reward,
           "incorrect": incorrect_reward, "majority": majority_reward, "needless": needless_reward,
           "thrift": thrift_reward}


# a mix of them

class Weighted(NamedTuple):
    """One reward of a mix."""
    name: str
    function: Callable[[Problem, Reply, ReplyGroup], float]
    weight: float

    @property
    def checks_steps(self) -> bool:
        return getattr(self.function, "checks_steps", False)

    def value(self, problem: Problem, reply: Reply, group: ReplyGroup) -> float:
        """The reward of a reply, without the weight. ValueError if it is not a finite number. An error in a user's file is a
        plugins.PluginError."""
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
    """"strict:1+my_rewards.py:brevity:0.2" -> the rewards with their weights; without a weight it is 1.

    specs: the SPECs of the problems; rewards that need steps are refused if a SPEC has none. ValueError in one line."""
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


def _from_file(spec: str) -> Callable[[Problem, Reply, ReplyGroup], float]:
    function = plugins.load(spec)
    if not callable(function):
        raise plugins.PluginError(f"{spec}: is no function; write one, reward(problem, reply, group) -> float")
    return function


def _has_steps(spec: str) -> bool:
    """Whether the problems of a SPEC have steps to check. (Those of a file never have; it is not read.)"""
    return (is_generated(spec) or plugins.is_plugin(spec)) and open_task(spec).has_steps


# the scores of a group

@dataclass
class Score:
    reward: float            # the weighted sum of the parts
    parts: dict              # each reward by name, without its weight
    verdict: Verdict         # answer and steps, as the task grades them
    checks_steps: bool = False  # whether a reward uses the steps

    @property
    def solved(self) -> bool:
        """Whether the answer is right, and also the steps if a reward uses them."""
        return self.verdict.right if self.checks_steps else self.verdict.answer_ok


def score_group(problem: Problem, replies: list[Reply], rewards: list[Weighted], seed: int = 0,
                on_error: Callable[[str, str, Exception], None] | None = None) -> list[Score]:
    """Scores the G completions of one prompt; `rewards` is what parse_rewards gives.

    Texts come from models and rewards from users. So if a reward raises an exception, or is not a finite number, it counts as 0,
    and on_error(name, text, exception) is called. (on_error may raise an exception to end the scoring. grpo.py does so in the
    first step.)"""
    group, scores = ReplyGroup(problem, replies, seed), []

    def guarded(name, reply, function, *arguments, otherwise):
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:          # a text that a reward runs may call exit()
            if on_error:
                on_error(name, reply.text, error)
            return otherwise

    checked = any(reward.checks_steps for reward in rewards)
    for reply in replies:
        parts = {r.name: guarded(r.name, reply, r.value, problem, reply, group, otherwise=0.0) for r in rewards}
        verdict = guarded("grade", reply, grade, problem, reply, otherwise=Verdict(False, False, 0.0, "cannot be graded"))
        total = sum(r.weight * parts[r.name] for r in rewards)
        scores.append(Score(total, parts, verdict, checked))
    return scores

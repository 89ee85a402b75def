"""Completions with what they are worth, in groups: those of one prompt."""

from dataclasses import dataclass

from engine.requests import Completion
from tasks.rewards import Score
from tasks.task import Problem, Reply


@dataclass
class Rollout:
    """One completion, its reward, and its position in the packed batches."""
    problem: Problem
    completion: Completion
    reply: Reply                     # the text that rewards get
    score: Score                     # the rewards of the task, and the verdict
    overlong_penalty: float = 0.0    # DAPO's, at most 0; both penalties are added to the reward
    kl_penalty: float = 0.0          # summed over its tokens, with --kl-in reward
    needless: int = 0                # calls of tools that failed, were made before, or asked for nothing useful
    advantage: float = 0.0
    baseline: float = 0.0            # subtracted from the reward before returns are computed (REINFORCE++-baseline)
    batch: int = -1                  # set by `batches.pack`: number of the micro-batch, row and document; -1: not packed
    row: int = -1
    document: int = -1

    @property
    def earned(self) -> float:
        """The reward without the KL penalty. It decides whether a group has spread."""
        return self.score.reward + self.overlong_penalty

    @property
    def reward(self) -> float:
        """The reward for training."""
        return self.earned + self.kl_penalty

    @property
    def cut_off(self) -> bool:
        return self.completion.finish == "length"

    @property
    def drawn(self) -> int:
        """The number of sampled tokens, without those that a thinking budget forced."""
        return len(self.completion.tokens) - sum(self.completion.forced)


Group = list[Rollout]                # the completions of one prompt


def has_spread(group: Group) -> bool:
    """Whether the group has two different rewards (without the KL penalty). If not, nothing can be learned from it."""
    return len({r.earned for r in group}) > 1


def differs_by_task(group: Group) -> bool:
    """Whether the task itself gave two different rewards. --replace keeps such groups alone, as DAPO does (arXiv 2503.14476,
    section 3.2): where all are right or all are wrong, a penalty for length is no reason to keep them."""
    return len({r.score.reward for r in group}) > 1


@dataclass
class Collected:
    """The groups that this rank sampled in a step."""
    groups: list[Group]              # to train on
    sampled: list[Group]             # all, with those that were replaced
    busy: float                      # decode slots in use
    slots: float                     # all decode slots
    began: float = 0.0               # time.perf_counter() at the start
    seconds: float = 0.0             # the time it took

"""Advantages A: how much better a completion, or a token, did than expected.

There are two kinds. *Of a completion*: its reward is compared with those of its group, and all its tokens get the same A. *Of a
token*: its return, or GAE with a value head, whitened over the batch. A policy loss (rl/losses.py) names the kind that it uses.
REINFORCE++-baseline is between them: returns of a reward from which the group's mean was subtracted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from training.ranks import Ranks

# Of a completion: rewards (P, G) -> how much each reward is above the others (P, G)

def above_group_mean(rewards: torch.Tensor) -> torch.Tensor:
    """The reward minus the mean of its group (GRPO, arXiv 2402.03300)."""
    return rewards - rewards.mean(dim=1, keepdim=True)


def above_the_others(rewards: torch.Tensor) -> torch.Tensor:
    """The reward minus the mean of the others, leave-one-out (RLOO, arXiv 2402.14740): G / (G - 1) times above_group_mean."""
    G = rewards.shape[1]
    return above_group_mean(rewards) * (G / max(1, G - 1))


# What the difference is divided by: rewards (P, G), a function that gives the standard deviation of all rewards of the batch
# (over all ranks, which must call it together) -> numbers that can be divided by, (P, 1) or one for all

def group_mean(rewards: torch.Tensor, deviation: Callable) -> torch.Tensor:
    """The mean reward of the group (MaxRL, arXiv 2602.02710). With rewards 0 and 1, (R - mean) / mean averages the gradient of
    log pi over the right completions alone: an estimate of the gradient of the log of the pass rate, so hard prompts weigh more.
    Without a right one A is 0. ValueError for a reward below 0."""
    if bool((rewards < 0).any()):
        raise ValueError(f"--scale mean divides by the mean reward of the group, and a reward is {float(rewards.min()):g}; use "
                         "rewards of at least 0, or another --scale")
    mean = rewards.mean(dim=1, keepdim=True)
    return torch.where(mean > 0, mean, 1.0)


SCALES = {
    "group": lambda rewards, deviation: rewards.std(dim=1, keepdim=True) + 1e-6,          # over G - 1, as GRPO has it
    "batch": lambda rewards, deviation: deviation() + 1e-6,
    "mean": group_mean,                                                                   # as MaxRL has it
    "none": lambda rewards, deviation: 1.0,                                               # as Dr. GRPO has it
}


def group_advantages(compare: Callable, rewards: torch.Tensor, scale: str,
                     deviation: Callable[[], float] | None = None) -> torch.Tensor:
    """A of each completion from the rewards of its group: (P, G) -> (P, G).

    compare: one of the two functions above. scale: an entry of SCALES; deviation: what that may call."""
    return compare(rewards) / SCALES[scale](rewards, deviation)


# Of a token: all (B, T) -> (B, T)

def gae(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor, gamma: float = 1.0,
        lam: float = 1.0) -> torch.Tensor:
    """Generalised advantage estimation (arXiv 1506.02438) in packed rows. It goes over the tokens with mask 1, from the last."""
    out, next_value, running = torch.zeros_like(rewards), rewards.new_zeros(len(rewards)), rewards.new_zeros(len(rewards))
    for t in range(rewards.shape[1] - 1, -1, -1):
        if t + 1 < rewards.shape[1]:                      # start again at the end of each document
            same = (documents[:, t] == documents[:, t + 1]).to(rewards.dtype)
            next_value, running = next_value * same, running * same
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        step = delta + gamma * lam * running
        counts = mask[:, t] > 0
        running, next_value = torch.where(counts, step, running), torch.where(counts, values[:, t], next_value)
        out[:, t] = running * counts
    return out


def discounted_returns(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, documents: torch.Tensor,
                       gamma: float = 1.0, lam: float = 1.0) -> torch.Tensor:
    """The discounted sum of the reward of a token and of all later tokens (REINFORCE++, arXiv 2501.03262). This is GAE with
    values 0 and lambda 1, so `values` and `lam` are not used."""
    return gae(rewards, torch.zeros_like(values), mask, documents, gamma, 1.0)


@dataclass(frozen=True)
class Advantages:
    """A kind of advantages: its function, whether each token has its own, and whether a value head is needed. baseline: of a
    token, and the mean reward of the group is subtracted from the reward first."""
    function: Callable
    by_token: bool = False
    value_head: bool = False
    baseline: bool = False

    @property
    def in_group(self) -> bool:
        """Whether rewards are compared within a group, so that a group needs two different ones."""
        return self.baseline or not self.by_token


GROUP_MEAN = Advantages(above_group_mean)
LEAVE_ONE_OUT = Advantages(above_the_others)
RETURNS = Advantages(discounted_returns, by_token=True)
RETURNS_IN_GROUP = Advantages(discounted_returns, by_token=True, baseline=True)           # REINFORCE++-baseline, the same paper
GAE = Advantages(gae, by_token=True, value_head=True)


# For a complete batch, over all ranks, which must call these functions together

def moments(run: Ranks, x: list[torch.Tensor], mask: list[torch.Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over the positions with mask 1, of all micro-batches and ranks: lists of (B, T)."""
    n, total, squares = run.sum(*(sum(float((v.double() ** k * m).sum()) for v, m in zip(x, mask, strict=True))
                                  for k in range(3)))
    mean = total / max(1.0, n)
    return mean, max(0.0, squares / max(1.0, n) - mean ** 2) ** 0.5


def whiten(run: Ranks, x: list[torch.Tensor], mask: list[torch.Tensor]) -> list[torch.Tensor]:
    """x minus its mean, divided by its standard deviation."""
    mean, deviation = moments(run, x, mask)
    return [(v - mean) / (deviation + 1e-6) for v in x]

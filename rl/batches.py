"""Turns completions into packed batches: splits them into minibatches, packs them into rows, sets advantages on tokens."""

from dataclasses import dataclass

import numpy as np
import torch

from rl.advantages import Advantages, group_advantages, moments, whiten
from rl.groups import Group, Rollout
from training.batch import Batch, batch_from, rounded_up
from training.ranks import Ranks

MICRO_TOKENS = {"cpu": 4096, "cuda": 16384}              # defaults of --micro-tokens; micro-batches of equal size have few shapes


@dataclass
class RolloutBatch(Batch):
    """Packed completions, each after its prompt, all (B, T). loss_mask is 1 on the tokens that have a loss."""
    sampler_logprobs: torch.Tensor   # reported by the sampler
    rewards: torch.Tensor            # the reward minus its baseline, on the last sampled (not forced) token of its completion
    advantages: torch.Tensor         # this and the next fields are set before the updates (rl/update.py)
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    returns: torch.Tensor


@dataclass
class TaughtBatch(Batch):
    """Distillation: a packed batch of the student's, all (B, T), and what the teacher reads, all (B', T')."""
    sampler_logprobs: torch.Tensor   # reported by the sampler; 0 in given data
    pieces: torch.Tensor             # with another tokenizer: the number of the piece that a token is in; -1: none
    where: torch.Tensor              # the slot of the teacher's batch, flattened, in which it predicts the same token or piece
    seen: torch.Tensor               # the teacher's tokens, (B', T') like the following
    seen_targets: torch.Tensor
    seen_documents: torch.Tensor
    seen_pieces: torch.Tensor


@dataclass
class Minibatch:
    """The data of one optimiser step on this rank."""
    micro: list[Batch]               # micro-batches: at least one, and the same number on each rank
    divisor: int                     # of the sum of its token losses: see PolicyLoss.divisor
    slots: int                       # slots with tokens, including those of prompts


def deal(groups: list[Group], places: range, P: int, parts: int, seed: int) -> list[list[Rollout]]:
    """Shuffles the completions of a batch of P groups and splits them into `parts`; returns this rank's completions in each part.

    places: the position of each of this rank's groups in the batch. The order is drawn for the complete batch, so the parts are
    the same for any number of ranks."""
    G = max(map(len, groups), default=0)
    mine = {place * G + i: r for place, group in zip(places, groups, strict=True) for i, r in enumerate(group)}
    order = np.random.default_rng(seed).permutation(P * G).tolist()
    return [[mine[i] for i in order[m::parts] if i in mine] for m in range(parts)]


def slots_of(r: Rollout) -> int:
    """The slots of a completion with its prompt; the last token is only a target."""
    return len(r.completion.prompt) + len(r.completion.tokens) - 1


def pack(rollouts: list[Rollout], T: int = 0, micro_tokens: int = 16384,
         dtype: torch.dtype = torch.float32) -> list[RolloutBatch]:
    """Packs completions with their prompts into rows of T slots, and rows into batches of at most micro_tokens.

    The longest comes first, and each goes into the first row in which it fits. Each rollout notes its position. Without rollouts
    there is one row of padding, so that every rank has a batch. T = 0: at least 512, at least the longest, and a multiple of 256
    (oneDNN keeps some code for each shape)."""
    T = T or rounded_up(max([slots_of(r) for r in rollouts] + [512]), 256)
    rows, space, height = [], [], max(1, micro_tokens // T)
    for r in sorted(rollouts, key=slots_of, reverse=True):
        b = next((b for b, left in enumerate(space) if left >= slots_of(r)), len(rows))
        if b == len(rows):
            rows.append([])
            space.append(T)
        r.batch, r.row = divmod(b, height)
        r.document = len(rows[b])
        rows[b].append(r)
        space[b] -= slots_of(r)
    rows = rows or [[]]
    return [batch_of(rows[i:i + height], T, dtype) for i in range(0, len(rows), height)]


def pack_alike(run: Ranks, rollouts: list[Rollout], T: int, micro_tokens: int = 0) -> list[RolloutBatch]:
    """As `pack`, with the same number of batches on each rank, which all must call it together. micro_tokens 0: MICRO_TOKENS."""
    micro = pack(rollouts, T, micro_tokens or MICRO_TOKENS[run.device.type], run.weight_dtype)
    return micro + pack([], dtype=run.weight_dtype) * (run.max(len(micro)) - len(micro))


def batch_of(rows: list[list[Rollout]], T: int, dtype: torch.dtype = torch.float32) -> RolloutBatch:
    """A batch. rows: the completions of each row, which fill at most T slots."""
    def document(c):
        return np.array(c.prompt + c.tokens), np.array([0.0] * len(c.prompt) + [1.0 - f for f in c.forced], np.float32)
    base = batch_from([[document(r.completion) for r in row] for row in rows], T)
    logprobs, rewards = torch.zeros(len(rows), T, dtype=dtype), torch.zeros(len(rows), T, dtype=dtype)        # (B, T)
    for b, row in enumerate(rows):
        end = 0
        for r in row:
            end += slots_of(r)
            start = end - len(r.completion.tokens)
            logprobs[b, start:end] = torch.tensor(r.completion.logprobs, dtype=dtype)
            drawn = base.loss_mask[b, start:end].nonzero()
            if len(drawn):                                # a reward on a forced token would have no effect
                rewards[b, start + int(drawn[-1])] = r.reward - r.baseline
    later = ("advantages", "old_logprobs", "ref_logprobs", "values", "returns")
    return RolloutBatch(**vars(base), sampler_logprobs=logprobs, rewards=rewards,
                        **{name: torch.zeros(len(rows), T, dtype=dtype) for name in later})                   # (B, T) each


def find(r: Rollout, micro: list[RolloutBatch]) -> tuple[RolloutBatch, tuple]:
    """The micro-batch of a completion, and the index of its slots there."""
    b = micro[r.batch]
    return b, (r.row, b.documents[r.row] == r.document)


def fill_advantages(rollouts: list[Rollout], micro: list[RolloutBatch]) -> None:
    """Sets the advantage of each completion on its tokens."""
    for r in rollouts:
        if r.batch >= 0:
            b, here = find(r, micro)
            b.advantages[here] = r.advantage


def mask_out(rollouts: list[Rollout], micro: list[RolloutBatch]) -> None:
    """Removes packed completions from the loss."""
    for r in rollouts:
        b, here = find(r, micro)
        b.loss_mask[here] = 0


def compare_groups(run: Ranks, how: Advantages, groups: list[Group], G: int, scale: str) -> None:
    """Sets the advantage of each completion, from the rewards of its group."""
    rewards = torch.tensor([[r.reward for r in g] for g in groups], dtype=torch.float64).view(-1, G)          # (P, G)
    def deviation():
        return moments(run, [rewards], [torch.ones_like(rewards)])[1]
    found = group_advantages(how.function, rewards, scale, deviation).tolist()
    for group, advantages in zip(groups, found, strict=True):
        for r, advantage in zip(group, advantages, strict=True):
            r.advantage = advantage


def subtract_baselines(groups: list[Group]) -> None:
    """Sets the baseline of each completion: the mean reward of its group."""
    for group in groups:
        for r in group:
            r.baseline = sum(other.earned for other in group) / len(group)


def compare_tokens(run: Ranks, how: Advantages, batches: list[RolloutBatch], gamma: float, lam: float) -> None:
    """Sets the advantage of each token, whitened over all batches together, and the returns that a value head learns."""
    raw = [how.function(b.rewards, b.values, b.loss_mask, b.documents, gamma, lam) for b in batches]
    for b, a, white in zip(batches, raw, whiten(run, raw, [b.loss_mask for b in batches]), strict=True):
        b.returns, b.advantages = a + b.values, white

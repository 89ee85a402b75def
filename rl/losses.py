"""Policy losses: each is one entry of a table, LOSSES, that says everything about it.

No other code uses their names. With advantages A and the ratio r = pi / pi_old, the loss of a sampled token is

    surrogate(r, log pi, A, clip)          for example -min(r A, clip(r) A)

and the loss of a batch is a mean of these. To add a loss, write its surrogate (if it is new) and an entry:

    def masked(ratio, logprobs, advantages, clip):
        inside = (ratio >= 1 - clip.low) & (ratio <= 1 + clip.high)
        return torch.where(inside, -ratio * advantages, 0.0)

    LOSSES["masked"] = PolicyLoss(surrogate=masked, mean="token", reads=("clip_low", "clip_high"))
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rl.advantages import GAE, GROUP_MEAN, LEAVE_ONE_OUT, RETURNS, RETURNS_IN_GROUP, SCALES, Advantages
from rl.correction import CORRECTIONS
from rl.groups import Rollout
from training.batch import document_sums, of_documents

NO_CLIP = 1e9                        # more than any ratio here, which is at most exp(20)


@dataclass(frozen=True)
class Clip:
    """How far the policy may move.

    - low, high: the bounds of the ratio are 1 - low and 1 + high (of DPPO: bounds of the divergence)
    - dual: for A < 0 another bound of the ratio, if it is not 0
    - tau_pos, tau_neg: the temperatures of SAPO's gate for A > 0, and for other A"""
    low: float = 0.2
    high: float = 0.2
    dual: float = 0.0
    tau_pos: float | None = None
    tau_neg: float | None = None


# Surrogates: ratio, logprobs, advantages (B, T) -> the loss of each token (B, T)

def clipped(ratio: Tensor, logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """That of PPO: -min(r A, clip(r) A) (arXiv 1707.06347, equation 7). A token whose ratio has passed the bound in the direction
    of its advantage has no gradient. With the dual clip the loss of a bad token is at most dual |A| (arXiv 1912.09729)."""
    bounded = ratio.clamp(1 - clip.low, 1 + clip.high)
    gain = torch.minimum(ratio * advantages, bounded * advantages)
    if clip.dual:
        gain = torch.where(advantages < 0, torch.maximum(gain, clip.dual * advantages), gain)
    return -gain


def clipped_weight(ratio: Tensor, logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """That of CISPO: -sg(clip(r)) A log pi (arXiv 2506.13585; sg: without gradient). The ratio is only a weight, so every token
    has a gradient."""
    bounded = ratio.clamp(1 - clip.low, 1 + clip.high)
    return -bounded.detach() * advantages * logprobs


def gated(ratio: Tensor, logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """That of SAPO: -A (4 / tau) sigmoid(tau (r - 1)) (arXiv 2511.20347, its gate f in the objective J). There is no clip: the
    gradient is that of -r A at r = 1, and fades out on both sides. For bad tokens it fades faster: their tau is larger."""
    tau = temperatures(advantages, clip)
    return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages


def temperatures(advantages: Tensor, clip: Clip) -> Tensor:
    """SAPO's tau of each token (B, T)."""
    return torch.where(advantages > 0, torch.full_like(advantages, clip.tau_pos), clip.tau_neg)


def masked_beyond(divergence: Callable) -> Callable:
    """That of DPPO (arXiv 2602.04879): -r A, and 0 for a token whose probability has moved too far in the direction of its
    advantage: divergence(log pi, log pi_old) > clip.high for A > 0 and r > 1, > clip.low for A < 0 and r < 1.

    A ratio says little of a rare token: from 0.001 to 0.002 it doubles, and hardly anything has moved. A divergence sees this."""
    def surrogate(ratio, logprobs, advantages, clip):
        too_far = torch.stack([*divergence_shares(divergence)(ratio, logprobs, advantages, clip).values()]).any(dim=0)
        return torch.where(too_far, 0.0, -ratio * advantages)
    return surrogate


# Divergences of pi from pi_old that look at the drawn token alone: this token, or any other. log pi, log pi_old (B, T) -> (B, T)

def binary_tv(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Total variation: |pi - pi_old|."""
    return (logprobs.exp() - old_logprobs.exp()).abs()


def binary_kl(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """KL(pi_old || pi) of the two outcomes."""
    p, others, others_old = old_logprobs.exp(), rest(logprobs), rest(old_logprobs)
    return p * (old_logprobs - logprobs) + others_old * (others_old / others).log()


def rest(logprobs: Tensor) -> Tensor:
    """1 - p, which is not 0."""
    return (-torch.expm1(logprobs)).clamp(min=1e-8)


# Metrics: ratio, logprobs, advantages (B, T) -> {name: value of each token (B, T)}, logged as means over tokens

def clip_shares(ratio: Tensor, logprobs: Tensor, advantages: Tensor, clip: Clip) -> dict[str, Tensor]:
    """The tokens that are clipped at the lower and at the upper bound."""
    return {"clip_low": (ratio < 1 - clip.low) & (advantages < 0), "clip_high": (ratio > 1 + clip.high) & (advantages > 0)}


def divergence_shares(divergence: Callable) -> Callable:
    """The same of a bounded divergence."""
    def shares(ratio, logprobs, advantages, clip):
        with torch.no_grad():
            moved = divergence(logprobs, logprobs - ratio.log())
            return {"clip_low": (moved > clip.low) & (ratio < 1) & (advantages < 0),
                    "clip_high": (moved > clip.high) & (ratio > 1) & (advantages > 0)}
    return shares


def gate_share(ratio: Tensor, logprobs: Tensor, advantages: Tensor, clip: Clip) -> dict[str, Tensor]:
    """How much of the gradient of -r A SAPO's gate lets through: from 1 at r = 1 down to 0."""
    opened = torch.sigmoid(temperatures(advantages, clip) * (ratio - 1))
    return {"gate": 4 * opened * (1 - opened)}


@dataclass(frozen=True)
class PolicyLoss:
    """One policy loss.

    - ratio: "token": each token has its own r; "mean" or "product": all tokens of a completion have one r, the geometric mean or
      the product of the r of its tokens
    - surrogate: the loss of a token, which clips, masks or weights it; a function as above
    - mean: "completion": over the tokens of each completion, then over completions; "token": over all tokens of the minibatch;
      "constant": the sum over the tokens of a completion divided by the largest cap, then the mean over completions
    - advantages: one of rl/advantages.py
    - scale: the default of --scale, the divisor of a completion's advantage: the deviation of its "group" or of the "batch", or
      "none"; None if advantages are of tokens, which are whitened
    - old: the default of --old: whose log-probabilities are pi_old, the "trainer"'s or the "sampler"'s
    - clip_low, clip_high, tau_pos, tau_neg: the defaults of the flags with these names (1 and NO_CLIP: no clip)
    - reads: which of the flags clip_low, clip_high, dual_clip, tau_pos and tau_neg have an effect
    - metrics: what it adds to the log; a function as above
    - refuses: more flags that do not go with it, in addition to those in `refusals`: ((condition(args), how to fix it), ...)
    """
    ratio: str = "token"
    surrogate: Callable = clipped
    mean: str = "completion"
    advantages: Advantages = GROUP_MEAN
    scale: str | None = "group"
    old: str = "trainer"
    clip_low: float = 0.2
    clip_high: float = 0.2
    tau_pos: float | None = None
    tau_neg: float | None = None
    reads: tuple[str, ...] = ("clip_low", "clip_high", "dual_clip")
    metrics: Callable = clip_shares
    refuses: tuple[tuple[Callable, str], ...] = ()

    def __post_init__(self):
        for value, allowed in ((self.ratio, ("token", "mean", "product")), (self.mean, ("completion", "token", "constant")),
                               (self.scale, (None,) if self.advantages.by_token else tuple(SCALES)),
                               (self.old, ("trainer", "sampler"))):
            if value not in allowed:
                raise ValueError(f"a policy loss says {value!r} where it must be one of {allowed}")

    def ratios(self, logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, documents: Tensor) -> Tensor:
        """r of each token, (B, T). With ratio "mean" or "product" all tokens of a completion have the same r."""
        log_ratio = (logprobs - old_logprobs) * mask
        if self.ratio != "token":
            total = document_sums(log_ratio, documents)                       # (B, M), M completions in a row
            if self.ratio == "mean":
                total = total / document_sums(mask, documents).clamp(min=1)
            log_ratio = of_documents(total, documents) * mask                 # (B, T)
        return log_ratio.clamp(-20, 20).exp()

    def of_tokens(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, documents: Tensor,
                  clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each token and its metrics: all (B, T). mask is 1 on the tokens with a loss."""
        ratio = self.ratios(logprobs, old_logprobs, mask, documents)
        with torch.no_grad():
            metrics = self.metrics(ratio, logprobs, advantages, clip)
        return self.surrogate(ratio, logprobs, advantages, clip), metrics

    def token_weights(self, mask: Tensor, documents: Tensor, longest: int) -> Tensor:
        """The weight of the loss of each token (B, T). The weighted sum is then divided by `divisor`. longest: the largest
        cap."""
        if self.mean == "completion":
            return mask / document_sums(mask, documents).clamp(min=1).gather(1, documents.clamp(min=0))
        return mask / longest if self.mean == "constant" else mask

    def divisor(self, rollouts: list[Rollout]) -> int:
        """The divisor of a minibatch on this rank: the number of tokens if the mean is over tokens, else of completions."""
        return sum(r.drawn for r in rollouts) if self.mean == "token" else len(rollouts)

    def refusals(self, args: Namespace) -> list[str]:
        """Why some of these flags do not go with the loss, and how to fix it: one line for each."""
        rules = (
            (self.ratio != "token" and CORRECTIONS[args.correction].ratio == "token",
             f"--correction {args.correction} weighs each token, and --loss {args.loss} has one ratio for the "
             "whole completion; use seq-tis, seq-mis or geo-mis"),
            (self.advantages.in_group and args.group < 2, "--group must be at least 2: a completion is compared with the "
             "others of its group"),
            (self.advantages.value_head and args.shard, f"--loss {args.loss} needs whole weights; leave --shard out"),
        )
        return [fix for wrong, fix in rules if wrong] + [fix for wrong, fix in self.refuses if wrong(args)]


# DPPO as its authors run it: Dr. GRPO's mean and advantages, and the policy that sampled as pi_old
DPPO = {"mean": "constant", "scale": "none", "old": "sampler", "reads": ("clip_low", "clip_high")}

LOSSES = {
    "grpo": PolicyLoss(),
    "dr_grpo": PolicyLoss(mean="constant", scale="none"),
    "dapo": PolicyLoss(mean="token", clip_high=0.28),
    "gspo": PolicyLoss(ratio="mean", clip_low=3e-4, clip_high=4e-4),
    # the paper has no lower clip and leaves the upper one to be tuned; a weight of at most 5 is that of TRL's recipe for ScaleRL
    "cispo": PolicyLoss(surrogate=clipped_weight, mean="token", clip_low=1.0, clip_high=4.0, reads=("clip_low", "clip_high")),
    "dppo_tv": PolicyLoss(surrogate=masked_beyond(binary_tv), metrics=divergence_shares(binary_tv), clip_low=0.15, clip_high=0.15,
                          **DPPO),
    "dppo_kl": PolicyLoss(surrogate=masked_beyond(binary_kl), metrics=divergence_shares(binary_kl), clip_low=0.05, clip_high=0.05,
                          **DPPO),
    "sapo": PolicyLoss(surrogate=gated, metrics=gate_share, clip_low=1.0, clip_high=NO_CLIP, tau_pos=1.0, tau_neg=1.05,
                       reads=("tau_pos", "tau_neg")),
    "maxrl": PolicyLoss(mean="token", scale="mean"),
    "rloo": PolicyLoss(ratio="product", advantages=LEAVE_ONE_OUT, scale="none", clip_low=1.0, clip_high=NO_CLIP),
    "rlp": PolicyLoss(advantages=LEAVE_ONE_OUT, scale="none"),
    "reinforce++": PolicyLoss(mean="token", advantages=RETURNS, scale=None),
    "reinforce++-baseline": PolicyLoss(mean="token", advantages=RETURNS_IN_GROUP, scale=None),
    "ppo": PolicyLoss(mean="token", advantages=GAE, scale=None),
}

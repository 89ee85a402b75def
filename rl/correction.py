"""Off-policy correction: the weight of a token where the sampler's probabilities are not those of pi_old.

Each correction is one entry of a table, CORRECTIONS. With rho = pi_old / pi_sampler, both of the weights that sampled, and a
bound C:

- none: 1
- tis: min(rho, C), truncated importance sampling
- mis: rho where rho <= C, else 0, masked importance sampling
- icepop: rho where it is within [c, C], else 0, masked on both sides (Ring-1T, arXiv 2510.18855; 0.5 and 5)
- seq-tis, seq-mis: the same with the product of the completion's rho; without the bound it would be unbiased, and it varies more
- geo-mis: their geometric mean where it is within [1/C, C], else 0

Beside it there are two masks that go with any correction: `veto` in `correction`, and `sequence_mask`.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from training import cli
from training.batch import document_sums
from training.metrics import Largest
from training.run import Run

# Weights: rho (B, T), C, c -> (B, T)

def truncated(rho: torch.Tensor, cap: float, low: float) -> torch.Tensor:
    return rho.clamp(max=cap)


def masked(rho: torch.Tensor, cap: float, low: float) -> torch.Tensor:
    return torch.where(rho <= cap, rho, 0.0)


def masked_on_both_sides(rho: torch.Tensor, cap: float, low: float) -> torch.Tensor:
    return torch.where((rho <= cap) & (rho >= 1 / cap), rho, 0.0)


def within(rho: torch.Tensor, cap: float, low: float) -> torch.Tensor:
    return torch.where((rho <= cap) & (rho >= low), rho, 0.0)


@dataclass(frozen=True)
class Correction:
    """One correction.

    - weigh: how rho becomes a weight; None: there is no weight
    - ratio: whether rho is of each "token", or of the whole completion: the "product" of its tokens' or their geometric "mean"
      (the words of PolicyLoss.ratio, rl/losses.py); "" where there is no weight
    - cap, low: the defaults of C and c; low is None where there is no c"""
    weigh: Callable | None
    ratio: str = "token"
    cap: float = 2.0
    low: float | None = None


CORRECTIONS = {
    "none": Correction(None, ratio=""),
    "tis": Correction(truncated),
    "mis": Correction(masked),
    "icepop": Correction(within, cap=5.0, low=0.5),
    "seq-tis": Correction(truncated, ratio="product"),
    "seq-mis": Correction(masked, ratio="product"),
    "geo-mis": Correction(masked_on_both_sides, ratio="mean"),
}


def correction(kind: str, old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, mask: torch.Tensor,
               documents: torch.Tensor, cap: float = 2.0, veto: float = 0.0, low: float | None = None) -> torch.Tensor:
    """Weight of each token that turns an expectation under the sampler into one under pi_old: (B, T), without gradient.

    kind: an entry of CORRECTIONS; cap, low: its C and c. veto: a completion with any rho below it has weight 0. This corrects
    from the sampler to pi_old only; the step from pi_old to pi is the ratio's. To take the recomputed pi_old for the policy that
    sampled is the common bug."""
    log_rho = (old_logprobs - sampler_logprobs).detach() * mask
    weights, how = torch.ones_like(mask), CORRECTIONS[kind]
    if veto:
        unlikely = (log_rho.clamp(-20, 20).exp() < veto).to(mask.dtype) * mask
        weights = torch.where(document_sums(unlikely, documents).gather(1, documents.clamp(min=0)) > 0, 0.0, weights)
    if how.weigh is None:
        return weights
    if how.ratio != "token":
        total = document_sums(log_rho, documents)                             # (B, M), M completions in a row
        if how.ratio == "mean":
            total = total / document_sums(mask, documents).clamp(min=1)
        log_rho = total.gather(1, documents.clamp(min=0))                     # (B, T)
    return how.weigh(log_rho.clamp(-20, 20).exp(), cap, low) * weights


def sequence_mask(logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor,
                  documents: torch.Tensor, most: float) -> torch.Tensor:
    """0 on the bad tokens (A < 0) of a completion that has become too unlikely, else 1: (B, T), without gradient.

    Too unlikely: the mean over its tokens of log pi_sampler - log pi is more than `most` (DeepSeek-V3.2, arXiv 2512.02556,
    off-policy sequence masking in section 3.1). pi is the current policy and pi_sampler what the sampler reported, so this
    measures both how far the policy has moved and how far sampler and trainer differ. Good completions are kept however far they
    are: they pull the policy back to what it can sample; bad ones that it would not sample any more push it anywhere."""
    apart = document_sums((sampler_logprobs - logprobs).detach() * mask, documents)           # (B, M), M completions in a row
    apart = apart / document_sums(mask, documents).clamp(min=1)
    return 1 - ((apart.gather(1, documents.clamp(min=0)) > most) & (advantages < 0)).to(mask.dtype)


def compare_with_sampler(run: Run, args: Namespace, logprobs: torch.Tensor, b: Any) -> dict:
    """Metrics: how far the log-probabilities of trainer and sampler differ, both with the weights that sampled. b: a packed batch
    with `sampler_logprobs`. In exact mode a difference ends the run, if it was not put in on purpose (rl/mismatch.py)."""
    apart = (logprobs - b.sampler_logprobs).abs() * b.loss_mask
    largest = float(apart.max())
    if args.exact and largest and not (args.async_steps or getattr(args, "mismatch", ())):
        cli.fail(f"step {run.step}: in exact mode sampler and trainer differ by {largest}; the last checkpoint is "
                 "unharmed. `python bench.py probe` shows which block is not invariant; without --exact the run goes on")
    return {"logprob_diff_mean": (float(apart.sum()), float(b.loss_mask.sum())), "logprob_diff_max": Largest(largest)}

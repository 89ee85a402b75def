"""Off-policy correction: the weight of a token where the sampler's probabilities are not those of pi_old.

Each correction is one entry of a table, CORRECTIONS. With rho = pi_old / pi_sampler, both of the weights that sampled, and a
bound C:

- none: 1
- tis: min(rho, C), truncated importance sampling
- mis: rho where rho <= C, else 0, masked importance sampling
- seq-tis, seq-mis: the same with the product of the completion's rho, which is unbiased but varies more
- geo-mis: their geometric mean where it is within [1/C, C], else 0
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

# Weights: rho (B, T), C -> (B, T)

def truncated(rho: torch.Tensor, cap: float) -> torch.Tensor:
    return rho.clamp(max=cap)


def masked(rho: torch.Tensor, cap: float) -> torch.Tensor:
    return torch.where(rho <= cap, rho, 0.0)


def masked_on_both_sides(rho: torch.Tensor, cap: float) -> torch.Tensor:
    return torch.where((rho <= cap) & (rho >= 1 / cap), rho, 0.0)


@dataclass(frozen=True)
class Correction:
    """How rho becomes a weight; and whether rho is of each "token", or of the whole completion: the "product" of its tokens' or
    their geometric "mean" (the words of PolicyLoss.ratio, rl/losses.py); "" where there is no weight."""
    weigh: Callable | None
    ratio: str = "token"


CORRECTIONS = {
    "none": Correction(None, ratio=""),
    "tis": Correction(truncated),
    "mis": Correction(masked),
    "seq-tis": Correction(truncated, ratio="product"),
    "seq-mis": Correction(masked, ratio="product"),
    "geo-mis": Correction(masked_on_both_sides, ratio="mean"),
}


def correction(kind: str, old_logprobs: torch.Tensor, sampler_logprobs: torch.Tensor, mask: torch.Tensor,
               documents: torch.Tensor, cap: float = 2.0, veto: float = 0.0) -> torch.Tensor:
    """Weight of each token that turns an expectation under the sampler into one under pi_old: (B, T), without gradient.

    kind: an entry of CORRECTIONS; cap: its C. veto: a completion with any rho below it has weight 0. This corrects from the
    sampler to pi_old only; the step from pi_old to pi is the ratio's. To take the recomputed pi_old for the policy that sampled
    is the common bug."""
    log_rho = (old_logprobs - sampler_logprobs).detach() * mask
    weights, how = torch.ones_like(mask), CORRECTIONS[kind]
    if veto:
        low = (log_rho.clamp(-20, 20).exp() < veto).to(mask.dtype) * mask
        weights = torch.where(document_sums(low, documents).gather(1, documents.clamp(min=0)) > 0, 0.0, weights)
    if how.weigh is None:
        return weights
    if how.ratio != "token":
        total = document_sums(log_rho, documents)                             # (B, M), M completions in a row
        if how.ratio == "mean":
            total = total / document_sums(mask, documents).clamp(min=1)
        log_rho = total.gather(1, documents.clamp(min=0))                     # (B, T)
    return how.weigh(log_rho.clamp(-20, 20).exp(), cap) * weights


def compare_with_sampler(run: Run, args: Namespace, logprobs: torch.Tensor, b: Any) -> dict:
    """Metrics: how far the log-probabilities of trainer and sampler differ, both with the weights that sampled. b: a packed batch
    with `sampler_logprobs`. In exact mode a difference ends the run."""
    apart = (logprobs - b.sampler_logprobs).abs() * b.loss_mask
    largest = float(apart.max())
    if args.exact and largest and not args.async_steps:
        cli.fail(f"step {run.step}: in exact mode sampler and trainer differ by {largest}; the last checkpoint is "
                 "unharmed. `python bench.py probe` shows which block is not invariant; without --exact the run goes on")
    return {"logprob_diff_mean": (float(apart.sum()), float(b.loss_mask.sum())), "logprob_diff_max": Largest(largest)}

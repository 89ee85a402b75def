"""Off-policy correction: weights of tokens for the difference between the sampler's probabilities and pi_old."""

import torch

from data import document_sums

CORRECTIONS = ("none", "tis", "mis", "seq-tis", "seq-mis", "geo-mis")


def correction(kind: str, old_logprobs, sampler_logprobs, mask, documents, cap: float = 2.0, veto: float = 0.0) -> torch.Tensor:
    """Weight of each token that turns an expectation under the sampler into one under pi_old: (B, T), without gradient.

    rho = pi_old / pi_sampler, both with the weights that sampled; C = cap:

    - none: 1
    - tis: min(rho, C), truncated importance sampling
    - mis: rho if rho <= C, else 0, masked importance sampling
    - seq-tis, seq-mis: the same with the product of rho over the completion, which is unbiased but has more variance
    - geo-mis: the geometric mean of rho over the completion if it is within [1/C, C], else 0

    veto: a completion with any rho below it has weight 0. These weights correct only from the sampler to pi_old; the ratio of the
    policy loss goes from pi_old to pi. (A common bug is to assume that the sampler's policy equals the recomputed pi_old.)"""
    log_rho = (old_logprobs - sampler_logprobs).detach() * mask
    rho, allowed = log_rho.clamp(-20, 20).exp(), torch.ones_like(mask)
    if kind.startswith(("seq", "geo")):
        total = document_sums(log_rho, documents)                             # (B, M), M completions in a row
        if kind == "geo-mis":
            total = total / document_sums(mask, documents).clamp(min=1)
        rho_of = total.clamp(-20, 20).exp().gather(1, documents.clamp(min=0))
    else:
        rho_of = rho
    if veto:
        vetoed = document_sums((rho < veto).to(mask.dtype) * mask, documents).gather(1, documents.clamp(min=0)) > 0
        allowed = torch.where(vetoed, 0.0, allowed)
    if kind == "none":
        return allowed
    if kind.endswith("tis"):
        return rho_of.clamp(max=cap) * allowed
    inside = rho_of <= cap
    if kind == "geo-mis":
        inside &= rho_of >= 1 / cap
    return torch.where(inside, rho_of, 0.0) * allowed

"""The KL divergence from a reference policy, estimated from the tokens that were sampled.

Each estimator of KL(pi || pi_ref) is one entry of a table, KL_KINDS (Schulman, "Approximating KL divergence"). To add one, write
its function and an entry.

A good value need not have a good gradient. Over what pi draws, the gradient of k2 is that of the reverse KL(pi || pi_ref), the
gradient of k3 is that of the forward KL(pi_ref || pi), and the gradient of k1 is zero. In the reward, where the value multiplies
the gradient of log pi, k1 is the right one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

# Estimators: d = log pi_ref - log pi of each token -> its KL

def k1(d: torch.Tensor) -> torch.Tensor:
    """Unbiased and noisy."""
    return -d


def k2(d: torch.Tensor) -> torch.Tensor:
    return 0.5 * d ** 2


def k3(d: torch.Tensor) -> torch.Tensor:
    """e^d - d - 1: unbiased and never negative. Beyond d = 10 (a token 22,000 times likelier under pi_ref) it goes on along its
    tangent, so that it cannot overflow."""
    near = d.clamp(max=10.0)
    return torch.expm1(near) + near.exp() * (d - near) - d


@dataclass(frozen=True)
class Estimator:
    """Its function; where it counts, in the "loss" or in the "reward"; and why it is refused in the other place."""
    function: Callable
    place: str
    refused: str


_NOT_IN_REWARD = "in the reward has a gradient that is not the KL divergence's; use k1 there, or --kl-in loss"
KL_KINDS = {
    "k1": Estimator(k1, "reward", "in the loss has no gradient but noise; use k2, whose gradient is the KL divergence's, or "
                                  "--kl-in reward"),
    "k2": Estimator(k2, "loss", _NOT_IN_REWARD),
    "k3": Estimator(k3, "loss", _NOT_IN_REWARD),
}
USUAL_KINDS = {"loss": "k2", "reward": "k1"}              # without --kl-kind


def kl_estimate(kind: str, logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """The KL divergence of each token, by an entry of KL_KINDS: log-probabilities (B, T) -> (B, T)."""
    return KL_KINDS[kind].function(ref_logprobs - logprobs)

"""The KL divergence from a reference policy, estimated from the tokens that were sampled."""

import torch

KL_KINDS = {"loss": "k2", "reward": "k1"}                 # where the KL counts: the estimator with the right gradient there


def kl_estimate(kind: str, logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """KL(pi || pi_ref) of each token (Schulman, "Approximating KL divergence"), with d = log pi_ref - log pi:

    - k1 = -d: unbiased and noisy
    - k2 = d^2 / 2
    - k3 = e^d - d - 1: unbiased and never negative

    A good value need not have a good gradient: over what pi draws, that of k2 is the reverse KL's, that of k3 the forward
    KL(pi_ref || pi)'s, and that of k1 is zero. In the reward, where the value multiplies the gradient of log pi, k1 is the
    right one.

    Beyond d = 10 (a token 22,000 times likelier under pi_ref) k3 goes on along its tangent, so that it cannot overflow."""
    d = ref_logprobs - logprobs
    if kind == "k3":
        near = d.clamp(max=10.0)
        return torch.expm1(near) + near.exp() * (d - near) - d
    return {"k1": -d, "k2": 0.5 * d ** 2}[kind]

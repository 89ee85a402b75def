"""The KL divergence from a reference policy, estimated from the tokens that were sampled."""

import torch

KL_KINDS = {"loss": "k2", "reward": "k1"}                 # {where the KL is used: the estimator with the right gradient there}


def kl_estimate(kind: str, logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """KL(pi || pi_ref) of each token (Schulman, "Approximating KL divergence"), where d = log pi_ref - log pi:

    - k1 = -d: unbiased and noisy
    - k2 = d^2 / 2
    - k3 = e^d - d - 1: unbiased and never negative

    An estimator with a good value may have a wrong gradient. Averaged over tokens that pi samples, the gradient of k2 is that of
    the reverse KL(pi || pi_ref), the gradient of k3 is that of the forward KL(pi_ref || pi), and the gradient of k1 is zero. So
    k2 is right in the loss. In the reward, where the value multiplies the gradient of log pi, k1 is right.

    Above d = 10 (a token 22,000 times as likely under pi_ref) k3 continues along its tangent, so that it cannot overflow."""
    d = ref_logprobs - logprobs
    if kind == "k3":
        near = d.clamp(max=10.0)
        return torch.expm1(near) + near.exp() * (d - near) - d
    return {"k1": -d, "k2": 0.5 * d ** 2}[kind]

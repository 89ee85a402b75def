"""The policy losses, advantages, KL estimators and corrections against short references, completion by completion."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rl.advantages import above_group_mean, above_the_others, discounted_returns, gae, group_advantages
from rl.correction import CORRECTIONS, correction, sequence_mask
from rl.critic import value_loss
from rl.divergence import kl_estimate
from rl.losses import LOSSES, Clip

D = torch.float64
LOW, HIGH, LONGEST = 0.2, 0.28, 9
CLIP = Clip(LOW, HIGH, tau_pos=1.0, tau_neg=1.05)
OVER_TOKENS = ("dapo", "cispo", "maxrl", "reinforce++", "reinforce++-baseline", "ppo")


def ragged(seed=0, spread=0.3):
    """Five completions in two packed rows: (packed tensors, the same as a list of 1-d tensors for each completion)."""
    g = torch.Generator().manual_seed(seed)
    lengths, prompts = [[4, 9, 1], [6, 3]], [[3, 2, 5], [4, 4]]
    T = 30
    documents, mask = torch.full((2, T), -1), torch.zeros(2, T, dtype=D)
    places = []
    for b in range(2):
        at = 0
        for d, (n, p) in enumerate(zip(lengths[b], prompts[b])):
            documents[b, at:at + p + n - 1] = d
            mask[b, at + p - 1:at + p - 1 + n] = 1
            places.append((b, slice(at + p - 1, at + p - 1 + n)))
            at += p + n - 1
    logprobs = -torch.rand(2, T, generator=g, dtype=D) * 3
    old = logprobs + torch.randn(2, T, generator=g, dtype=D) * spread
    A = torch.randn(5, generator=g, dtype=D)
    advantages = torch.zeros(2, T, dtype=D)
    for (b, part), a in zip(places, A):
        advantages[b, part] = a
    return logprobs.requires_grad_(), old, advantages, mask, documents, places, A


def reference(loss, logprobs, old, places, A):
    """Each loss as its paper has it, one completion after the other."""
    total, tokens = torch.zeros((), dtype=D), sum(part.stop - part.start for _, part in places)
    for (b, part), a in zip(places, A):
        new, was = logprobs[b, part], old[b, part]
        n = len(new)

        def clip(r, a=a):
            return torch.min(r * a, r.clamp(1 - LOW, 1 + HIGH) * a)
        if loss in ("grpo", "rlp"):
            total = total - clip((new - was).exp()).mean() / len(places)
        elif loss in ("dppo_tv", "dppo_kl"):
            p, q = new.exp(), was.exp()
            moved = (p - q).abs() if loss == "dppo_tv" else q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
            kept = [moved[t].item() <= (HIGH if a > 0 else LOW) or (p[t] > q[t]) != (a > 0) for t in range(n)]
            total = total - sum(k * (p / q)[t] * a for t, k in enumerate(kept)) / (LONGEST * len(places))
        elif loss == "sapo":
            tau, r = 1.0 if a > 0 else 1.05, (new - was).exp()
            total = total - (4 / tau / (1 + (-tau * (r - 1)).exp()) * a).mean() / len(places)
        elif loss == "dr_grpo":
            total = total - clip((new - was).exp()).sum() / (LONGEST * len(places))
        elif loss == "gspo":
            total = total - clip(((new - was).sum() / n).exp()) / len(places)
        elif loss == "rloo":
            total = total - clip((new - was).sum().exp()) / len(places)
        elif loss == "cispo":
            total = total - ((new - was).exp().clamp(1 - LOW, 1 + HIGH).detach() * a * new).sum() / tokens
        else:
            assert loss in OVER_TOKENS
            total = total - clip((new - was).exp()).sum() / tokens
    return total


def ours(loss, logprobs, old, advantages, mask, documents):
    per_token, _ = LOSSES[loss].of_tokens(logprobs, old, advantages, mask, documents, CLIP)
    weight = mask.sum() if loss in OVER_TOKENS else 5
    return (per_token * LOSSES[loss].token_weights(mask, documents, LONGEST)).sum() / weight


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_equal_the_papers(loss, seed):
    logprobs, old, advantages, mask, documents, places, A = ragged(seed)
    a, b = ours(loss, logprobs, old, advantages, mask, documents), reference(loss, logprobs, old, places, A)
    assert abs(a - b) < 1e-10
    ga, gb = torch.autograd.grad(a, logprobs)[0], torch.autograd.grad(b, logprobs)[0]
    assert (ga - gb).abs().max() < 1e-10 and gb.abs().max() > 1e-3


class Noted(TorchDispatchMode):
    """The names of torch's operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_added_up_in_one_order_on_a_gpu_too(loss):
    """There a scatter_add, which is also the gradient of gather, adds in another order in every run."""
    logprobs, old, A, mask, documents, *_ = ragged()
    with Noted() as ran:
        LOSSES[loss].of_tokens(logprobs, old, A, mask, documents, CLIP)[0].sum().backward()
    assert "mul" in ran.names and not ran.names & {"scatter_add", "scatter_add_", "scatter_reduce", "index_add", "index_add_"}


def test_dual_clip_bounds_the_loss_of_bad_tokens():
    logprobs, old, advantages, mask, documents, *_ = ragged(spread=2.0)
    per_token, _ = LOSSES["grpo"].of_tokens(logprobs, old, advantages, mask, documents, Clip(LOW, HIGH, dual=3.0))
    r = (logprobs - old).exp()
    bad = (advantages < 0) & (mask > 0)
    expected = torch.min(-3.0 * advantages, torch.max(-r * advantages, -r.clamp(1 - LOW, 1 + HIGH) * advantages))
    torch.testing.assert_close(per_token[bad], expected[bad])                 # PPO's loss there, at most 3 |A|
    plain, _ = LOSSES["grpo"].of_tokens(logprobs, old, advantages, mask, documents, Clip(LOW, HIGH))
    torch.testing.assert_close(per_token[~bad], plain[~bad])
    assert (plain[bad] > per_token[bad]).any()


def gradient_of(loss, on_policy=True):
    logprobs, old, advantages, mask, documents, *_ = ragged()
    return torch.autograd.grad(ours(loss, logprobs, logprobs.detach() if on_policy else old, advantages, mask, documents),
                               logprobs)[0]


def test_on_policy_the_losses_agree():
    torch.testing.assert_close(gradient_of("gspo"), gradient_of("grpo"))      # each completion's mean, one ratio or many
    torch.testing.assert_close(gradient_of("cispo"), gradient_of("dapo"))     # the mean over all tokens
    torch.testing.assert_close(gradient_of("ppo"), gradient_of("dapo"))
    torch.testing.assert_close(gradient_of("sapo"), gradient_of("grpo"))      # the gate is open: its slope is 1
    torch.testing.assert_close(gradient_of("dppo_tv"), gradient_of("dr_grpo"))
    torch.testing.assert_close(gradient_of("dppo_kl"), gradient_of("dr_grpo"))
    assert (gradient_of("gspo", False) - gradient_of("grpo", False)).abs().max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_with_ratio_one_the_clip_never_acts(loss):
    logprobs, _, advantages, mask, documents, *_ = ragged()
    clip = Clip(0.0, 0.0, tau_pos=1.0, tau_neg=1.05)
    _, metrics = LOSSES[loss].of_tokens(logprobs, logprobs.detach(), advantages, mask, documents, clip)
    if loss == "sapo":
        assert (metrics["gate"] == 1).all()
    else:
        assert not metrics["clip_low"].any() and not metrics["clip_high"].any()


def test_a_divergence_lets_rare_tokens_move_and_holds_likely_ones():
    """0.001 to 0.002 doubles and is free; 0.5 to 0.7 is a ratio of 1.4 and is not. A token moves back freely."""
    old, new = torch.tensor([[0.001, 0.5, 0.9, 0.5]], dtype=D).log(), torch.tensor([[0.002, 0.7, 0.6, 0.2]], dtype=D).log()
    A, documents = torch.tensor([[1.0, 1.0, 1.0, -1.0]], dtype=D), torch.zeros(1, 4, dtype=torch.long)
    for loss in ("dppo_tv", "dppo_kl"):
        clip = Clip(LOSSES[loss].clip_low, LOSSES[loss].clip_high)
        per_token, metrics = LOSSES[loss].of_tokens(new, old, A, torch.ones_like(A), documents, clip)
        assert per_token[0].tolist() == pytest.approx([-2.0, 0.0, -2 / 3, 0.0])
        assert metrics["clip_high"].tolist() == [[False, True, False, False]]
        assert metrics["clip_low"].tolist() == [[False, False, False, True]]
    certain = torch.zeros(1, 4, dtype=torch.float32)                          # p = 1: still a number
    per_token, _ = LOSSES["dppo_kl"].of_tokens(certain, certain - 1e-4, A.float(), torch.ones(1, 4), documents, Clip(0.05, 0.05))
    assert per_token.isfinite().all()


def test_the_gate_closes_on_both_sides_and_sooner_for_bad_tokens():
    ratio = torch.tensor([[0.1, 0.5, 1.0, 2.0, 6.0]], dtype=D)
    gates = [LOSSES["sapo"].metrics(ratio, ratio.log(), torch.full_like(ratio, A), CLIP)["gate"][0] for A in (1.0, -1.0)]
    for gate in gates:
        assert gate[2] == 1 and (gate[:3].diff() > 0).all() and (gate[2:].diff() < 0).all() and gate[4] < 0.03
    assert (gates[1][[0, 1, 3, 4]] < gates[0][[0, 1, 3, 4]]).all()


def test_cispo_keeps_the_gradient_of_every_token_and_grpo_does_not():
    logprobs, old, advantages, mask, documents, *_ = ragged(spread=2.0)
    for loss, some_lost in (("cispo", False), ("grpo", True)):
        g = torch.autograd.grad(ours(loss, logprobs, old, advantages, mask, documents), logprobs)[0]
        assert bool(((g == 0) & (mask > 0)).any()) is some_lost


# advantages

def test_group_advantages():
    R = torch.tensor([[1.0, 0, 0, 1, 1], [0.2, 0.1, 0.9, 0.4, 0.4]], dtype=D)
    n = R.shape[1]
    for i, j in itertools.product(range(2), range(n)):
        others = [float(R[i, k]) for k in range(n) if k != j]
        mean = float(R[i].mean())
        deviation = math.sqrt(sum((float(r) - mean) ** 2 for r in R[i]) / (n - 1))
        wanted = float(R[i, j]) - sum(others) / len(others)
        assert group_advantages(above_the_others, R, "none")[i, j] == pytest.approx(wanted, abs=1e-12)
        assert group_advantages(above_group_mean, R, "none")[i, j] == pytest.approx(float(R[i, j]) - mean, abs=1e-12)
        assert group_advantages(above_group_mean, R, "group")[i, j] == pytest.approx((float(R[i, j]) - mean) / (deviation + 1e-6),
                                                                                     abs=1e-12)
    torch.testing.assert_close(above_the_others(R), n / (n - 1) * above_group_mean(R))
    torch.testing.assert_close(group_advantages(above_group_mean, R, "batch", lambda: 2.0), above_group_mean(R) / (2 + 1e-6))
    assert (group_advantages(above_group_mean, torch.ones(3, 4, dtype=D), "group") == 0).all()


def test_maxrl_learns_from_the_right_ones_alone():
    """The weights of MaxRL sum log pi over the right completions, each 1 / K, minus the mean over all (arXiv 2602.02710)."""
    R = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=D)
    found = group_advantages(above_group_mean, R, "mean") / R.shape[1]
    for rewards, weights in zip(R.tolist(), found.tolist(), strict=True):
        K = sum(rewards)
        assert weights == pytest.approx([r / K - 1 / 4 for r in rewards] if K else [0] * 4, abs=1e-12)
    with pytest.raises(ValueError, match="--scale mean .* a reward is -0.5"):
        group_advantages(above_group_mean, R - 0.5, "mean")


def test_gae_and_the_value_loss_equal_the_definition():
    _, _, _, mask, documents, places, _ = ragged()
    g = torch.Generator().manual_seed(1)
    rewards, values = (torch.randn(2, 30, generator=g, dtype=D) for _ in range(2))
    found = gae(rewards * mask, values, mask, documents, 0.9, 0.8)
    for b, part in places:
        r, v = rewards[b, part].tolist(), [*values[b, part].tolist(), 0.0]
        deltas = [r[t] + 0.9 * v[t + 1] - v[t] for t in range(len(r))]
        for t in range(len(r)):
            expected = sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, len(r)))
            assert found[b, part][t] == pytest.approx(expected, abs=1e-10)
    assert (found * (1 - mask) == 0).all()
    returns = discounted_returns(rewards * mask, values, mask, documents, 0.9, 0.8)         # REINFORCE++
    b, part = places[1]
    assert returns[b, part][2] == pytest.approx(sum(0.9 ** (k - 2) * rewards[b, part][k].item() for k in range(2, 9)), abs=1e-10)
    v, was, to = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, 0.1])
    assert value_loss(v, was, to).tolist() == pytest.approx([0.5 * 1.3 ** 2, 0.5, 0.5 * 2.9 ** 2])


def test_kl_estimators_have_the_mean_and_the_gradient_that_they_should():
    g = torch.Generator().manual_seed(0)
    logits, ref = torch.randn(6, generator=g, dtype=D).requires_grad_(), torch.randn(6, generator=g, dtype=D).log_softmax(0)
    logp = logits.log_softmax(0)
    p = logp.exp().detach()
    kl = (logp.exp() * (logp - ref)).sum()
    for kind in ("k1", "k3"):                                                 # unbiased, summed over all outcomes
        assert (p * kl_estimate(kind, logp, ref)).sum().item() == pytest.approx(kl.item(), abs=1e-12)
    assert (kl_estimate("k3", logp, ref) >= 0).all()

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    def in_loss(kind):                                                        # as a term beside the loss of what p draws
        return gradient((p * kl_estimate(kind, logp, ref)).sum())

    def in_reward(kind):                                                      # as a penalty that multiplies grad log p
        return gradient((p * kl_estimate(kind, logp, ref).detach() * logp).sum())
    reverse, forward = gradient(kl), gradient((ref.exp() * (ref - logp)).sum())
    torch.testing.assert_close(in_loss("k2"), reverse)
    torch.testing.assert_close(in_reward("k1"), reverse)
    torch.testing.assert_close(in_loss("k3"), forward)                        # the KL divergence the other way round
    torch.testing.assert_close(in_loss("k1"), torch.zeros_like(logits))       # nothing, in expectation
    for kind in ("k2", "k3"):
        assert (in_reward(kind) - reverse).abs().max() > 0.1 and (in_reward(kind) @ reverse) < 0.9 * reverse @ reverse


def test_k3_is_bounded_and_pulls_on():
    """Where the reference finds a token far likelier than the policy does, e^d overflows; the pull must stay, and be finite."""
    for dtype in (torch.float32, D):
        logp = torch.tensor([-1.0, -9.0, -12.0, -150.0, -1e4], dtype=dtype).requires_grad_()
        value = kl_estimate("k3", logp, torch.full_like(logp, -0.5))
        [pull] = torch.autograd.grad(value.sum(), logp)
        assert value.isfinite().all() and pull.isfinite().all() and (value.diff() > 0).all()
        near = -0.5 - logp[:2].detach()
        torch.testing.assert_close(value[:2], near.exp() - 1 - near)          # the plain formula up to d = 10
        assert (pull[2:] == pull[2]).all() and pull[2] < pull[1] < pull[0] < 0


# off-policy corrections, by summing over every outcome of a tiny policy of two tokens

def outcomes(sampler, old, new, reward, kind="tis", cap=1e9, loss="grpo", as_behaviour=False):
    """Expected loss under the sampler of one completion of two tokens from {0, 1, 2}: exact, with its gradient in `new`."""
    total = 0.0
    documents, mask = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=D)
    for x, y in itertools.product(range(3), range(3)):
        def of(p, x=x, y=y):
            return torch.stack([p[0, x], p[1 + x, y]])[None]
        q = of(sampler).sum().exp().detach()
        A = torch.full((1, 2), reward[x][y], dtype=D)
        per_token, _ = LOSSES[loss].of_tokens(of(new), of(old), A, mask, documents, Clip(1e9, 1e9))
        rho = 1.0 if as_behaviour else correction(kind, of(old), of(sampler), mask, documents, cap)
        total = total + q * (per_token * rho * LOSSES[loss].token_weights(mask, documents, 2)).sum()
    return total


def three_policies():
    g = torch.Generator().manual_seed(3)
    base = torch.randn(4, 3, generator=g, dtype=D)
    sampler, old, new = (base + 0.5 * torch.randn(4, 3, generator=g, dtype=D) for _ in range(3))
    return sampler.log_softmax(1), old.log_softmax(1), new.requires_grad_(), torch.randn(3, 3, generator=g, dtype=D).tolist()


def test_the_sequence_weight_makes_rloo_exact_and_the_common_bug_does_not():
    sampler, old, new, reward = three_policies()
    policy = new.log_softmax(1)
    true = -sum((policy[0, x] + policy[1 + x, y]).exp() * reward[x][y] for x, y in itertools.product(range(3), range(3)))
    true = torch.autograd.grad(true, new, retain_graph=True)[0]
    # rho takes the sampler to pi_old, the ratio takes pi_old to pi: together exactly the policy's own gradient
    right = torch.autograd.grad(outcomes(sampler, old, policy, reward, "seq-tis", loss="rloo"), new, retain_graph=True)[0]
    torch.testing.assert_close(right, true)
    torch.testing.assert_close(torch.autograd.grad(outcomes(sampler, old, policy, reward, "seq-mis", loss="rloo"), new,
                                                   retain_graph=True)[0], true)
    # the bug: pi_old, recomputed by the trainer, is taken for the policy that sampled
    wrong = torch.autograd.grad(outcomes(sampler, old, policy, reward, loss="rloo", as_behaviour=True), new,
                                retain_graph=True)[0]
    assert (wrong - true).abs().max() > 0.02
    # with the sampler's own log-probabilities as pi_old the ratio holds the mismatch, and no weight is due
    bypass = torch.autograd.grad(outcomes(sampler, sampler, policy, reward, "none", loss="rloo"), new)[0]
    torch.testing.assert_close(bypass, true)


def test_token_weights_truncate_mask_and_veto():
    documents, mask = torch.tensor([[0, 0, 0, 1, 1, -1]]), torch.tensor([[0, 1, 1, 1, 1, 0]], dtype=D)
    rho = torch.tensor([[7, 0.5, 3, 1.2, 1e-6, 9]], dtype=D)                  # 7 and 9 stand where nothing counts
    old, sampler = rho.log(), torch.zeros_like(rho)

    def weights(kind, **options):
        return (correction(kind, old, sampler, mask, documents, **options) * mask)[0, 1:5].tolist()
    assert weights("none") == [1, 1, 1, 1]
    assert weights("tis") == pytest.approx([0.5, 2, 1.2, 1e-6])
    assert weights("mis") == pytest.approx([0.5, 0, 1.2, 1e-6])
    assert weights("icepop", cap=2.5, low=1e-3) == pytest.approx([0.5, 0, 1.2, 0])
    assert weights("icepop", cap=3.5, low=0.7, veto=1e-4) == pytest.approx([0, 3, 0, 0])
    assert weights("icepop", cap=3.5, low=0.7) == pytest.approx([0, 3, 1.2, 0])
    assert (CORRECTIONS["icepop"].low, CORRECTIONS["icepop"].cap) == (0.5, 5.0)
    assert weights("seq-tis", cap=1.4) == pytest.approx([1.4, 1.4, 1.2e-6, 1.2e-6])
    assert weights("seq-mis", cap=1.4) == pytest.approx([0, 0, 1.2e-6, 1.2e-6])
    assert weights("geo-mis") == pytest.approx([1.5 ** 0.5, 1.5 ** 0.5, 0, 0])
    assert weights("none", veto=1e-4) == [1, 1, 0, 0]
    assert weights("tis", veto=1e-4) == pytest.approx([0.5, 2, 0, 0])


def test_the_sequence_mask_drops_bad_tokens_of_unlikely_completions():
    documents, mask = torch.tensor([[0, 0, 0, 1, 1, 2, -1]]), torch.tensor([[0, 1, 1, 1, 1, 1, 0]], dtype=D)
    apart = torch.tensor([[9, 0.2, 1.0, 0.3, 0.5, -2.0, 9]], dtype=D)         # log pi_sampler - log pi: means 0.6, 0.4, -2
    sampler = torch.full_like(apart, -1.0)

    def kept(A, most):
        return sequence_mask(sampler - apart, sampler, torch.tensor([A], dtype=D), mask, documents, most)[0, 1:6].tolist()
    bad = [-1.0] * 7
    assert kept(bad, 0.5) == [0, 0, 1, 1, 1] and kept(bad, 0.3) == [0, 0, 0, 0, 1] and kept(bad, 0.7) == [1] * 5
    assert kept([1.0] * 7, 0.1) == [1] * 5                                    # good ones stay, however unlikely
    assert kept([0, -1.0, 1.0, -1.0, 1.0, -1.0, 0], 0.3) == [0, 1, 0, 1, 1]   # with A of each token it is each token's

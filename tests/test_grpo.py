"""The policy-gradient losses against short references, completion by completion, and grpo.py as a user runs it."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import HANG, ROOT, script
from helpers import a_run, run_main, tiny_checkpoint

import grpo
import kernels
from model import load
from rl.advantages import above_group_mean, above_the_others, discounted_returns, gae, group_advantages
from rl.batches import deal
from rl.correction import correction
from rl.critic import ActorCritic, value_loss
from rl.diagnosis import nothing_to_learn
from rl.divergence import kl_estimate
from rl.lengths import cap_at, overlong_penalty, parse_caps
from rl.losses import LOSSES, Clip
from rl.prompts import Prompts
from rl.rollouts import Rollout
from sampler import Completion
from tasks.rewards import Score
from tasks.task import Problem, Reply
from training.ranks import Ranks

D = torch.float64
LOW, HIGH, LONGEST = 0.2, 0.28, 9


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
        if loss == "grpo":
            total = total - clip((new - was).exp()).mean() / len(places)
        elif loss == "dr_grpo":
            total = total - clip((new - was).exp()).sum() / (LONGEST * len(places))
        elif loss in ("dapo", "reinforce++", "ppo"):
            total = total - clip((new - was).exp()).sum() / tokens
        elif loss == "gspo":
            total = total - clip(((new - was).sum() / n).exp()) / len(places)
        elif loss == "rloo":
            total = total - clip((new - was).sum().exp()) / len(places)
        elif loss == "cispo":
            total = total - ((new - was).exp().clamp(1 - LOW, 1 + HIGH).detach() * a * new).sum() / tokens
    return total


def ours(loss, logprobs, old, advantages, mask, documents):
    per_token, _ = LOSSES[loss].of_tokens(logprobs, old, advantages, mask, documents, Clip(LOW, HIGH))
    weight = mask.sum() if loss in ("dapo", "cispo", "reinforce++", "ppo") else 5
    return (per_token * LOSSES[loss].token_weights(mask, documents, LONGEST)).sum() / weight


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_equal_the_papers(loss, seed):
    logprobs, old, advantages, mask, documents, places, A = ragged(seed)
    a, b = ours(loss, logprobs, old, advantages, mask, documents), reference(loss, logprobs, old, places, A)
    assert abs(a - b) < 1e-10
    ga, gb = torch.autograd.grad(a, logprobs)[0], torch.autograd.grad(b, logprobs)[0]
    assert (ga - gb).abs().max() < 1e-10 and gb.abs().max() > 1e-3


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
    assert (gradient_of("gspo", False) - gradient_of("grpo", False)).abs().max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_with_ratio_one_the_clip_never_acts(loss):
    logprobs, _, advantages, mask, documents, *_ = ragged()
    _, metrics = LOSSES[loss].of_tokens(logprobs, logprobs.detach(), advantages, mask, documents, Clip(0.0, 0.0))
    assert not metrics["clip_low"].any() and not metrics["clip_high"].any()


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
    torch.testing.assert_close(group_advantages(above_group_mean, R, "batch", 2.0), above_group_mean(R) / (2 + 1e-6))
    assert (group_advantages(above_group_mean, torch.ones(3, 4, dtype=D), "group") == 0).all()


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
    assert weights("seq-tis", cap=1.4) == pytest.approx([1.4, 1.4, 1.2e-6, 1.2e-6])
    assert weights("seq-mis", cap=1.4) == pytest.approx([0, 0, 1.2e-6, 1.2e-6])
    assert weights("geo-mis") == pytest.approx([1.5 ** 0.5, 1.5 ** 0.5, 0, 0])
    assert weights("none", veto=1e-4) == [1, 1, 0, 0]
    assert weights("tis", veto=1e-4) == pytest.approx([0.5, 2, 0, 0])


# rollouts

def test_prompts_keep_their_shares_their_order_and_their_place():
    specs = ["world:ops=1@3", "world:ops=2@1"]
    a, b = Prompts(specs), Prompts(specs)
    first = [a.next() for _ in range(40)]
    assert sum(p.ops == 1 for p in first) == 30 and len({p.question for p in first}) == 40
    for _ in range(17):
        b.next()
    c = Prompts(specs)
    c.restore(b.state())
    assert [c.next().question for _ in range(23)] == [p.question for p in first[17:]]
    a.keep({(0, 3): 1.0, (0, 4): 0.5, (1, 2): 0.75, (1, 9): 0.0}, 0.25, 0.9, easy_first=True)
    assert a.pool == [(1, 2), (0, 4)]
    assert [a.next().question for _ in range(3)] == [a.problem(1, 2).question, a.problem(0, 4).question, a.problem(1, 2).question]
    with pytest.raises(ValueError, match="pass rate"):
        a.keep({(0, 3): 1.0}, 0.25, 0.9)


def test_caps_in_stages_and_the_soft_penalty():
    caps = parse_caps(["32", "64@10", "128@20"])
    assert [cap_at(caps, s) for s in (0, 9, 10, 19, 20, 99)] == [32, 32, 64, 64, 128, 128]
    for bad in (["0"], ["a"], ["32@5"], ["32@-1"]):
        with pytest.raises(ValueError, match="max-new-tokens"):
            parse_caps(bad)
    assert [overlong_penalty(n, 100, 20) for n in (10, 80, 90, 100)] == [0, 0, -0.5, -1]
    assert overlong_penalty(100, 100, 0) == 0


# the script

TOY = ["--data", "world:ops=1-2,split=rl", "--mode", "plain", "--reward", "random", "--prompts", 4, "--group", 4,
       "--max-new-tokens", 12, "--dtype", "float64", "--clip", 1e9, "--rows", 8]


def in_process(*args):
    """Runs the script here, which is quicker than a process of its own: the result, and standard error."""
    code, result, err = run_main(grpo, *args)
    assert code == 0, err
    return result, err


def records(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def state(out):
    return torch.load(out / "train_state.pt", weights_only=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_runs_and_logs_all_that_a_step_is_judged_by(able, tmp_path, loss):
    out = tmp_path / "run"
    result, _ = in_process("--init", able, "--out", out, "--steps", 2, "--loss", loss, *TOY, "--updates", 2, "--kl", 0.01,
                           "--minibatches", 2, "--correction", "seq-tis" if LOSSES[loss].ratio != "token" else "tis",
                           "--entropy", 0.01, "--show-every", 1)
    assert result["steps"] == 2
    step = [r for r in records(out) if "reward" in r][-1]
    for name in ("reward reward_std answer process length_mean length_max cut_off entropy zero_spread clip_low clip_high kl "
                 "logprob_diff_mean logprob_diff_max grad_norm rollout_tokens_per_second train_tokens_per_second "
                 "rollout_share wasted_slots lr loss seconds").split():
        assert math.isfinite(step[name]), name
    assert step["samples"][0]["question"] and 0 <= step["wasted_slots"] < 1 and step["logprob_diff_max"] < 1e-9
    assert step["length_max"] <= 12 and 0 < step["entropy"] < math.log(512)


def grads(out):
    """The gradient of the only step, which is a tenth of AdamW's first moment divided by 1 - 0.9."""
    return {name: s["exp_avg"] / (1 - 0.9) for o in state(out)["optimizers"] for name, s in o.items()}


@pytest.mark.parametrize("loss", ["grpo", "dapo", "gspo", "ppo"])
def test_micro_batches_and_ranks_change_no_gradient(able, tmp_path, loss):
    flags = ["--init", able, "--steps", 1, "--loss", loss, *TOY, "--kl", 0.05, "--entropy", 0.01]
    in_process(*flags, "--out", tmp_path / "one")
    in_process(*flags, "--out", tmp_path / "micro", "--micro-tokens", 1, "--seq-len", 100)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "grpo.py"),
               *map(str, flags), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    one = grads(tmp_path / "one")
    assert max(float(g.abs().max()) for g in one.values()) > 1e-4
    for other in ("micro", "two"):
        found = grads(tmp_path / other)
        for name, g in one.items():
            assert (found[name] - g).abs().max() < 1e-11, (other, name)
        a, b = (next(r for r in records(tmp_path / n) if "reward" in r) for n in ("one", other))
        assert all(a[k] == pytest.approx(b[k], rel=1e-6, abs=1e-9) for k in ("reward", "loss", "kl", "entropy", "length_mean"))


def test_sharded_ranks_give_the_same_gradient(able, tmp_path):
    flags = ["--init", able, "--steps", 1, *TOY]
    in_process(*flags, "--out", tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "grpo.py"),
               *map(str, flags), "--out", str(tmp_path / "two"), "--shard"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, g in grads(tmp_path / "one").items():
        assert (grads(tmp_path / "two")[name] - g).abs().max() < 1e-11, name


def test_killed_in_the_middle_it_goes_on_bit_for_bit(able, tmp_path):
    flags = ["--init", able, "--steps", 20, *TOY, "--save-every", 2, "--updates", 2, "--minibatches", 2, "--replace", 1]
    in_process(*flags, "--out", tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, str(ROOT / "grpo.py"), *map(str, flags), "--out", str(out)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.time() + HANG
    while time.time() < deadline and process.poll() is None:
        if (out / "train_state.pt").exists() and (out / "log.jsonl").read_text().count('"reward"') >= 3:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state(out)["step"] < 20
    script("grpo.py", *flags, "--out", out, "--resume")
    a, b = state(tmp_path / "whole"), state(out)
    assert all(torch.equal(a["weights"][k], b["weights"][k]) for k in a["weights"])
    assert a["stream"] == b["stream"]
    for x, y in zip(a["optimizers"], b["optimizers"], strict=True):
        assert all(torch.equal(x[n]["exp_avg"], y[n]["exp_avg"]) for n in x)

    def curve(out):
        return {r["step"]: (r["loss"], r["reward"], r["grad_norm"]) for r in records(out) if "reward" in r}
    assert curve(out) == curve(tmp_path / "whole")


def test_what_must_be_zero_says_so_and_rewards_without_spread_are_a_warning(able, tmp_path):
    in_process("--init", able, "--out", tmp_path / "zero", "--steps", 1, *TOY)
    step = next(r for r in records(tmp_path / "zero") if "reward" in r)
    assert abs(step["loss"]) < 1e-9 and "must be" in step["note"] and step["grad_norm"] > 0
    result, err = in_process("--init", able, "--out", tmp_path / "same", "--steps", 6, "--data", "world:ops=9,split=rl", "--mode",
                             "plain", "--reward", "strict", "--prompts", 2, "--group", 2, "--max-new-tokens", 4)
    assert "no group had two different rewards" in err and "--keep-rate" in result["warning"]


def test_the_difficulty_filter_keeps_the_edge(able, tmp_path):
    in_process("--init", able, "--out", tmp_path / "run", "--steps", 1, *TOY, "--keep-rate", 0.0, 0.9, "--candidates", 12,
               "--curriculum")
    assert 0 < records(tmp_path / "run")[0]["pool"] <= 12


@pytest.mark.parametrize("flags, message", [
    (["--temperature", 0], "--temperature: 0: use a number above 0"), (["--group", 1], "--group must be at least 2"),
    (["--old", "sampler", "--correction", "tis"], "--old sampler has the mismatch"), (["--reward", "luck"], "luck"),
    (["--shard"], "--shard has no effect with one rank"), (["--curriculum"], "--keep-rate"),
    (["--max-new-tokens", "x"], "--max-new-tokens x"), (["--seq-len", 20], "longer than the window"),
    (["--data", "nowhere.jsonl", "--reward", "answer"], "nowhere.jsonl"),
    (["--data", "some.jsonl", "--reward", "strict"], "strict"), (["--top-p", 0.9], "unrecognized"),
    (["--prompts", 0], "--prompts"), (["--group", 0, "--loss", "ppo"], "--group: 0: use"),
    (["--kl", 0.1, "--kl-kind", "k1"], "--kl-kind k1 in the loss has no gradient"),
    (["--kl", 0.1, "--kl-kind", "k2", "--kl-in", "reward"], "--kl-kind k2 in the reward"),
    (["--kl", 0.1, "--kl-kind", "k3", "--kl-in", "reward"], "--kl-kind k3 in the reward"), (["--kl", -1], "--kl: -1: use"),
    (["--kl", "nan"], "--kl: nan: use"), (["--clip-low", 1.5], "--clip-low: 1.5: use"),
    (["--clip-high", -0.1], "--clip-high: -0.1: use"), (["--dual-clip", 0.5], "--dual-clip: 0.5: use"),
    (["--correction", "tis", "--cap", 0], "--cap: 0: use"), (["--veto", 1], "--veto: 1: use"),
    (["--loss", "ppo", "--gamma", 1.1], "--gamma: 1.1: use"), (["--minibatches", 17], "more parts than completions"),
    (["--overlong-buffer", 13], "--overlong-buffer 13 is longer than"), (["--overlong-buffer", -1], "--overlong-buffer"),
    (["--updates", 0], "--updates: 0: use"), (["--temperature", "nan"], "--temperature: nan: use"),
    *[(["--loss", loss, "--correction", kind], f"--correction {kind} weighs each token, and --loss {loss} has one ratio for the "
       "whole completion; use seq-tis, seq-mis or geo-mis") for loss in ("gspo", "rloo") for kind in ("tis", "mis")],
    (["--keep-rate", 0.3, 0.4, "--candidates", 4, "--group", 2], "none of 4 prompts"),
    (["--keep-rate", 0.5, 0.4], "LOW must not be above HIGH")])
def test_bad_flags_are_one_line(able, tmp_path, flags, message):
    code, _, err = run_main(grpo, "--init", able, "--out", tmp_path / "run", "--steps", 1, *TOY, *flags)
    assert code == 2 and err.count("grpo.py: ") == 1 and message in err and "Traceback" not in err


def test_no_more_parts_than_completions_where_the_batch_is_given_in_tokens(able, tmp_path):
    at = TOY.index("--prompts")
    code, _, err = run_main(grpo, "--init", able, "--out", tmp_path / "run", "--steps", 1, *TOY[:at], *TOY[at + 2:],
                            "--batch-tokens", 48, "--minibatches", 5)     # 48 tokens: one prompt of 4 completions of 12
    assert code == 2 and "more parts than completions (1 prompts x --group 4)" in err


@pytest.mark.parametrize("loss", ["grpo", "reinforce++"])
def test_a_divergence_in_the_reward_is_paid_once_the_policy_has_moved(able, tmp_path, loss):
    flags = ["--init", able, "--steps", 2, "--loss", loss, *TOY, "--lr", 0.01, "--updates", 2]
    for name, more in {"without": [], "with": ["--kl", 1.0, "--kl-in", "reward", "--kl-kind", "k1"]}.items():
        in_process(*flags, *more, "--out", tmp_path / name)
    a, b = ([r for r in records(tmp_path / n) if "reward" in r] for n in ("without", "with"))
    assert a[0]["grad_norm"] == pytest.approx(b[0]["grad_norm"], rel=1e-9)    # nothing to pay at --init itself
    assert a[1]["grad_norm"] != pytest.approx(b[1]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("more", [[], ["--temperature", 0.7, "--updates", 2, "--minibatches", 2],
                                  ["--loss", "ppo", "--kl", 0.01, "--mask-truncated"]])
def test_in_exact_mode_sampler_and_trainer_do_not_differ(able, tmp_path, more):
    flags = ["--init", able, "--steps", 4, *TOY, "--dtype", "float32", *more]
    apart = {}
    for exact in (True, False):
        out = tmp_path / str(exact)
        in_process(*flags, "--out", out, *["--exact"] * exact)
        apart[exact] = [(r["logprob_diff_max"], r["logprob_diff_mean"]) for r in records(out) if "reward" in r]
    assert apart[True] == [(0.0, 0.0)] * 4 and max(d for d, _ in apart[False]) > 0


def test_an_exact_run_on_sharded_ranks(able, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "grpo.py"),
               *map(str, ["--init", able, "--steps", 3, *TOY, "--dtype", "float32", "--exact", "--shard", "--checkpointing",
                          "--out", tmp_path / "two"])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=HANG)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [r["logprob_diff_max"] for r in records(tmp_path / "two") if "reward" in r] == [0.0] * 3


def test_the_parts_of_a_batch_do_not_depend_on_the_number_of_ranks():
    """Of 8 groups of 3, numbered as one rank would number them, each part holds the same ones for 1, 2 and 4 ranks."""
    groups = [[f"{g}.{i}" for i in range(3)] for g in range(8)]
    [one], *others = ([deal(groups[r * 8 // n:(r + 1) * 8 // n], range(r * 8 // n, (r + 1) * 8 // n), 8, 5, 1) for r in range(n)]
                      for n in (1, 2, 4))
    assert sorted(x for part in one for x in part) == sorted(x for g in groups for x in g)
    assert [len(part) for part in one] == [5, 5, 5, 5, 4] and one != deal(groups, range(8), 8, 5, 2)
    for ranks in others:
        for m, part in enumerate(one):
            assert sorted(x for rank in ranks for x in rank[m]) == sorted(part)


def test_shares_of_why_nothing_is_learned():
    problem = Problem("What is 2 + 3?", "5")
    def rollout(text, finish="stop", ok=False, reward=0.0):
        return Rollout(problem, Completion([1], [2], [0.0], finish, forced=[False]), Reply(text),
                       Score(reward, {"answer": reward}, ok, None, None, ""))
    alike = [[rollout("so \\boxed{5}", "length"), rollout("<think>hm", "length"), rollout("\\boxed{4}"), rollout("<think>hm")],
             [rollout("\\boxed{5}", ok=True, reward=1.0)] * 4]
    assert nothing_to_learn(a_run(), alike, False) == (
        "no group had two different rewards; of 8 completions 25% cut off at the cap (12% with an answer but no end token), "
        "25% no answer found; of 2 groups 50% all right, 50% all wrong, 100% no spread")
    assert nothing_to_learn(a_run(), alike, True) == ""                       # one group was paid and the other was not
    assert nothing_to_learn(a_run(), alike[:1], True).startswith("all rewards of the batch were alike; of 4")
    cut = [[rollout("a", "length", reward=1.0), rollout("b", "length")]]
    assert nothing_to_learn(a_run(), cut, False) == ""
    assert nothing_to_learn(a_run(), cut, False, masked=True).startswith("every completion was cut off and has no loss; of 2")
    alike[0][0] = rollout("so \\boxed{5}", ok=True, reward=1.0)
    assert nothing_to_learn(a_run(), alike, False) == ""


def test_ppo_compiles_the_layers_of_its_policy(tmp_path, tokenizer):
    """--compile reaches the layers through the value head, and the policy knows it, so that sampling leaves them alone."""
    model, _ = load(tiny_checkpoint(tmp_path / "m", tokenizer))
    run = SimpleNamespace(device=torch.device("cpu"), ranks=1, args=SimpleNamespace(checkpointing=False, compile=True))
    with torch._dynamo.config.patch(recompile_limit=8):
        Ranks.distribute(run, ActorCritic(model))
    assert model.compiled and all(layer._compiled_call_impl for layer in model.layers)


def test_ppo_computes_in_the_form_of_its_model(tmp_path, tokenizer):
    """The log-probabilities with a value head beside them are the model's own, to the last bit, in exact mode as well."""
    model, _ = load(tiny_checkpoint(tmp_path / "m", tokenizer))
    tokens, targets = torch.randint(0, 500, (2, 3, 40), generator=torch.Generator().manual_seed(0))
    used = []
    form = kernels._form
    def noted(x, exact):
        used.append(exact)
        return form(x, exact)
    for exact in (False, True):
        model.exact = exact
        used.clear()
        with mock.patch.object(kernels, "_form", noted):
            found = ActorCritic(model)(tokens, None, targets, 0.7, True)[:2]
        assert set(used) == {exact}                       # no block of it in the other form
        assert all(torch.equal(a, b) for a, b in zip(found, model(tokens, None, targets, 0.7, True), strict=True))

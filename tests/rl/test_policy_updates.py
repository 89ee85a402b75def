"""Whole updates of grpo.py, recomputed completion by completion from plain logits.

The script runs its own main() in float64 for two steps, while everything that its sampler returns is written down. Then every
step is computed again here: each completion alone in the model, rewards, penalties, advantages, ratios, weights and divisors
from the papers' formulas in plain loops, the gradient's norm, AdamW. Weights and logged numbers must agree. Nothing of the
script's own arithmetic is used, so a wrong sign, mask, divisor or a forgotten term fails here.
"""

import argparse
import json
import math
import statistics
import zlib
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import run_main, state_of, tiny_checkpoint, write_rows

import grpo
from data import Stream
from model import load
from rl.asynchronous import AsyncRollouts
from rl.critic import ActorCritic
from rl.rollouts import Rollouts
from sampler import Sampler
from tasks import rewards as task_rewards
from tasks.task import Reply, Verdict
from tokenizer import Tokenizer

D = torch.float64
P, G, STEPS = 2, 4, 2
PAPERS = {                     # clip below and above, and by what A is divided: the settings of each paper
    "grpo": (0.2, 0.2, "group"), "dr_grpo": (0.2, 0.2, "none"), "dapo": (0.2, 0.28, "group"), "gspo": (3e-4, 4e-4, "group"),
    "cispo": (math.inf, 4.0, "group"), "dppo_tv": (0.15, 0.15, "none"), "dppo_kl": (0.05, 0.05, "none"),
    "sapo": (math.inf, math.inf, "group"), "maxrl": (0.2, 0.2, "mean"), "rloo": (math.inf, math.inf, "none"),
    "reinforce++": (0.2, 0.2, None), "reinforce++-baseline": (0.2, 0.2, None), "ppo": (0.2, 0.2, None),
    "rlp": (0.2, 0.2, "none")}
OVER_TOKENS = ("dapo", "cispo", "maxrl", "reinforce++", "reinforce++-baseline", "ppo")
WHOLE, RETURNS = ("gspo", "rloo"), ("reinforce++", "reinforce++-baseline", "ppo")
CONSTANT, FROM_SAMPLER = ("dr_grpo", "dppo_tv", "dppo_kl"), ("dppo_tv", "dppo_kl")
CORRECTIONS = {"icepop": (5.0, 0.5)}                      # the largest and the smallest weight, if not 2 and none


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("policy") / "init", tokenizer)


# what the runs are paid, and what counts as right: known functions of a completion

def paid(tokens, sample):
    return (3 * tokens + 2 * sample) % 5 / 4


def coin(tokens):
    return float(tokens % 2)


def graded(problem, reply):
    return Verdict(zlib.crc32(reply.text.encode()) % 2 == 0, None, None, "as the dice fall")


def run(monkeypatch, folder, out, flags, noise=0.0, steps=STEPS):
    """Runs the script: {step: {attempt: groups of Completion that were sampled}} (step -1: before the first step); step
    records; saved state; the log's first record; the value head's first bias. noise: how far the sampler's log-probabilities
    are put off, so that there is something to correct."""
    calls, biases, start, score, init = {}, [], Sampler.start, Rollouts.score, ActorCritic.__init__
    dice = torch.Generator().manual_seed(1)

    def ends_early(self, *args, **options):
        start(self, *args, **options)
        self.stop = set(range(0, len(self.tokenizer), 13)) | self.tokenizer.stop_ids

    def noted(self, problem, number, completions, cap, seed):
        for c in completions:
            c.logprobs = [x + noise * float(torch.randn((), generator=dice)) for x in c.logprobs]
        # with --seed 0 the seed is the step, and ahead of training the groups are numbered through all steps
        step, attempt = (number // P, 0) if isinstance(self, AsyncRollouts) else (seed, number // P)
        calls.setdefault(step, {}).setdefault(attempt, []).append(completions)
        return score(self, problem, number, completions, cap, seed)

    def noted_init(self, model):
        init(self, model)
        biases.append(self.value.bias.detach().clone())
    monkeypatch.setitem(task_rewards.REWARDS, "paid", lambda p, r, g: paid(r.tokens, r.sample))
    monkeypatch.setitem(task_rewards.REWARDS, "coin", lambda p, r, g: coin(r.tokens))
    monkeypatch.setattr(task_rewards, "grade", graded)
    with (mock.patch.object(Sampler, "start", ends_early), mock.patch.object(Rollouts, "score", noted),
          mock.patch.object(ActorCritic, "__init__", noted_init)):
        code, _, err = run_main(grpo, "--init", folder, "--out", out, "--data", "world:ops=1-2,split=rl", "--mode", "plain",
                                "--reward", "paid", "--prompts", P, "--group", G, "--max-new-tokens", 10, "--steps", steps,
                                "--dtype", "float64", "--lr", 0.01, "--device", "cpu", "--seq-len", 160, *flags)
    assert code == 0, err
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return calls, [r for r in records if "reward" in r], state_of(out), records[0], biases


class Reference:
    """The same run, one completion at a time. o: the flags, where the loss does not say otherwise."""

    def __init__(self, folder, bias=None, **o):
        low, high, scale = PAPERS[o["loss"]]
        self.o = argparse.Namespace(**{
            "updates": 1, "minibatches": 1, "dual_clip": 0.0, "kl": 0.0, "kl_in": "loss", "kl_kind": None, "entropy": 0.0,
            "correction": "none", "veto": 0.0, "sequence_mask": 0.0, "tau_pos": 1.0, "tau_neg": 1.05,
            "old": "sampler" if o["loss"] in FROM_SAMPLER else "trainer", "mask_truncated": False, "overlong_buffer": 0,
            "gamma": 1.0, "lam": 1.0, "value_weight": 0.5, "temperature": 1.0, "clip": 1.0, "lr": 0.01, "reward": "paid",
            "rates": [1.0] * 9, "weight_decay": 0.0, "replace": 0, "caps": {0: 10}, "clip_low": low, "clip_high": high,
            "scale": scale, "lessons": []} | dict(zip(("cap", "cap_low"), CORRECTIONS.get(o.get("correction"), (2.0, 0.0)))) | o)
        if self.o.kl_kind is None:
            self.o.kl_kind = {"loss": "k2", "reward": "k1"}[self.o.kl_in]
        self.model, self.init = (load(folder, dtype=D)[0] for _ in range(2))
        self.weights = {n: w for n, w in self.model.named_parameters()}
        if self.o.loss == "ppo":
            width = self.model.config.width
            self.value = torch.zeros(1, width, dtype=D, requires_grad=True), bias.clone().requires_grad_()
            self.weights = {f"model.{n}": w for n, w in self.weights.items()}
            self.weights |= {"value.weight": self.value[0], "value.bias": self.value[1]}
        self.m, self.v = ({n: torch.zeros_like(w) for n, w in self.weights.items()} for _ in range(2))
        self.t = 0

    def look(self, model, c):
        """Log-probability of each drawn token, entropy there, and its value: lists of scalars, without forced tokens."""
        ids = torch.tensor(c.prompt + c.tokens)
        everything = (model(ids[None, :-1])[0] / self.o.temperature).log_softmax(-1)
        values = torch.zeros(len(everything), dtype=D)
        if self.o.loss == "ppo":
            values = model.hidden(ids[None, :-1])[0] @ self.value[0][0] + self.value[1][0]
        found = []
        for i, (token, forced) in enumerate(zip(c.tokens, c.forced, strict=True)):
            if not forced:
                row = everything[len(c.prompt) - 1 + i]
                found.append((row[token], -(row.exp() * row).sum(), values[len(c.prompt) - 1 + i]))
        return [list(x) for x in zip(*found, strict=True)]

    def step(self, step, calls, record):
        o, numbers, told = self.o, {}, []
        cap = [tokens for first, tokens in sorted(o.caps.items()) if first <= step][-1]
        kept, sampled = [], []
        for attempt, groups in sorted(calls.items()):                         # dynamic sampling: flat groups make way
            sampled += groups
            kept += [g for g in groups if attempt == o.replace or not o.replace or len({self.earned(c, i, cap)[2]
                     for i, c in enumerate(g)}) > 1]
        assert len(kept) == P and all(len(c.tokens) <= cap for g in sampled for c in g)
        flat = []
        for number, (g, i) in enumerate((g, i) for g in kept for i in range(G)):
            c, item = g[i], argparse.Namespace(number=number, c=g[i])
            item.cut = c.finish == "length"
            item.teaches = not (o.mask_truncated and item.cut)
            item.task, item.overlong, item.earned = self.earned(c, i, cap)
            with torch.no_grad():
                item.old, _, item.values = ([float(x) for x in xs] for xs in self.look(self.model, c))
                item.ref = [float(x) for x in self.look(self.init, c)[0]] if o.kl else item.old
            item.sampler = [x for x, f in zip(c.logprobs, c.forced, strict=True) if not f]
            item.n = len(item.old)
            item.paid_kl = [o.kl * (a - b) if o.kl_in == "reward" else 0.0 for a, b in zip(item.old, item.ref, strict=True)]
            item.reward = item.earned - sum(item.paid_kl)
            flat.append(item)
        self.advantages(flat)
        order = np.random.default_rng(0 * 7919 + step).permutation(P * G)     # the parts, for --seed 0
        parts = [[flat[i] for i in order[m::o.minibatches] if flat[i].teaches] for m in range(o.minibatches)]
        seen = dict.fromkeys(("tokens", "entropy", "clip_low", "clip_high", "gate", "dropped", "kl"), 0.0)
        for name in ("clip_low", "clip_high") if o.loss == "sapo" else ("gate",):
            del seen[name]
        if o.correction == "none" and not (o.veto or o.sequence_mask):
            del seen["dropped"]
        for update in range(o.updates * o.minibatches):
            loss = self.loss(parts[update % o.minibatches], seen)
            if o.lessons:                                                     # one batch of given documents for each update
                lesson, tokens = self.likelihood(o.lessons.pop(0))
                told.append((float(lesson.detach()), tokens))
                loss = loss + o.sft_weight * lesson / tokens
            if loss.requires_grad:                                            # else the part is empty: only momentum moves
                loss.backward()
            norm = self.adamw(o.lr * o.rates[step])
        numbers = {"loss": float(loss.detach()), "grad_norm": norm}
        numbers |= {k: v / max(1, seen["tokens"]) for k, v in seen.items() if k != "tokens"}
        if told:
            numbers["sft_loss"] = sum(total for total, _ in told) / sum(tokens for _, tokens in told)
        everyone = [(c, self.earned(c, i, cap)) for g in sampled for i, c in enumerate(g)]
        numbers |= {"reward": statistics.mean(e[0] for _, e in everyone),
                    "overlong_penalty": statistics.mean(e[1] for _, e in everyone),
                    "kl_penalty": -sum(sum(r.paid_kl) for r in flat) / len(everyone),
                    "reward_std": statistics.mean(statistics.stdev(self.earned(c, i, cap)[0] for i, c in enumerate(g))
                                                  for g in sampled),
                    "zero_spread": statistics.mean(len({self.earned(c, i, cap)[2] for i, c in enumerate(g)}) == 1
                                                   for g in sampled),
                    "length_mean": statistics.mean(len(c.tokens) for c, _ in everyone),
                    "cut_off": statistics.mean(c.finish == "length" for c, _ in everyone)}
        apart = [abs(a - b) for r in flat if self.counts(r) for a, b in zip(r.old, r.sampler, strict=True)]
        numbers |= {"logprob_diff_max": max(apart), "logprob_diff_mean": statistics.mean(apart)}
        for name, wanted in numbers.items():
            digits = 1e-8 if name in ("loss", "grad_norm") else 6e-6          # the others are logged to six digits
            assert record[name] == pytest.approx(wanted, rel=digits, abs=1e-9), name
        return flat, numbers

    def earned(self, c, sample, cap):
        """Of the task, the soft penalty for length (DAPO, equation 13), and both together."""
        task = paid(len(c.tokens), sample) if self.o.reward == "paid" else coin(len(c.tokens))
        penalty, buffer = 0.0, self.o.overlong_buffer
        if buffer and len(c.tokens) > cap - buffer:
            penalty = (cap - buffer - len(c.tokens)) / buffer
        return task, penalty, task + penalty

    def counts(self, r):
        """Whether a completion is looked at when training: with A = 0 and no term beside A there is no need to."""
        return r.teaches and (self.o.loss in RETURNS or self.o.kl or self.o.entropy or abs(r.A) > 1e-9)

    def advantages(self, flat):
        o = self.o
        if o.loss in RETURNS:
            return self.token_advantages(flat)
        everyone = [r.reward for r in flat]
        for g in range(P):
            group = flat[g * G:(g + 1) * G]
            rewards = [r.reward for r in group]
            for i, r in enumerate(group):
                others = rewards[:i] + rewards[i + 1:]
                r.A = rewards[i] - statistics.mean(others if o.loss in ("rloo", "rlp") else rewards)
                if o.scale in ("group", "batch"):
                    r.A /= (statistics.stdev(rewards) if o.scale == "group" else statistics.pstdev(everyone)) + 1e-6
                elif o.scale == "mean" and sum(rewards):
                    r.A /= statistics.mean(rewards)
                r.advantages = [r.A] * r.n

    def token_advantages(self, flat):
        """Returns with a discount, or GAE; whitened over all tokens that teach."""
        o = self.o
        for i, r in enumerate(flat):
            pay = [-x for x in r.paid_kl]
            pay[-1] += r.earned
            if o.loss == "reinforce++-baseline":
                pay[-1] -= statistics.mean(other.earned for other in flat[i // G * G:i // G * G + G])
            values = [*(r.values if o.loss == "ppo" else [0.0] * r.n), 0.0]
            lam = o.lam if o.loss == "ppo" else 1.0
            deltas = [pay[t] + o.gamma * values[t + 1] - values[t] for t in range(r.n)]
            r.A = [sum((o.gamma * lam) ** (k - t) * deltas[k] for k in range(t, r.n)) for t in range(r.n)]
            r.targets = [a + v for a, v in zip(r.A, values)]
        everything = [a for r in flat if r.teaches for a in r.A]
        mean, deviation = statistics.mean(everything), statistics.pstdev(everything)
        for r in flat:
            r.advantages = [(a - mean) / (deviation + 1e-6) for a in r.A]

    def loss(self, part, seen):
        o, total = self.o, torch.zeros((), dtype=D)
        longest = max(o.caps.values())
        tokens = sum(r.n for r in part)
        for r in part:
            new, entropies, values = self.look(self.model, r.c)
            old = r.sampler if o.old == "sampler" else r.old
            weights = self.corrections(r)
            if o.sequence_mask and statistics.mean(a - b.item() for a, b in zip(r.sampler, new, strict=True)) > o.sequence_mask:
                weights = [0.0 if a < 0 else w for a, w in zip(r.advantages, weights, strict=True)]
            log_ratios = [a - b for a, b in zip(new, old, strict=True)]
            if o.loss in WHOLE:
                whole = torch.stack(log_ratios).sum()
                log_ratios = [whole / r.n if o.loss == "gspo" else whole] * r.n
            divisor = tokens if o.loss in OVER_TOKENS else len(part) * (longest if o.loss in CONSTANT else r.n)
            for t in range(r.n):
                ratio, A = log_ratios[t].exp(), r.advantages[t]
                clipped = ratio.clamp(1 - o.clip_low, 1 + o.clip_high)
                p, q = new[t].exp(), math.exp(old[t])
                below, above = ratio.item() < 1 - o.clip_low and A < 0, ratio.item() > 1 + o.clip_high and A > 0
                if o.loss == "cispo":
                    gain = clipped.detach() * A * new[t]
                elif o.loss in FROM_SAMPLER:
                    moved = p.item() - q
                    apart = {"dppo_tv": abs(moved),
                             "dppo_kl": q * math.log(q / (q + moved)) + (1 - q) * math.log((1 - q) / (1 - q - moved))}
                    below = A < 0 and moved < 0 and apart[o.loss] > o.clip_low
                    above = A > 0 and moved > 0 and apart[o.loss] > o.clip_high
                    gain = 0 * p if below or above else p / q * A
                elif o.loss == "sapo":
                    tau = o.tau_pos if A > 0 else o.tau_neg
                    gate = 1 / (1 + (-tau * (ratio - 1)).exp())
                    gain = 4 / tau * gate * A
                else:
                    gain = torch.min(ratio * A, clipped * A)
                    if o.dual_clip and A < 0:
                        gain = torch.max(gain, torch.tensor(o.dual_clip * A, dtype=D))
                d = r.ref[t] - new[t]
                kl = {"k1": -d, "k2": d ** 2 / 2, "k3": d.exp() - 1 - d}[o.kl_kind] if o.kl else torch.zeros(())
                loss = -weights[t] * gain - o.entropy * entropies[t] + (o.kl * kl if o.kl_in == "loss" else 0.0)
                if o.loss == "ppo":
                    near = r.values[t] + (values[t] - r.values[t]).clamp(-0.2, 0.2)
                    loss = loss + o.value_weight * torch.max((values[t] - r.targets[t]) ** 2, (near - r.targets[t]) ** 2) / 2
                total = total + loss / divisor
                if self.counts(r):
                    seen["tokens"] += 1
                    seen["entropy"] += float(entropies[t].detach())
                    seen["kl"] += float(kl.detach())
                    now = {"clip_low": below, "clip_high": above, "dropped": weights[t] == 0}
                    now |= {"gate": 4 * (gate * (1 - gate)).item()} if o.loss == "sapo" else {}
                    for name in seen.keys() & now.keys():
                        seen[name] += now[name]
        return total

    def likelihood(self, documents):
        """The sum of -log pi over the tokens of (ids, their weights), each document alone, at temperature 1; and of weights."""
        total, divisor = torch.zeros((), dtype=D), 0.0
        for ids, weights in documents:
            logprobs = self.model(ids[None, :-1])[0].log_softmax(-1)
            for t in range(1, len(ids)):
                total, divisor = total - weights[t] * logprobs[t - 1, ids[t]], divisor + weights[t]
        return total, divisor

    def corrections(self, r):
        """The weight of each token, from the sampler to pi_old."""
        o = self.o
        log_rhos = [a - b for a, b in zip(r.old, r.sampler, strict=True)]
        if o.old == "sampler":
            return [1.0] * r.n
        if o.veto and min(log_rhos) < math.log(o.veto):
            return [0.0] * r.n
        if o.correction.startswith("seq"):
            log_rhos = [sum(log_rhos)] * r.n
        if o.correction.startswith("geo"):
            log_rhos = [sum(log_rhos) / r.n] * r.n
        rhos = [math.exp(x) for x in log_rhos]
        if o.correction.endswith("tis"):
            return [min(x, o.cap) for x in rhos]
        if o.correction == "icepop":
            return [x if o.cap_low <= x <= o.cap else 0.0 for x in rhos]
        if o.correction == "geo-mis":
            return [x if 1 / o.cap <= x <= o.cap else 0.0 for x in rhos]
        return [x if x <= o.cap else 0.0 for x in rhos] if o.correction.endswith("mis") else [1.0] * r.n

    @torch.no_grad()
    def adamw(self, lr):
        """Clips the gradient's norm, and takes AdamW's step (arXiv 1711.05101, algorithm 2); returns the norm before."""
        grads = {n: w.grad if w.grad is not None else torch.zeros_like(w) for n, w in self.weights.items()}
        norm = math.sqrt(sum(float((g ** 2).sum()) for g in grads.values()))
        self.t += 1
        for n, w in self.weights.items():
            g = grads[n] * min(1.0, self.o.clip / (norm + 1e-6))
            self.m[n] = 0.9 * self.m[n] + 0.1 * g
            self.v[n] = 0.95 * self.v[n] + 0.05 * g ** 2
            if "layers." in n and w.ndim == 2:
                w *= 1 - lr * self.o.weight_decay
            w -= lr * (self.m[n] / (1 - 0.9 ** self.t)) / ((self.v[n] / (1 - 0.95 ** self.t)).sqrt() + 1e-8)
            w.grad = None
        return norm


def compare(monkeypatch, folder, out, flags, options, noise=0.0, steps=STEPS):
    """Runs the script and the reference side by side; returns the reference's completions and numbers of each step."""
    calls, records, state, _, biases = run(monkeypatch, folder, out, flags, noise, steps)
    reference = Reference(folder, *biases, **options)
    found = [reference.step(step, calls[step], record) for step, record in zip(range(steps), records, strict=True)]
    momenta = {n: s["exp_avg"] for packed in state["optimizers"] for n, s in packed.items()}
    for n, w in reference.weights.items():
        assert (momenta[n] - reference.m[n]).abs().max() < 1e-9, n            # of gradients, so the sharper of the two
        assert (state["weights"][n] - w).abs().max() < 1e-7, n
    assert max(float(m.abs().max()) for m in reference.m.values()) > 1e-4
    return found


SEVERAL = "--updates 2 --minibatches 2 "
SEVERAL_OPTIONS = {"updates": 2, "minibatches": 2}


@pytest.mark.parametrize("loss", PAPERS)
def test_each_loss_with_the_settings_of_its_paper(monkeypatch, folder, tmp_path, loss):
    """Several passes in parts, in several micro-batches, all terms beside the loss."""
    low, high, scale = PAPERS[loss]
    flags = SEVERAL + f"--loss {loss} --entropy 0.03 --kl 0.05 --temperature 0.8 --seq-len 100 --micro-tokens 200"
    found = compare(monkeypatch, folder, tmp_path / "run", flags.split(),
                    SEVERAL_OPTIONS | {"loss": loss, "entropy": 0.03, "kl": 0.05, "temperature": 0.8})
    said = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])["flags"]  # and the log says so
    assert said["clip_low"] == min(1, low) and said["scale"] == scale and said["kl_kind"] == "k2"
    assert said["old"] == ("sampler" if loss in FROM_SAMPLER else "trainer")
    assert said["clip_high"] == high if high < math.inf else said["clip_high"] > math.exp(20)
    assert found[1][1]["kl"] > 1e-6
    if loss == "sapo":
        assert all(n["gate"] < 1 for _, n in found) and said["tau_pos"] == 1 and said["tau_neg"] == 1.05
    elif loss not in ("cispo", "rloo", *FROM_SAMPLER):    # these have a case with closer bounds below
        assert sum(n["clip_low"] + n["clip_high"] for _, n in found) > 0      # the clip did act
    elif loss not in FROM_SAMPLER:
        assert all(n["clip_low"] == 0 for _, n in found)


@pytest.mark.parametrize("loss", PAPERS)
def test_one_update_without_anything_beside_the_loss(monkeypatch, folder, tmp_path, loss):
    compare(monkeypatch, folder, tmp_path / "run", ["--loss", loss, "--clip", "0.05", "--seq-len", "0"],
            {"loss": loss, "clip": 0.05})


CASES = [                                                # loss, flags, noise; the reference has the same names
    ("grpo", "--dual-clip 1.05 --clip-low 0.05 --clip-high 0.1 --lr 0.03", 0.0),
    ("dapo", "--dual-clip 1.05 --clip-high 0.02", 0.0),
    ("cispo", "--clip-low 0.05 --clip-high 0.02", 0.0), ("gspo", "--clip-low 0.01 --clip-high 0.02", 0.0),
    ("rloo", "--clip-low 0.1 --clip-high 0.2", 0.0),
    ("dppo_tv", "--clip-low 0.001 --clip-high 0.002", 0.0), ("dppo_kl", "--clip-low 0.001 --clip-high 0.002", 0.0),
    ("sapo", "--tau-pos 3 --tau-neg 9 --lr 0.03", 0.0),
    ("grpo", "--scale mean", 0.0), ("maxrl", "--scale none", 0.0),
    ("grpo", "--scale batch", 0.0), ("grpo", "--scale none", 0.0), ("dr_grpo", "--scale group", 0.0),
    ("rloo", "--scale batch", 0.0), ("gspo", "--scale none", 0.0),
    ("grpo", "--kl 0.3 --kl-kind k3", 0.0), ("dapo", "--kl 0.3 --kl-kind k2 --kl-in loss", 0.0),
    ("grpo", "--kl 0.3 --kl-in reward", 0.0), ("dr_grpo", "--kl 0.3 --kl-in reward --kl-kind k1", 0.0),
    ("reinforce++", "--kl 0.3 --kl-in reward", 0.0), ("ppo", "--kl 0.3 --kl-in reward --gamma 0.9 --lam 0.8", 0.0),
    ("ppo", "--kl 0.3 --kl-kind k3", 0.0),
    ("grpo", "--entropy 0.2", 0.0), ("ppo", "--entropy 0.2 --value-weight 1.5", 0.0), ("ppo", "--value-weight 0.0", 0.0),
    ("reinforce++-baseline", "--kl 0.3 --kl-in reward --gamma 0.9", 0.0), ("reinforce++-baseline", "--overlong-buffer 8", 0.0),
    ("reinforce++", "--gamma 0.8", 0.0), ("ppo", "--gamma 0.9 --lam 0.7", 0.0), ("ppo", "--lam 0.5", 0.0),
    *[("grpo", f"--correction {kind} --cap {cap}", 0.4) for kind, cap in (
        ("tis", 1.2), ("mis", 1.2), ("seq-tis", 1.5), ("seq-mis", 1.5), ("geo-mis", 1.1))],
    ("grpo", "--correction icepop --cap 1.2 --cap-low 0.8", 0.4), ("dapo", "--correction icepop", 1.5),
    ("dppo_tv", "--correction tis --cap 1.2 --old trainer", 0.4), ("sapo", "--correction icepop --cap 1.2", 0.4),
    ("grpo", "--sequence-mask 0.05", 0.4), ("ppo", "--sequence-mask 0.05 --correction mis", 0.4),
    ("gspo", "--sequence-mask 0.1 --old sampler", 0.4), ("dapo", "--sequence-mask 0.05 --lr 0.03 --exact", 0.0),
    ("gspo", "--correction seq-tis --cap 1.5", 0.4), ("rloo", "--correction seq-mis --cap 1.5", 0.4),
    ("gspo", "--correction geo-mis --cap 1.1", 0.4), ("cispo", "--correction mis --cap 1.2", 0.4),
    ("ppo", "--correction tis --cap 1.2", 0.4), ("reinforce++", "--correction geo-mis --cap 1.1", 0.4),
    ("grpo", "--veto 0.5", 0.4), ("dapo", "--veto 0.5 --correction tis", 0.4), ("ppo", "--veto 0.5", 0.4),
    ("grpo", "--old sampler", 0.4), ("gspo", "--old sampler", 0.02), ("ppo", "--old sampler", 0.4),
    ("cispo", "--old sampler", 0.4), ("rloo", "--old sampler", 0.1), ("dppo_tv", "", 0.4), ("dppo_kl", "", 0.4),
    ("dppo_kl", "--exact", 0.0),
    *[(loss, "--mask-truncated", 0.0) for loss in ("grpo", "dapo", "dr_grpo", "rloo", "ppo", "reinforce++")],
    ("grpo", "--mask-truncated --kl 0.5 --kl-in reward", 0.0), ("ppo", "--mask-truncated --kl 0.5 --kl-in reward", 0.0),
    ("rloo", "--mask-truncated --kl 0.5 --entropy 0.1", 0.0), ("dapo", "--mask-truncated --scale batch", 0.0),
    *[(loss, "--overlong-buffer 8", 0.0) for loss in ("grpo", "dapo", "reinforce++")],
    ("grpo", "--overlong-buffer 8 --kl 0.5 --kl-in reward --mask-truncated", 0.0),
    ("dapo", "--exact", 0.0), ("ppo", "--exact --kl 0.3", 0.0),
]


@pytest.mark.parametrize("loss, flags, noise", CASES, ids=[f"{loss} {flags}".replace(" ", "_") for loss, flags, _ in CASES])
def test_each_flag(monkeypatch, folder, tmp_path, loss, flags, noise):
    words = flags.split()
    options = {"loss": loss} | SEVERAL_OPTIONS
    for i, word in enumerate(words):
        if word.startswith("--"):
            value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else True
            name = word[2:].replace("-", "_")
            number = name not in ("scale", "kl_kind", "kl_in", "correction", "old", "mask_truncated", "exact")
            options[name] = float(value) if number else value
    found = compare(monkeypatch, folder, tmp_path / "run", ["--loss", loss, *SEVERAL.split(), *words], options, noise)
    flat = [r for rollouts, _ in found for r in rollouts]
    if "mask_truncated" in options:
        assert any(r.cut for r in flat) and not all(r.cut for r in flat)
    if "overlong_buffer" in options:
        assert min(r.overlong for r in flat) == -1 and any(-1 < r.overlong < 0 for r in flat)
    if "correction" in options or "veto" in options or "sequence_mask" in options:            # some tokens are dropped, not all
        assert any(0 < n["dropped"] < 1 for _, n in found) or "tis" in flags
    if "clip_low" in options or "clip_high" in options:
        assert sum(n["clip_low"] + n["clip_high"] for _, n in found) > 0


@pytest.mark.parametrize("loss, flags, options", [
    ("grpo", "--temperature 0.7 --micro-tokens 128", {"temperature": 0.7}),
    ("ppo", SEVERAL, SEVERAL_OPTIONS), ("dr_grpo", "--async-steps 0 --exact --mask-truncated", {"mask_truncated": True})])
def test_fine_tuning_beside_it(monkeypatch, folder, tmp_path, loss, flags, options):
    """Each update has the gradient of its own batch of conversations beside that of the completions, weighted and clipped with
    it. What was packed is taken apart here; the conversations have turns without a loss, some of them of the assistant."""
    def turns(i):
        return [("user", f"{i} lions?"), ("assistant", f"no, {i}"), ("user", "why?"), ("assistant", "lions " * (i % 7 + 1))]
    chats = [{"messages": [{"role": role, "content": said} | ({"weight": i % 2} if said[:2] == "no" else {})
                           for role, said in turns(i)]} for i in range(60)]
    drawn, packed = [], Stream.next

    def noted(stream, *args):
        found = packed(stream, *args)
        rows = [(b, row) for b in found for row in range(len(b.tokens))]
        documents = [(b.tokens[row, here], b.targets[row, here], b.loss_mask[row, here]) for b, row in rows
                     for here in (b.documents[row] == d for d in range(int(b.documents[row].max()) + 1))]
        drawn.append([(torch.cat([tokens, targets[-1:]]), [0.0, *mask.tolist()]) for tokens, targets, mask in documents])
        return found
    monkeypatch.setattr(Stream, "next", noted)
    data = write_rows(tmp_path / "chats.jsonl", chats)
    found = compare(monkeypatch, folder, tmp_path / "run", [
        "--loss", loss, *flags.split(), "--sft-data", data, "--sft-weight", 0.3, "--sft-tokens", 320],
        {"loss": loss, "sft_weight": 0.3, "lessons": drawn} | options)
    assert not drawn and all(n["sft_loss"] > 1 for _, n in found)             # each batch was used once
    result = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["result"]
    assert [row["source"] for row in result["mixture"]] == [str(data)]


@pytest.mark.parametrize("flags, options", [
    ("--correction tis --cap 1.02", {"correction": "tis", "cap": 1.02}), ("--old sampler", {"old": "sampler"}),
    ("--exact", {"old": "sampler"}), ("--correction seq-mis --updates 2", {"correction": "seq-mis", "updates": 2})])
def test_ahead_of_training(monkeypatch, folder, tmp_path, flags, options):
    """Completions begun by older weights: pi_old is that of the weights that learn, or with --old sampler what drew them."""
    found = compare(monkeypatch, folder, tmp_path / "run", ["--async-steps", "2", "--rows", "5", *flags.split()],
                    {"loss": "grpo"} | options, steps=3)
    assert len({v for flat, _ in found for r in flat for v in r.c.versions}) > 1 and found[2][1]["logprob_diff_max"] > 1e-6


def test_the_learning_rate_and_the_decay(monkeypatch, folder, tmp_path):
    """Half a cosine from the peak down to a tenth over two steps; the decay falls on the matrices inside the layers alone."""
    compare(monkeypatch, folder, tmp_path / "run", "--schedule cosine --floor 0.1 --weight-decay 2".split(),
            {"loss": "grpo", "rates": [1.0, 0.1 + 0.9 / 2], "weight_decay": 2.0})


@pytest.mark.parametrize("loss", ["grpo", "ppo"])
def test_caps_in_stages(monkeypatch, folder, tmp_path, loss):
    """The cap in force decides lengths and the penalty; dr_grpo's constant is the longest (its own case below)."""
    found = compare(monkeypatch, folder, tmp_path / "run", [
        "--loss", loss, "--max-new-tokens", "6", "10@1", "--overlong-buffer", "4", "--mask-truncated"],
        {"loss": loss, "caps": {0: 6, 1: 10}, "overlong_buffer": 4, "mask_truncated": True})
    assert [max(len(r.c.tokens) for r in flat) for flat, _ in found] == [6, 10]


def test_the_constant_length_of_dr_grpo_is_the_longest_cap(monkeypatch, folder, tmp_path):
    compare(monkeypatch, folder, tmp_path / "run", ["--loss", "dr_grpo", "--max-new-tokens", "6", "10@1"],
            {"loss": "dr_grpo", "caps": {0: 6, 1: 10}})


@pytest.mark.parametrize("loss", PAPERS)
def test_tokens_that_were_forced_teach_nothing(monkeypatch, folder, tmp_path, loss):
    """They count in no sum and no mean; a completion that ends in one keeps its reward, on its last drawn token."""
    score = Rollouts.score

    def with_forced(self, problem, number, completions, *args):
        for i, c in enumerate(completions):
            c.forced[1:1 + i] = [True] * len(c.forced[1:1 + i])
            c.forced[-1] = i == 1 and len(c.tokens) > 1   # as where the last draw had to be repeated
        return score(self, problem, number, completions, *args)
    monkeypatch.setattr(Rollouts, "score", with_forced)
    more = {"gamma": 0.9} if loss in RETURNS else {"kl": 0.1}
    flags = [f"--{name}={value}" for name, value in more.items()]
    found = compare(monkeypatch, folder, tmp_path / "run", ["--loss", loss, *SEVERAL.split(), *flags],
                    {"loss": loss} | SEVERAL_OPTIONS | more, noise=0.1)
    assert any(r.c.forced[-1] and r.task and r.n for rollouts, _ in found for r in rollouts)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo"])
def test_groups_without_spread_are_replaced(monkeypatch, folder, tmp_path, loss):
    calls, *_ = run(monkeypatch, folder, tmp_path / "calls", ["--loss", loss, "--reward", "coin", "--group", "2",
                                                              "--replace", "3"])
    assert max(len(c) for c in calls.values()) > 1
    monkeypatch.setattr("test_policy_updates.G", 2)
    found = compare(monkeypatch, folder, tmp_path / "run", ["--loss", loss, "--reward", "coin", "--group", "2",
                                                            "--replace", "3"], {"loss": loss, "reward": "coin", "replace": 3})
    assert all(n["zero_spread"] > 0 for _, n in found[:1])


def test_the_difficulty_filter_measures_and_keeps(monkeypatch, folder, tmp_path):
    """The pool is the prompts whose measured pass rate lies within the bounds, and training takes them in turn."""
    calls, _, _, about, _ = run(monkeypatch, folder, tmp_path / "run", [
        "--keep-rate", "0.25", "0.5", "--candidates", "12", "--curriculum"])
    tokenizer = Tokenizer.load(folder)
    measured = [g for groups in calls.pop(-1).values() for g in groups]
    assert len(measured) == 12
    replies = {tuple(g[0].prompt): [Reply(tokenizer.decode_reply(c.prompt, c.tokens)) for c in g] for g in measured}
    rates = {prompt: statistics.mean(graded(None, reply).answer_ok for reply in group) for prompt, group in replies.items()}
    pool = sorted((p for p, rate in rates.items() if 0.25 <= rate <= 0.5), key=lambda p: -rates[p])
    assert len(set(rates.values())) > 2 and 1 < len(pool) < 12 and about["pool"] == len(pool)
    trained = [tuple(g[0].prompt) for step in range(STEPS) for g in calls[step][0]]
    assert trained == [pool[i % len(pool)] for i in range(STEPS * P)]


# what is said, and what is saved

@pytest.mark.parametrize("loss", ["reinforce++", "ppo"])
def test_one_completion_of_a_prompt_is_enough_for_returns(monkeypatch, folder, tmp_path, loss):
    monkeypatch.setattr("test_policy_updates.G", 1)
    monkeypatch.setattr("test_policy_updates.P", 6)
    _, records, *_ = run(monkeypatch, folder, tmp_path / "run", ["--loss", loss, "--group", "1", "--prompts", "6"], steps=6)
    assert all("alike" not in r.get("note", "") and r["grad_norm"] > 1e-4 and r["zero_spread"] == 0 for r in records)
    assert "warning" not in json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["result"]


@pytest.mark.parametrize("loss, steps, why", [("grpo", 1, "no group had two different rewards"),
                                              ("grpo", 6, "no group had two different rewards"),
                                              ("reinforce++", 2, "all rewards of the batch were alike")])
def test_when_nothing_is_learned_one_line_says_why(monkeypatch, folder, tmp_path, loss, steps, why):
    flags = ["--loss", loss, "--reward", "strict", "--max-new-tokens", "1"]   # graded: right or wrong by the text alone
    monkeypatch.setattr("test_policy_updates.graded", lambda problem, text: Verdict(False, None, None, "never"))
    calls, records, *_ = run(monkeypatch, folder, tmp_path / "run", flags, steps=steps)
    for step, record in enumerate(records):
        cut = statistics.mean(c.finish == "length" for g in calls[step][0] for c in g)
        assert record["note"] == (f"{why}; of {P * G} completions {cut:.0%} cut off at the cap (0% with an answer but no end "
                                  f"token), 100% no answer found; of {P} groups 0% all right, 100% all wrong, 100% no spread")
    warning = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["result"]["warning"]
    assert why in warning and "--keep-rate" in warning and "\n" not in warning


@pytest.mark.parametrize("twice", [False, True])
def test_ppo_keeps_every_weight_once_and_goes_on(monkeypatch, folder, tmp_path, twice):
    flags = ["--loss", "ppo", "--save-every", "1"]
    *_, whole, _, _ = run(monkeypatch, folder, tmp_path / "whole", flags)
    model, tokenizer = load(tmp_path / "whole", dtype=D)
    assert sum(w.numel() for w in whole["weights"].values()) == sum(w.numel() for w in model.parameters()) + 32 + 1
    assert len(tokenizer) == 512
    for name, w in model.state_dict().items():
        assert torch.equal(w, whole["weights"][f"model.{name}"]), name
    half = tmp_path / "half"
    with mock.patch.object(grpo.Run, "save", autospec=True, side_effect=stop_after_first_save(grpo.Run.save)):
        with pytest.raises(Stopped):
            run(monkeypatch, folder, half, flags)
    assert state_of(half)["step"] == 1
    if twice:                                             # as older versions saved it
        old = state_of(half)
        old["weights"] |= {n.removeprefix("model."): w for n, w in old["weights"].items() if n.startswith("model.layers")}
        torch.save(old, half / "train_state.pt")
    *_, resumed, _, _ = run(monkeypatch, folder, half, [*flags, "--resume"])
    assert resumed["weights"].keys() == whole["weights"].keys()
    assert all(torch.equal(w, resumed["weights"][n]) for n, w in whole["weights"].items())


class Stopped(Exception):
    pass


def stop_after_first_save(save):
    def once(self, *args, **kwargs):
        save(self, *args, **kwargs)
        raise Stopped
    return once

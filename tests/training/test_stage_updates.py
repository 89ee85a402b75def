"""Whole updates of pretrain.py, sft.py and dpo.py, recomputed document by document from plain logits.

Each script runs its own main() in float64 for a few steps, while the documents that it packs are written down. Then every
step is computed again here: each document alone in the model, losses from the papers' formulas one token at a time, the mean
over the whole batch, the norm clipped, the learning rate, AdamW or Muon. Weights and every logged number must agree. Nothing
of the scripts' own arithmetic is used, so a wrong sign, mask, divisor, shift or a forgotten term fails here.
"""

import json
import math
from unittest import mock

import pytest
import torch
from helpers import run_main, state_of, tiny_checkpoint, write_rows

import dpo
import pretrain
import sft
from data import Packer
from model import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("updates") / "init", tokenizer)


@pytest.fixture(scope="module")
def other(tmp_path_factory, tokenizer):
    return tiny_checkpoint(tmp_path_factory.mktemp("updates") / "other", tokenizer, seed=9)


def run(module, out, *flags):
    """Runs a script: the documents of each packed row, the log's step records, the weights at the end, and the result."""
    rows, row = [], Packer.row

    def noted(packer):
        rows.append(row(packer))
        return rows[-1]
    with mock.patch.object(Packer, "row", noted):
        code, result, err = run_main(module, *flags, "--out", out, "--dtype", "float64", "--log-every", 1)
    assert code == 0, err
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return rows, [r for r in records if "loss" in r], state_of(out)["weights"], result


def look(model, ids):
    """Log-probability of each next token, and entropy of the distribution it is drawn from: both (n - 1,)."""
    tokens = torch.as_tensor(ids, dtype=torch.long)
    everything = model(tokens[None, :-1])[0].log_softmax(-1)                  # (n - 1, V)
    return everything.gather(1, tokens[1:, None])[:, 0], -(everything.exp() * everything).sum(1)


class Optimiser:
    """AdamW (arXiv 1711.05101, algorithm 2) and Muon, one matrix at a time."""

    def __init__(self, model, kind, lr, adam_lr, weight_decay):
        self.model, self.kind, self.lr, self.adam_lr, self.weight_decay = model, kind, lr, adam_lr, weight_decay
        self.m = {n: torch.zeros_like(w) for n, w in model.named_parameters()}
        self.v = {n: torch.zeros_like(w) for n, w in model.named_parameters()}
        self.t = 0

    @torch.no_grad()
    def step(self, share, clip):
        """share: of the peak learning rate. Returns the gradient's norm before it was clipped."""
        grads = {n: w.grad for n, w in self.model.named_parameters()}
        norm = math.sqrt(sum(float((g ** 2).sum()) for g in grads.values()))
        self.t += 1
        for name, w in self.model.named_parameters():
            g, inside = grads[name] * min(1.0, clip / (norm + 1e-6)), "layers" in name and w.ndim == 2
            lr = share * (self.lr if inside or self.kind == "adamw" else self.adam_lr)
            if inside:
                w *= 1 - lr * self.weight_decay
            if inside and self.kind == "muon":
                self.m[name] = 0.95 * self.m[name] + 0.05 * g
                x = 0.05 * g + 0.95 * self.m[name]
                x = x.T if x.shape[0] > x.shape[1] else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if w.shape[0] > w.shape[1] else x
                w -= lr * math.sqrt(max(1.0, w.shape[0] / w.shape[1])) * x
            else:
                self.m[name] = 0.9 * self.m[name] + 0.1 * g
                self.v[name] = 0.95 * self.v[name] + 0.05 * g ** 2
                w -= lr * (self.m[name] / (1 - 0.9 ** self.t)) / ((self.v[name] / (1 - 0.95 ** self.t)).sqrt() + 1e-8)
        self.model.zero_grad(set_to_none=True)
        return norm


def same(found, wanted, what):
    assert found == pytest.approx(wanted, rel=1e-8, abs=1e-10), what


def same_weights(model, weights):
    for name, w in model.named_parameters():
        assert (w - weights[name]).abs().max() < 1e-8, name


def moved(folder, weights):
    """How far training went: a test that compares two models which both stood still would show nothing."""
    before = load(folder, dtype=torch.float64)[0].state_dict()
    return max(float((before[n] - w).abs().max()) for n, w in weights.items())


# pre-training

@pytest.mark.parametrize("flags, kind, lr, adam_lr, decay, clip, shares", [
    ("--lr 0.02 --adam-lr 0.003 --warmup 0.5 --decay 0.5 --floor 0.1 --weight-decay 0.1 --clip 0.3",
     "muon", 0.02, 0.003, 0.1, 0.3, [1 / 3, 2 / 3, 1.0, 0.1 + 0.9 / 2]),
    ("--optimizer adamw --lr 0.003 --schedule cosine --warmup 0 --floor 0.1 --weight-decay 0.2 --micro-tokens 128",
     "adamw", 0.003, None, 0.2, 1.0, [0.1 + 0.45 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]),
    ("--optimizer adamw --lr 0.003 --schedule constant --warmup 0.5 --checkpointing",
     "adamw", 0.003, None, 0.0, 1.0, [1 / 3, 2 / 3, 1.0, 1.0]),
])
def test_pretrain(folder, tmp_path, flags, kind, lr, adam_lr, decay, clip, shares):
    rows, records, weights, result = run(pretrain, tmp_path / "run", "--init", folder, "--data", "world:ops=1-3@2",
                                         "world:ops=2,chat=0.5,q_weight=0.3@1", "--seq-len", 64, "--batch-tokens", 512,
                                         "--steps", 4, *flags.split())
    model, _ = load(folder, dtype=torch.float64)
    optimiser, kept = Optimiser(model, kind, lr, adam_lr, decay), []
    assert len(rows) == 4 * 8 and len(records) == 4
    for step, (share, record) in enumerate(zip(shares, records, strict=True)):
        total = divisor = 0.0
        for ids, loss_weights, *_ in sum(rows[8 * step:8 * step + 8], []):
            logprobs, _ = look(model, ids)
            for t in range(len(ids) - 1):                                     # the loss of a slot has its target's weight
                total = total - float(loss_weights[t + 1]) * logprobs[t]
                divisor += float(loss_weights[t + 1])
            kept += [float(w) for w in loss_weights]
        loss = total / divisor
        loss.backward()
        same(record["loss"], float(loss.detach()), "loss")
        same(record["weight"], divisor, "weight")
        same(record["lr"], lr * share, "lr")
        same(record["grad_norm"], optimiser.step(share, clip), "grad_norm")
    assert {round(w, 6) for w in kept} == {1.0, 0.1, 0.3}                     # all kinds of weights were there
    same_weights(model, weights)
    assert result["skipped"] == 0 and moved(folder, weights) > 1e-3


def test_end_of_text_is_trained(folder, tmp_path, tokenizer):
    """The last target of every whole document is the end-of-text token, with weight 1."""
    rows, *_ = run(pretrain, tmp_path / "run", "--init", folder, "--data",
                   write_rows(tmp_path / "a.jsonl", [{"text": "lions 3"}] * 9), "--seq-len", 64, "--batch-tokens", 64,
                   "--steps", 1)
    assert all(ids[-1] == tokenizer.eot and w[-1] == 1 for ids, w in rows[0]) and len(rows[0]) > 1


# fine-tuning

@pytest.mark.parametrize("flags", ["--loss sft", "--loss dft", "--loss iw", "--loss iw --iw-form token",
                                   "--loss psft --refresh 2 --clip-high 0.02 --micro-tokens 512"])
def test_sft(folder, tmp_path, flags):
    talks = [{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{i} + 1?"},
                           {"role": "assistant", "content": f"{i + 1}", "reasoning": "add one" * (i % 3)},
                           {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]} for i in range(9)]
    rows, records, weights, result = run(
        sft, tmp_path / "run", "--init", folder, "--data", "world:ops=1-2,split=sft", write_rows(tmp_path / "a.jsonl", talks),
        "--no-think", 0.4, "--unflagged", 0.3, "--seq-len", 256, "--batch-tokens", 1024, "--steps", 4, "--lr", 0.01,
        "--adam-lr", 0.01, "--schedule", "constant", "--warmup", 0, *flags.split())
    model, first, snapshot = (load(folder, dtype=torch.float64)[0] for _ in range(3))
    optimiser, weighed = Optimiser(model, "muon", 0.01, 0.01, 0.0), set()
    for step, record in enumerate(records):
        if step % 2 == 0:
            snapshot.load_state_dict(model.state_dict())
        total = nll = entropy = clipped = 0.0
        n = 0
        for ids, loss_weights, *_ in sum(rows[4 * step:4 * step + 4], []):
            logprobs, entropies = look(model, ids)
            with torch.no_grad():
                start, old = look(first, ids)[0], look(snapshot, ids)[0]
            trained = [t for t in range(len(ids) - 1) if loss_weights[t + 1]]
            assert 0 < len(trained) < len(ids) - 1
            mean_ratio = math.exp(sum(float(logprobs[t].detach() - start[t]) for t in trained) / len(trained))
            for t in trained:
                p, n = math.exp(float(logprobs[t].detach())), n + 1
                w = {"--loss sft": 1.0, "--loss dft": p, "--loss iw": min(16.0, mean_ratio),
                     "--loss iw --iw-form token": min(1.8, max(0.2, p / math.exp(float(start[t]))))}.get(flags)
                if w is None:                                                 # psft: min(r, clip(r)) by its own gradient
                    r = (logprobs[t] - old[t]).exp()
                    total = total - (r if float(r.detach()) <= 1.02 else 1.02)
                    clipped += float(r.detach()) > 1.02
                else:
                    total = total - w * logprobs[t]
                    weighed.add(round(w, 3))
                nll, entropy = nll - float(logprobs[t].detach()), entropy + float(entropies[t].detach())
        loss = total / n
        loss.backward()
        for name, wanted in {"loss": float(loss.detach()), "nll": nll / n, "entropy": entropy / n, "weight": n}.items():
            same(record[name], wanted, name)
        if "psft" in flags:
            same(record["clipped"], clipped / n, "clipped")
            assert (clipped > 0) == (step % 2 == 1)
        same(record["grad_norm"], optimiser.step(1.0, 1.0), "grad_norm")
    same_weights(model, weights)
    assert len(weighed) > 3 or flags in ("--loss sft",) or "psft" in flags
    assert moved(folder, weights) > 1e-2


# preferences

def softplus(x):
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


def pair_loss(name, beta, sums, lengths, known, z, smoothing=0.0, gamma=None, kto_weights=(1.0, 1.0)):
    """One pair's loss by the papers' equations. sums, known: log-probabilities of chosen and rejected under policy and
    reference."""
    if name in ("dpo", "dpo_norm"):
        n = lengths if name == "dpo_norm" else (1, 1)
        h = (sums[0] - known[0]) / n[0] - (sums[1] - known[1]) / n[1]
        return (1 - smoothing) * softplus(-beta * h) + smoothing * softplus(beta * h)
    if name == "ipo":
        return ((sums[0] - known[0]) - (sums[1] - known[1]) - 1 / (2 * beta)) ** 2
    if name == "simpo":
        x = beta * sums[0] / lengths[0] - beta * sums[1] / lengths[1] - gamma
        return (1 - smoothing) * softplus(-x) + smoothing * softplus(x)
    if name == "orpo":
        odds = [(s / n).exp() / (1 - (s / n).exp()) for s, n in zip(sums, lengths, strict=True)]
        return -sums[0] / lengths[0] + beta * torch.log(1 + odds[1] / odds[0])
    good, bad = (1 / (1 + torch.exp(-beta * x)) for x in (sums[0] - known[0] - z, z - (sums[1] - known[1])))
    return (kto_weights[0] * (1 - good) + kto_weights[1] * (1 - bad)) / 2


@pytest.mark.parametrize("flags, name, beta, more", [
    ("--loss dpo", "dpo", 0.1, {}),
    ("--loss dpo --beta 0.7 --label-smoothing 0.2 --micro-tokens 384", "dpo", 0.7, {"smoothing": 0.2}),
    ("--loss dpo_norm", "dpo_norm", 5.0, {}),
    ("--loss ipo", "ipo", 0.1, {}),
    ("--loss simpo", "simpo", 2.0, {"gamma": 1.0}),
    ("--loss simpo --beta 3 --gamma 0.2", "simpo", 3.0, {"gamma": 0.2}),
    ("--loss orpo --beta 0.4", "orpo", 0.4, {}),
    ("--loss kto --kto-weights 1.3 0.6 --micro-tokens 768", "kto", 0.1, {"kto_weights": (1.3, 0.6)}),
    ("--loss kto", "kto", 0.1, {"swapped": True}),        # policy and reference change places: the baseline would be below 0
])
def test_dpo(folder, other, tmp_path, tokenizer, flags, name, beta, more):
    """Three pairs a row at most; for KTO each pair has a third, mismatched document."""
    pairs = [{"prompt": f"What is {i} + {i % 4}?", "chosen": f"<think>\n{'add ' * (i % 3 + 1)}\n</think>\n\n{i + i % 4}",
              "rejected": f"It may be {i}." + " Or not." * (i % 2)} for i in range(24)]
    size, T = (3, 384) if name == "kto" else (2, 192)
    more = dict(more)
    folder, other = (other, folder) if more.pop("swapped", False) else (folder, other)
    reference = [] if name in ("simpo", "orpo") else ["--reference", other]
    rows, records, weights, _ = run(
        dpo, tmp_path / "run", "--init", folder, *reference, "--data", write_rows(tmp_path / "pairs.jsonl", pairs),
        "--seq-len", T, "--batch-tokens", 4 * T, "--steps", 3, "--lr", 0.003, "--schedule", "constant", "--warmup", 0,
        *flags.split())
    model, old = load(folder, dtype=torch.float64)[0], load(other, dtype=torch.float64)[0]
    optimiser, signs = Optimiser(model, "adamw", 0.003, None, 0.0), set()
    prompts = {tuple(ids): len(ids) for p in pairs for ids in [tokenizer.encode_chat(
        [{"role": "user", "content": p["prompt"]}], add_generation_prompt=True)[0]]}
    for step, record in enumerate(records):
        documents = [d for row in rows[4 * step:4 * step + 4] for d in row]
        assert len(documents) % size == 0
        answers = []                                                             # (log-probability, length, under the reference)
        for ids, *_ in documents:
            start = next(n for p, n in prompts.items() if tuple(ids[:n]) == p)
            end = len(ids) - 1 - [*ids][::-1].index(tokenizer.im_end)         # what follows the end of the turn is not trained
            logprobs = look(model, ids)[0][start - 1:end]
            with torch.no_grad():
                known = look(old, ids)[0][start - 1:end].sum() if reference else torch.zeros((), dtype=torch.float64)
            answers.append((logprobs.sum(), len(logprobs), known))
        groups = [answers[i:i + size] for i in range(0, len(answers), size)]
        z = 0.0
        if name == "kto":                                                     # the mismatched answers of the whole batch
            raw = sum(float(g[2][0].detach() - g[2][2]) for g in groups) / len(groups)
            z = max(0.0, raw)
            same(record["z"], z, "z")
            signs.add(raw > 0)
        losses, sums = [], torch.zeros(8, dtype=torch.float64)
        for g in groups:
            (a, n, ra), (b, m, rb) = g[:2]
            losses.append(pair_loss(name, beta, (a, b), (n, m), (ra, rb), z, **more))
            with torch.no_grad():
                by = (n, m) if name in ("dpo_norm", "simpo", "orpo") else (1, 1)
                h = (a - ra) / by[0] - (b - rb) / by[1]
                mass = a.exp() + b.exp()
                sums += torch.stack([a, b, mass, a - ra, b - rb, mass - ra.exp() - rb.exp(), h, (h > 0).double()])
        loss = sum(losses) / len(groups)
        loss.backward()
        same(record["loss"], float(loss.detach()), "loss")
        assert record["pairs"] == len(groups) > 4
        names = ("chosen", "rejected", "mass", "chosen_change", "rejected_change", "mass_change", "margin", "accuracy")
        for key, wanted in zip(names, (sums / len(groups)).tolist(), strict=True):
            if reference or not key.endswith("change"):
                same(record[key], wanted, key)
        same(record["grad_norm"], optimiser.step(1.0, 1.0), "grad_norm")
    same_weights(model, weights)
    assert moved(folder, weights) > 1e-3
    assert name != "kto" or ("--kto-weights" in flags) in signs               # above 0 in one case, below it in the other

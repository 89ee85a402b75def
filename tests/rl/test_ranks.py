"""One curve on 1, 2 and 4 ranks, in float64 and whatever the flags.

The flags of grpo.py are more than can all be tried together: the default suite tries rows in which every two settings that go
together meet once (`python -m pytest -m slow tests/rl/test_ranks.py` every three)."""

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny_checkpoint, write_rows

import dpo
import grpo
from rl import asynchronous
from rl.losses import LOSSES
from tokenizer import Tokenizer

ALIKE = {                                                # differ from others in single tokens or groups: a row of their own each
    "dppo_tv": ["--mismatch", "noise=0.3"], "dppo_kl": ["--mismatch", "report=0.3", "rounding", "--old", "trainer"],
    "sapo": ["--correction", "icepop", "--cap", 1.2, "--mismatch", "noise=0.3", "--exact"], "maxrl": ["--replace", 1],
    "rlp": ["--correction", "tis"],
    "reinforce++-baseline": ["--kl", 0.1, "--kl-in", "reward", "--gamma", 0.9, "--mask-truncated", "--updates", 2]}
FACTORS = [
    [["--loss", loss] for loss in LOSSES if loss not in ALIKE],
    [[], ["--minibatches", 2], ["--minibatches", 3, "--updates", 2], ["--updates", 2]],
    [[], ["--replace", 1], ["--replace", 3]],
    [[], ["--scale", "batch"], ["--scale", "none"], ["--scale", "group"]],
    [[], ["--kl", 0.1], ["--kl", 0.1, "--kl-kind", "k3"], ["--kl", 0.1, "--kl-in", "reward"]],
    [[], ["--correction", "seq-tis"], ["--correction", "geo-mis", "--veto", 1e-4], ["--old", "sampler"],
     ["--sequence-mask", 0.01]],
    [[], ["--mismatch", "noise=0.3"], ["--mismatch", "truncated=0.8", "stale=1"]],
    [[], ["--mask-truncated"], ["--overlong-buffer", 3], ["--mask-truncated", "--overlong-buffer", 3]],
    [[], ["--keep-rate", 0, 1, "--candidates", 6], ["--keep-rate", 0, 1, "--candidates", 7, "--curriculum"]],
    [["--reward", "random"], ["--reward", "random+length:0.3"]],
    [[], ["--async-steps", 0]],
    [[], ["--entropy", 0.01], ["--dual-clip", 3]],
]
BASE = ["--mode", "plain", "--prompts", 4, "--group", 3, "--max-new-tokens", "4", "7@1", "--rows", 16, "--seq-len", 128,
        "--steps", 2, "--lr", 0.001, "--dtype", "float64", "--device", "cpu", "--init", "INIT",
        "--data", "world:ops=1-2@2", "questions.jsonl"]


def allowed(row):
    """Do these settings go together, as grpo.py has it?"""
    flags = [str(f) for setting in row for f in setting]
    parser = grpo.flags()
    try:
        args = parser.parse_args([*map(str, BASE), "--out", "x", *flags])
        asynchronous.check(args, 1)
        grpo.resolve(args)
        grpo.check(args)
    except (ValueError, SystemExit):
        return False
    return True


def covering(strength, seed=0, tries=12):
    """Rows, one setting of each factor, in which every `strength` settings that go together meet at least once: each row is the
    best of some random ones that were grown around a combination still missing."""
    dice, numbered = random.Random(seed), [list(range(len(f))) for f in FACTORS]
    missing = {frozenset(zip(chosen, values)) for chosen in itertools.combinations(range(len(FACTORS)), strength)
               for values in itertools.product(*(numbered[f] for f in chosen))}
    rows = []
    while missing:
        best, seed_of = None, min(missing, key=lambda c: sorted(c))
        for _ in range(tries):
            row = {f: dice.choice(numbered[f]) for f in range(len(FACTORS))} | dict(seed_of)
            met = {c for c in missing if c <= set(row.items())}
            if (best is None or len(met) > len(best[1])) and allowed([FACTORS[f][v] for f, v in row.items()]):
                best = row, met
        if best is None:                                  # these do not go together, or hardly ever
            missing.discard(seed_of)
            continue
        rows.append([f for factor, v in sorted(best[0].items()) for f in FACTORS[factor][v]])
        missing -= best[1]
    return rows


TEXT = ["--steps", 3, "--batch-tokens", 512, "--seq-len", 128, "--dtype", "float64", "--device", "cpu", "--log-every", 1]
NEW = ["--tokenizer", "INIT", "--layers", 1, "--width", 16, "--heads", 2, "--kv-heads", 1]
OTHERS = [["pretrain", "--data", "text.jsonl@0.6", "world:ops=1-2@0.4", *NEW, *TEXT, *more] for more in (
    ["--max-epochs", 1, "--steps", 50], ["--optimizer", "adamw", "--micro-tokens", 128, "--weight-decay", 0.1])]
LONG = [*TEXT, "--seq-len", 256, "--batch-tokens", 1024]
OTHERS += [["sft", "--init", "INIT", "--data", "chats.jsonl", "world:ops=1", *LONG, *more]
           for more in (["--loss", "dft", "--max-epochs", 1], ["--loss", "iw"], ["--loss", "psft", "--shard"],
                        ["--loss", "iw", "--iw-form", "token", "--micro-tokens", 256],
                        ["--loss", "psft", "--refresh", 2, "--no-think", 0.5, "--unflagged", 0.5])]
OTHERS += [["dpo", "--init", "INIT", "--data", "pairs.jsonl", *TEXT, "--lr", 0.001, "--loss", loss, *more] for loss in dpo.LOSSES
           for more in ([["--micro-tokens", 128, "--max-epochs", 1]] if loss in ("dpo", "kto") else [[]])]
TAUGHT = ["--teacher", "TEACHER", "--micro-tokens", 256, *BASE]
OTHERS += [["distill", *TAUGHT, *more] for more in (
    ["--async-steps", 0], ["--loss", "reverse", "--shard"], ["--loss", "jsd", "--hint", "{question} ({answer})"],
    ["--loss", "forward", "--top-k", 5, "--on-policy", 0.5, "--data", "world:ops=1-2", "chats.jsonl", "--seq-len", 256,
     "--batch-tokens", 1024], ["--teacher", "STRANGER"])]
MORE = [["--loss", loss, "--minibatches", 2, "--reward", "random", *flags] for loss, flags in ALIKE.items()]
BESIDE = ["--sft-data", "chats.jsonl", "world:ops=1", "--sft-weight", 0.5, "--sft-tokens", 512, "--reward", "random"]
SHARDED = [["--shard", "--loss", "reinforce++", "--minibatches", 2, "--reward", "random", "--replace", 1],
           ["--mode", "think", "--think-budget", 2, "--max-new-tokens", 20, "--minibatches", 2, "--reward", "random"],
           ["--data", "text:text.jsonl,kind=rlp,next=2", "--reward", "score", "--loss", "rlp", "--tau", 0.5, "--shard"],
           [*BESIDE, "--shard", "--loss", "dapo"], [*BESIDE, "--loss", "ppo", "--micro-tokens", 128]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A checkpoint whose completions end early now and then, and files."""
    folder = tmp_path_factory.mktemp("ranks")
    from model import load
    tiny_checkpoint(folder / "init", tokenizer, eps=1e-5)
    model, _ = load(folder / "init", dtype=torch.float64)
    with torch.no_grad():
        hidden = model.hidden(torch.randint(len(tokenizer), (4, 32)), torch.zeros(4, 32, dtype=torch.long)).mean(dim=(0, 1))
        for token in tokenizer.stop_ids:                  # logit 6 of about 500 tokens
            model.head[token] = hidden * 6 / hidden.norm() ** 2
    model.float().save(folder / "init", tokenizer)
    tiny_checkpoint(folder / "teacher", tokenizer, seed=1, eps=1e-5)
    tiny_checkpoint(folder / "stranger", Tokenizer.train(["The lions number 3. " * 9], 290), seed=2)
    questions = [f"The lions number {i}. How many lions?" for i in range(40)]
    write_rows(folder / "text.jsonl", [{"text": q * (1 + i % 5)} for i, q in enumerate(questions * 3)])
    write_rows(folder / "questions.jsonl", [{"question": q, "answer": f"#### {i}"} for i, q in enumerate(questions)])
    turns = [({"role": "user", "content": q}, {"role": "assistant", "content": str(i) * 9}) for i, q in enumerate(questions * 3)]
    write_rows(folder / "chats.jsonl", [{"messages": both} for both in turns])
    write_rows(folder / "pairs.jsonl", [{"prompt": q, "chosen": str(i), "rejected": f"{i + 1} lions"}
                                        for i, q in enumerate(questions * 3)])
    return folder


def curves(folder, runs, ranks=(1, 2, 4), timeout=3000):
    """{ranks: {name: results}} of runs [script, flags...]."""
    def in_folder(flag):
        name = str(flag).partition("@")[0]
        if name.startswith("text:"):
            return name.replace("text:", f"text:{folder}/")
        if flag in ("INIT", "TEACHER", "STRANGER"):
            return str(folder / flag.lower())
        return f"{folder}/{flag}" if name.endswith(".jsonl") else str(flag)
    job = {"runs": {" ".join(map(str, run)): list(map(in_folder, run)) for run in runs}, "out": str(folder), "ranks": ranks}
    (folder / "job.json").write_text(json.dumps(job))
    done = subprocess.run([sys.executable, Path(__file__).parent / "rank_worker.py", folder / "job.json"], capture_output=True,
                          text=True, timeout=timeout, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = {r: torch.load(folder / f"{r}.pt", weights_only=False) for r in ranks}
    for r in ranks:
        (folder / f"{r}.pt").unlink()
        (folder / f"store{r}").unlink(missing_ok=True)
    return found


def assert_one_curve(found):
    """Losses, gradient norms and weights to 1e-12, what is counted exactly, and the same place in the data."""
    one = found[1]
    for ranks, name in [(r, name) for r in found if r > 1 for name in found[r]]:
        a, b, where = one[name], found[ranks][name], f"{ranks} ranks: {name}"
        assert "error" not in a and "error" not in b, f"{where}\n{a.get('error')}\n{b.get('error')}"
        steps = [[r for r in x["log"] if "loss" in r] for x in (a, b)]
        assert len(steps[0]) == len(steps[1]) > 0, where
        for x, y in zip(*steps, strict=True):
            for key in ("loss", "grad_norm", "weight", "nll", "divergence", "margin", "z"):
                assert key not in x or y[key] == pytest.approx(x[key], rel=1e-12, abs=1e-12), (where, key)
            for key in ("reward", "reward_std", "length_mean", "zero_spread", "cut_off", "entropy", "kl", "clip_low"):
                assert key not in x or y[key] == pytest.approx(x[key], rel=1e-5, abs=1e-9), (where, key)      # it has 6 digits
        for key, w in a["weights"].items():
            assert (b["weights"][key] - w).abs().max() <= 1e-12, (where, key)
        x, y = (found["stream"].get("prompts", found["stream"]) for found in (a, b))
        assert a["stream"].keys() == b["stream"].keys() and x.keys() == y.keys() and ("given" not in x or x == y), where


def test_the_curve_does_not_depend_on_ranks(folder):
    runs = [["grpo", *BASE, *row] for row in SHARDED + MORE + covering(2)] + OTHERS
    found = curves(folder, runs, (1, 2)) | curves(folder, runs[::5], (4,))
    assert_one_curve(found)
    logs = [r for run in found[1].values() for r in run["log"] if "reward" in r]
    assert 0.2 < sum(r["cut_off"] for r in logs) / len(logs) < 0.8 and any(0 < r["zero_spread"] < 1 for r in logs)
    norms = [r["grad_norm"] for run in found[1].values() for r in run["log"] if "grad_norm" in r]
    assert sum(norm > 1e-6 for norm in norms) >= 0.8 * len(norms)             # all may be cut off and masked in a step


def test_nor_on_whether_ranks_sample_apart(folder):
    """On-policy, one rank that learns and one that samples do what one rank does."""
    apart = ["--async-steps", 0, "--rollout-ranks=1"]
    found = curves(folder, [["grpo", *BASE, *BESIDE, *apart], ["distill", *TAUGHT, *apart],
                            ["distill", *TAUGHT, "--loss", "jsd", *apart]], (1, 2))
    assert_one_curve(found)
    logs = [[r for r in run["log"] if "reward" in r] for run in found[2].values()]
    assert all(r["staleness_max"] == 0 and r["grad_norm"] > 1e-6 for log in logs for r in log)


@pytest.mark.slow
def test_nor_do_any_three_settings_make_it(folder):
    rows = covering(3)
    for at in range(0, len(rows), 100):
        assert_one_curve(curves(folder, [["grpo", *BASE, *row] for row in rows[at:at + 100]]))

"""grpo.py as a user runs it."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import HANG, ROOT, script
from helpers import run_main

import grpo
from rl.losses import LOSSES

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
                           "--old", "trainer", "--entropy", 0.01, "--show-every", 1)
    assert result["steps"] == 2
    step = [r for r in records(out) if "reward" in r][-1]
    bounded = "gate" if loss == "sapo" else "clip_low clip_high"
    for name in (f"reward reward_std answer process length_mean length_max cut_off entropy zero_spread {bounded} kl dropped "
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
    for step in (r for r in records(tmp_path / "same") if "reward" in r):                     # nothing was trained on
        assert step["zero_spread"] == 1 and not {"entropy", "kl", "clip_low", "logprob_diff_mean"} & step.keys()


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
       "whole completion; use seq-tis, seq-mis or geo-mis") for loss in ("gspo", "rloo") for kind in ("tis", "mis", "icepop")],
    (["--loss", "dppo_tv", "--correction", "tis"], "--old sampler has the mismatch in its ratio already"),
    (["--loss", "reinforce++-baseline", "--group", 1], "--group must be at least 2"),
    (["--loss", "maxrl", "--overlong-buffer", 3], "--scale mean divides by the mean reward of a group"),
    (["--scale", "mean", "--kl", 0.1, "--kl-in", "reward"], "--scale mean divides by the mean reward of a group"),
    (["--loss", "maxrl", "--reward", "random:-1"], "--scale mean divides by the mean reward of the group, and a reward is -1"),
    (["--loss", "sapo", "--updates", 2, "--tau-neg", 0], "--tau-neg: 0: use a number above 0"),
    (["--loss", "sapo", "--updates", 2, "--clip-low", 0.1], "--clip-low has no effect with --loss sapo"),
    (["--correction", "icepop", "--cap-low", 1.5], "--cap-low: 1.5: use"), (["--sequence-mask", -1], "--sequence-mask: -1: use"),
    (["--mismatch", "fog=1"], "--mismatch fog=1: use noise=0.2, rounding, truncated=0.9, stale=2, report=0.2"),
    (["--mismatch", "noise"], "--mismatch noise: write it as noise=0.2"),
    (["--mismatch", "rounding=1"], "--mismatch rounding=1: write it as rounding"),
    (["--mismatch", "noise=0"], "--mismatch noise=0: 0: use a number above 0"),
    (["--mismatch", "truncated=1"], "--mismatch truncated=1: 1: use a number above 0 and below 1"),
    (["--mismatch", "stale=1.5"], "--mismatch stale=1.5: 1.5: use a whole number"),
    (["--mismatch", "noise=1", "noise=2"], "--mismatch noise=2: noise is given twice"),
    (["--mismatch", "stale=1", "--async-steps", 1], "--mismatch stale has weights of one age"),
    (["--keep-rate", 0.3, 0.4, "--candidates", 4, "--group", 2], "none of 4 prompts"),
    (["--sft-data", "nowhere.jsonl"], "nowhere.jsonl"), (["--sft-data", "world:ops=1", "--sft-weight", 0], "--sft-weight: 0: "),
    (["--sft-data", "world:ops=1", "--sft-tokens", 700], "must be a multiple of the tokens in a row x ranks (= 512)"),
    (["--sft-data", "world:ops=9", "--mode", "chat", "--seq-len", 90], "raise --seq-len"),
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

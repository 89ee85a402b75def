"""Training as a user runs it: exact resume after a kill, the same gradient on any number of ranks, clear refusals."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import HANG, ROOT, real_file, script

from data import Stream
from model import Config, Transformer, load
from training.checkpoint import optimizer_state, restore_optimizer
from training.goals import Until
from training.guard import Guard
from training.ledger import read_ledger
from training.run import Run

SMALL = ["--data", "world:ops=1-2,split=pretrain", "--batch-tokens", 1024, "--layers", 2, "--width", 32, "--vocab-size",
         400, "--log-every", 1]


def weights_of(folder):
    return torch.load(folder / "train_state.pt", weights_only=True)["weights"]


def assert_same_bits(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(folder):
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in records if "loss" in r}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 30 steps that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    script("pretrain.py", *SMALL, "--out", out, "--steps", 30, "--save-every", 4)
    return out


def start(*args):
    command = [sys.executable, str(ROOT / "pretrain.py"), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})


def wait_for_step(process, folder, step):
    log, deadline = folder / "log.jsonl", time.time() + HANG
    while time.time() < deadline and process.poll() is None:
        if log.exists() and any(f'{{"step": {s},' in log.read_text() for s in (step, step + 1, step + 2)):
            return
        time.sleep(0.005)
    raise AssertionError(f"the run did not reach step {step}: {process.communicate()}")


@pytest.mark.parametrize("step", [2, 13])
def test_killed_at_any_moment_it_resumes_bit_for_bit(whole, tmp_path, step):
    out, flags = tmp_path / "run", [*SMALL, "--out", tmp_path / "run", "--steps", 30, "--save-every", 4]
    process = start(*flags)
    wait_for_step(process, out, step)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "train_state.pt").exists() or torch.load(out / "train_state.pt", weights_only=True)["step"] < 30
    script("pretrain.py", *flags, "--resume")
    assert_same_bits(weights_of(out), weights_of(whole))
    # every step once, each the very same number
    assert losses(out) == losses(whole)
    a, b = (torch.load(f / "train_state.pt", weights_only=True) for f in (out, whole))
    for x, y in zip(a["optimizers"], b["optimizers"], strict=True):
        for name in y:
            assert all(torch.equal(x[name][k], v) if isinstance(v, torch.Tensor) else x[name][k] == v for k,
                       v in y[name].items())


def test_ctrl_c_saves_and_exits_130_and_resumes_bit_for_bit(whole, tmp_path):
    out, flags = tmp_path / "run", [*SMALL, "--out", tmp_path / "run", "--steps", 30, "--save-every", 4]
    process = start(*flags)
    wait_for_step(process, out, 5)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 130 and "stopping after this step" in stderr
    stopped = json.loads(stdout.strip().splitlines()[-1])["steps"]
    assert 5 <= stopped < 30 and torch.load(out / "train_state.pt", weights_only=True)["step"] == stopped
    script("pretrain.py", *flags, "--resume")
    assert_same_bits(weights_of(out), weights_of(whole))


def test_a_run_folder_is_a_checkpoint(whole):
    model, tokenizer = load(whole)
    assert_same_bits({k: v for k, v in model.state_dict().items()}, weights_of(whole))
    assert len(tokenizer) == model.config.vocab_size
    first = json.loads((whole / "log.jsonl").read_text().splitlines()[0])
    assert first["flags"]["steps"] == 30 and first["versions"]["torch"] == torch.__version__ and "commit" in first
    assert [r["source"] for r
            in json.loads((whole / "log.jsonl").read_text().splitlines()[-1])["result"]["mixture"]] == [SMALL[1]]


def test_mid_training_starts_from_a_checkpoint_and_its_schedule_decays(whole, tmp_path):
    done = script("pretrain.py", "--init", whole, "--data", "world:ops=2-3,split=midtrain", "--out", tmp_path / "mid",
                  "--steps", 4, "--batch-tokens", 1024,
                  "--schedule", "cosine", "--warmup", 0, "--log-every", 1)
    records = [json.loads(line) for line in (tmp_path / "mid" / "log.jsonl").read_text().splitlines()]
    rates = [r["lr"] for r in records if "lr" in r]
    assert rates == sorted(rates, reverse=True) and rates[0] == 0.02 and done.json["steps"] == 4
    assert records[1]["loss"] < losses(whole)[1] - 1                          # it did not start from scratch


# the gradient does not depend on ranks and micro-batches

WORKER = """
import sys, torch, argparse
sys.path.insert(0, {root!r})
from data import Stream
from model import load
from pretrain import next_token_loss
from training.gradient import clip_gradients
from training.run import Run
from training.weights import full
args = argparse.Namespace(out={out!r} + "/never", device="cpu", dtype={dtype!r}, resume=False, seed=0, shard={shard},
                          compile=False, checkpointing=False, steps=1, wandb="")
run = Run(args, {{}})
model, tokenizer = load({folder!r}, dtype=run.weight_dtype)
wrapped = run.distribute(model)
stream = Stream(["world:ops=1-3"], tokenizer, 64, 1024)
batches = stream.next(run.rank, run.ranks, {micro})
loss = run.backward(wrapped, batches, lambda b: (next_token_loss(wrapped(b.tokens, b.documents, b.targets), b.loss_mask), {{}}))
norm = clip_gradients(model, 1e9)
grads = {{n: full(w.grad) for n, w in model.named_parameters()}}
if run.main:
    torch.save((loss, run.weight, norm, grads), {out!r} + "/grads.pt")
run.close()
"""


def gradient(folder, out, ranks=1, micro=None, shard=False, dtype="float64"):
    out.mkdir()
    (out / "worker.py").write_text(WORKER.format(root=str(ROOT), out=str(out), folder=str(folder), micro=micro,
                                                 shard=shard, dtype=dtype))
    launch = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone",
                                                  f"--nproc_per_node={ranks}"]
    done = subprocess.run([*launch, str(out / "worker.py")], capture_output=True, text=True, timeout=HANG,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "grads.pt", weights_only=True)


@pytest.mark.parametrize("dtype, tolerance", [
    ("float64", 1e-12), pytest.param("float32", 2e-5, marks=pytest.mark.slow)])
def test_one_rank_two_ranks_and_accumulation_give_one_gradient(toy_run, tmp_path, dtype, tolerance):
    loss, weight, norm, grads = gradient(toy_run, tmp_path / "one", dtype=dtype)
    others = {"accumulated": dict(micro=3), "two ranks, accumulated": dict(ranks=2, micro=2)}
    if dtype == "float64":
        others |= {"sharded, accumulated": dict(ranks=2, micro=2, shard=True)}
    for name, how in others.items():
        other = gradient(toy_run, tmp_path / name, dtype=dtype, **how)
        assert other[1] == pytest.approx(weight, rel=1e-6) and other[0] == pytest.approx(loss, rel=tolerance)
        assert other[2] == pytest.approx(norm, rel=tolerance * 10)
        for k, g in grads.items():
            assert (other[3][k] - g).norm() <= tolerance * max(1e-3, float(g.norm())), (name, k)


def test_the_loss_is_the_weighted_mean_over_everything(toy_run, tmp_path):
    loss, weight, *_ = gradient(toy_run, tmp_path / "one")
    model, tokenizer = load(toy_run, dtype=torch.float64)
    [batch] = Stream(["world:ops=1-3"], tokenizer, 64, 1024).next()
    with torch.no_grad():
        logprobs = model(batch.tokens, batch.documents).log_softmax(-1).gather(2, batch.targets[..., None]).squeeze(2)
    mask = batch.loss_mask.double()
    assert loss == pytest.approx(float(-(logprobs * mask).sum() / mask.sum()),
                                 rel=1e-10) and weight == pytest.approx(float(mask.sum()), rel=1e-6)


@pytest.mark.parametrize("shard", [[], ["--shard"]])
def test_torchrun_trains_resumes_and_agrees_with_one_process(shard, tmp_path):
    flags = [*map(str, SMALL), "--dtype", "float64", "--steps", "6"]
    script("pretrain.py", *flags, "--out", tmp_path / "one")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
              str(ROOT / "pretrain.py")]

    def run(*more):
        done = subprocess.run([*launch, *flags, "--out", str(tmp_path / "two"), "--save-every", "3", *shard, *more],
                              capture_output=True, text=True,
                              timeout=HANG, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])
    held_out = ["--eval-data", "world:ops=1,split=test", "--eval-problems", "3"]
    assert len(run(*held_out)["eval"]) == 1
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert all((one[k] - two[k]).abs().max() < 1e-6 for k in one)
    assert load(tmp_path / "two")[0].config == load(tmp_path / "one")[0].config
    # nothing left to do; state opens on two ranks
    assert run("--resume", *held_out)["steps"] == 6
    # what it cost is the sum over ranks, and once
    ledgers = [read_ledger(tmp_path / name) | {"name": ""} for name in ("one", "two")]
    assert ledgers[0] == ledgers[1] and ledgers[0]["own"]["training"] > 0


# guard, saving, refusals

def test_guard_skips_and_gives_up():
    guard = Guard(settle=10, patience=3)
    for i in range(50):
        assert guard.check(2.0 + 0.1 * math.sin(i), 1.0) == ""
    assert "loss nan" in guard.check(math.nan, 1.0) and "norm inf" in guard.check(2.0, math.inf)
    assert guard.check(2.1, 1.0) == "" and guard.in_a_row == 0
    assert "jumped" in guard.check(9.0, 1.0)
    copy = Guard()
    copy.restore(guard.state())
    assert vars(copy) == vars(guard) and guard.skipped == 3
    guard.check(9.0, 1.0)
    with pytest.raises(ValueError, match="3 steps in a row skipped.*lower --lr"):
        guard.check(9.0, 1.0)


def test_a_step_with_a_broken_loss_changes_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    import pretrain
    out, real, calls = tmp_path / "run", pretrain.next_token_loss, []

    def sometimes_nan(logprobs, mask):
        calls.append(1)
        return real(logprobs, mask) * (math.nan if len(calls) == 3 else 1.0)
    monkeypatch.setattr(pretrain, "next_token_loss", sometimes_nan)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", *map(str, SMALL), "--out", str(out), "--steps", "5"])
    monkeypatch.setattr(signal, "signal", lambda *a: None)
    pretrain.main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["skipped"] == 1 and math.isfinite(result["loss"])
    assert all(torch.isfinite(w).all() for w in weights_of(out).values())


def test_the_state_of_an_optimiser_goes_where_the_parameters_are():
    """The number of steps as well: a fused AdamW on a GPU reads it there."""
    model, elsewhere = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2, device="meta")
    optimizer, other = (torch.optim.AdamW(m.parameters()) for m in (model, elsewhere))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = optimizer_state(optimizer, model)
    assert all(x.device.type == "cpu" for state in saved.values() for x in state.values())
    restore_optimizer(other, elsewhere, saved)
    for p in elsewhere.parameters():
        assert other.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(x.device.type == "meta" for x in other.state[p].values())


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, capsys, tokenizer):
    model = Transformer(Config(vocab_size=len(tokenizer), layers=1, width=16, heads=2))
    run = Run(argparse_like(tmp_path / "run"), {})
    stream = Stream(["world:ops=1"], tokenizer, 64, 64)
    run.model, run.tokenizer, run.optimizers, run.data, run.guard = model, tokenizer, [], stream, Guard()
    run.save()
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    model.norm.weight.data.fill_(7)
    run.step = 5

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")
    for name in ("formats.huggingface.save_file", "torch.save"):
        module, _, function = name.rpartition(".")
        with monkeypatch.context() as m:
            m.setattr(sys.modules[module], function, full)
            with pytest.raises(SystemExit) as stop:
                run.save()
        assert stop.value.code == 2
        error = capsys.readouterr().err.strip()
        assert "No space left" in error and "the one before it is unharmed" in error and "\n" not in error
        assert torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)["step"] == 0
        assert not list((tmp_path / "run").glob("*.tmp"))
    assert {p.name for p in (tmp_path / "run").iterdir()} == before.keys()


def test_a_kill_in_the_first_save_leaves_a_run_that_can_go_on(tmp_path, monkeypatch, tokenizer):
    """Weights without a state would be refused."""
    flags = [*SMALL, "--out", tmp_path / "run", "--steps", 2, "--resume"]

    def killed(*_, **__):
        raise KeyboardInterrupt
    for function in ("model.hf.write_folder", "training.checkpoint.write_ledger"):
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(function, killed)
            script("pretrain.py", *flags)
        assert torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)["step"] == 2
        script("pretrain.py", *flags)                     # it goes on, with the tokenizer that it has made
        assert load(tmp_path / "run")[1] is not None
        shutil.rmtree(tmp_path / "run")


def argparse_like(out):
    import argparse
    return argparse.Namespace(out=str(out), device="cpu", dtype="float32", resume=False, seed=0, shard=False,
                              compile=False, checkpointing=False, steps=9, wandb="")


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/proc/mounts"),
                    reason="needs to mount a small file system")
def test_a_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        flags = [*SMALL, "--out", disk / "run"]
        script("pretrain.py", *flags, "--steps", 2)
        before = weights_of(disk / "run")
        (disk / "filler").write_bytes(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 200_000))
        done = script("pretrain.py", "--init", disk / "run", "--data", "world:ops=1", "--batch-tokens", 1024, "--out",
                      disk / "mid", "--steps", 1, ok=False)
        assert done.returncode == 2 and "cannot write the checkpoint" in done.stderr.strip().splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
        assert_same_bits(weights_of(disk / "run"), before)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def refused(*args):
    done = script("pretrain.py", *args, ok=False)
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("pretrain.py")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_an_out_folder_with_another_run_is_refused_and_untouched(whole, tmp_path):
    before = {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}
    assert "holds another run" in refused(*SMALL, "--out", whole, "--steps", 3)
    assert "started with --steps 30" in refused(*SMALL, "--out", whole, "--steps", 3, "--resume")
    assert before == {p.name: p.stat().st_mtime_ns for p in whole.iterdir()}


@pytest.mark.parametrize("args, message", [
    (["--data", "nowhere.txt"], "nowhere.txt: no such file"), (["--data", "world:ops=0"], "ops=0"),
    (["--data", "world:ops=1", "--colour", "red"], "--colour"),
    (["--data", "world:ops=1", "--steps", "many"], "--steps"),
    (["--data", "world:ops=1", "--init", "nowhere"], "nowhere/config.json: no such file"),
    (["--data", "world:ops=1", "--batch-tokens", "1000"], "--batch-tokens 1000 must be a multiple of --seq-len 256"),
    (["--data", "world:ops=1@-2"], "the weight '-2'"), (["--data", "world:ops=1", "--heads", "3"], "heads=3"),
    (["--data", "world:ops=1", "--device", "cuda"], "no GPU is visible"),
    (["--data", "world:ops=1", "--device", "cpu", "--compile"], "compiled for a GPU only"),
    (["--data", "world:ops=1", "--attention", "window"], "window=0")])
def test_bad_flags_are_one_line(args, message, tmp_path):
    if message == "no GPU is visible" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert message in refused(*args, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_exact_mode_on_a_gpu_refuses_float64(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = argparse_like(tmp_path / "run")
    args.device, args.dtype, args.exact = "cuda", "float64", True
    with pytest.raises(ValueError, match="--exact --dtype float64: on a GPU exact mode computes in float32 or bfloat16"):
        Run(args, {})


def test_bad_lines_and_damaged_weights_are_named(toy_run, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"\n')
    assert "a.jsonl, line 2: not valid JSON" in refused("--data", tmp_path / "a.jsonl", "--init", toy_run, "--out",
                                                        tmp_path / "run")
    (tmp_path / "b.jsonl").write_text('{"body": "a"}\n')
    assert 'b.jsonl, line 1: no field "text"' in refused("--data", tmp_path / "b.jsonl", "--init", toy_run, "--out",
                                                         tmp_path / "run")
    import shutil
    shutil.copytree(toy_run, tmp_path / "cut")
    data = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(data[:-100])
    assert "not a whole safetensors file" in refused("--data", "world:ops=1", "--init", tmp_path / "cut", "--out",
                                                     tmp_path / "run")
    shutil.copy(toy_run / "model.safetensors", tmp_path / "cut" / "model.safetensors")
    config = json.loads((tmp_path / "cut" / "config.json").read_text()) | {"intermediate_size": 64}
    (tmp_path / "cut" / "config.json").write_text(json.dumps(config))
    assert "up_proj.weight has shape (128, 32), config.json says (64, 32)" in refused("--data", "world:ops=1", "--init",
            tmp_path / "cut", "--out", tmp_path / "run")


def test_capped_data_ends_the_run(tmp_path):
    (tmp_path / "a.txt").write_text("The lions number 3. " * 400)
    done = script("pretrain.py", *SMALL[2:], "--data", tmp_path / "a.txt", "--max-epochs", 2, "--out", tmp_path / "run",
                  "--steps", 500)
    assert 0 < done.json["steps"] < 500 and "the data is used up" in done.stderr
    assert done.json["mixture"][0]["epochs"] == pytest.approx(2, abs=0.6)


def test_a_goal_for_the_loss_ends_the_run_and_resumes_with_its_memory(tmp_path):
    until = Until(2.0)
    curve = [5.0] * 5 + [2.0] * 15 + [1.9] * 40
    ends = next(i for i, x in enumerate(curve, 1) if until.low(x))
    assert ends == next(i for i in range(20, 60) if sum(curve[i - 20:i]) / 20 <= 2.0)
    first = Until(2.0)
    assert not any(first.low(x) for x in curve[:18])
    again = Until(2.0, recent=first.recent)
    assert 18 + next(i for i, x in enumerate(curve[18:], 1) if again.low(x)) == ends
    assert not any(Until(0.0).low(0.0) for _ in range(30))
    done = script("pretrain.py", *SMALL, "--out", tmp_path / "run", "--steps", 400, "--until-loss", 5.0)
    assert 20 <= done.json["steps"] < 400
    last = [loss for _, loss in sorted(losses(tmp_path / "run").items())][-20:]
    assert sum(last) / 20 <= 5.0


def test_a_goal_for_the_accuracy_ends_the_run(tmp_path):
    def table(*rates):
        return [{"ops": i, "process": {"pass@1": [rate, 0, 1]}} for i, rate in enumerate(rates, 1)]
    until, text = Until(0.0, 0.5), {"held_out.txt": {"bits_per_byte": 1.0}}
    assert not until.accurate({"world:ops=1-2": table(0.9, 0.5)} | text)      # once is not enough
    assert not until.accurate({"world:ops=1-2": table(0.4, 0.1)})             # the mean of 0.7 and 0.25
    again = Until(0.0, 0.5, **until.memory())
    assert until.accurate({"world:ops=1-2": table(1.0, 0.6)}) and again.accurate({"world:ops=1-2": table(0.75)})
    assert not Until(0.0, 0.0, measured=[1.0]).accurate({"world:ops=1": table(1.0)})
    assert not Until(0.0, 0.5, measured=[1.0]).accurate(text)
    done = script("pretrain.py", *SMALL, "--out", tmp_path / "run", "--steps", 12, "--eval-every", 4, "--eval-problems", 2,
                  "--eval-data", "world:ops=1,split=test", "--until-accuracy", 1e-9)
    assert done.json["steps"] == 12                                           # nothing right so soon: it went to its end


def test_real_text_with_its_own_vocabulary_gets_better(tmp_path):
    train, held_out = tmp_path / "train.txt", tmp_path / "held_out.txt"
    for file, name, characters in ((train, "valid", 400_000), (held_out, "test", 60_000)):
        file.write_text(real_file(f"wikitext2/{name}.txt").read_text(encoding="utf-8")[:characters], encoding="utf-8")
    done = script("pretrain.py", "--data", train, "--eval-data", held_out, "--vocab-size", 1024, "--out",
                  tmp_path / "run", "--steps", 20, "--eval-every", 5,
                  "--batch-tokens", 2048, "--layers", 2, "--width", 64)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    curve = [list(r["eval"].values())[0]["bits_per_byte"] for r in records if "eval"
             in r] + [done.json["eval"][str(held_out)]["bits_per_byte"]]
    assert curve == sorted(curve, reverse=True) and curve[-1] < curve[0] - 0.2

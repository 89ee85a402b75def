"""What the tests of the training stages share: a tiny checkpoint, running a script in this process, and two ranks."""

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import torch
from conftest import HANG, ROOT

from model import LAYER_KINDS, Config, Transformer
from training.flags import flag_of, options_in
from training.run import Run


def tiny_checkpoint(folder, tokenizer, seed=0, **config):
    """A random model of two layers, saved with the tokenizer; its predictions are far from uniform."""
    torch.manual_seed(seed)
    model = Transformer(Config(vocab_size=len(tokenizer), layers=2, width=32, heads=4, kv_heads=2, **config))
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.1)
    model.save(folder, tokenizer)
    return folder


def measured_run(folder, N, score=lambda X: 0.9 - 0.6 / (1 + (X / 3e6) ** 1.5), prompts=4, group=8, cost=1e4, steps=20):
    """A folder with the log that grpo.py writes of a run that measures itself every second step; a completion costs as much."""
    records, X = [{"flags": {"prompts": prompts, "group": group}, "parameters": N, "config": {}}], 0
    for step in range(1, steps + 1):
        X += prompts * group * cost
        records.append({"step": step, "reward": 0.5, "length_mean": 20.0})
        table = {"world:x": [{"ops": 2, "problems": 10 ** 6, "process": {"pass@1": [score(X), 0, 1]}}]}
        if step % 2 == 0 and step < steps:
            records.append({"step": step, "eval": table, "flops": X})
    records.append({"result": {"eval": table, "flops": {"total": X + 1e9, "inherited": 1e9}}, "step": steps})
    folder.mkdir(parents=True)
    write_rows(folder / "log.jsonl", records)
    return str(folder)


def write_rows(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def run_main(module, *args):
    """Runs a script's main() in this process: exit code, the JSON of its last line (None where it was refused), standard
    error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = [f"{module.__name__.split('.')[-1]}.py", *map(str, args)]
    with (mock.patch.object(sys, "argv", argv), mock.patch.object(signal, "signal", lambda *_: None),
          contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
        try:
            module.main()
        except SystemExit as e:
            code = e.code
    lines = out.getvalue().strip().splitlines()
    return code, json.loads(lines[-1]) if lines and code != 2 else None, err.getvalue()


def refusal(module, *args):
    """The one line with which a script refuses its input."""
    code, _, err = run_main(module, *args)
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.startswith(f"{module.__name__.split('.')[-1]}.py: ")]
    assert code == 2 and len(lines) == 1 and "Traceback" not in err, err
    return lines[0]


def a_run(**more):
    """A Run on the CPU in float64 that writes nothing."""
    flags = {"out": "/never/written", "device": "cpu", "dtype": "float64", "resume": False, "seed": 0, "shard": False,
             "compile": False, "checkpointing": False, "steps": 1, "wandb": ""}
    return Run(argparse.Namespace(**flags | more), {})


def given_options(kind):
    """{name of the flag of each option of a dataclass: a value that is not its default, as one types it; None for a switch}."""
    def value(f):
        if f.type is tuple:
            return "+".join(LAYER_KINDS)
        return None if f.type is bool else f.metadata["choices"][-1] if "choices" in f.metadata else str(f.default + 3)
    return {flag_of(f): value(f) for f in options_in(kind)}


def joined_by_threads(ranks):
    """For each of so many ranks, whose place threads take, what Rollouts.joined does among processes: it puts the dicts of all
    of them together. All must call it at the same time."""
    barrier, held = threading.Barrier(ranks, timeout=120), {}     # seconds: some rank will never come

    def of(rank):
        def joined(mine):
            held[rank] = mine
            barrier.wait()
            everything = {k: v for r in range(ranks) for k, v in held[r].items()}
            barrier.wait()
            return everything
        return joined
    return [of(rank) for rank in range(ranks)]


def on_two_ranks(tmp_path, code):
    """Runs Python code under torchrun with two gloo ranks; what rank 0 assigns to `found` comes back."""
    (tmp_path / "worker.py").write_text(f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n{code}\n"
                                        "import os, torch\nif os.environ['RANK'] == '0':\n"
                                        f"    torch.save(found, {str(tmp_path / 'found.pt')!r})\n"
                                        "torch.distributed.barrier()\nos._exit(0)\n")      # as Ranks.leave does
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                           str(tmp_path / "worker.py")], capture_output=True, text=True, timeout=HANG,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(tmp_path / "found.pt", weights_only=True)


def assert_same_gradients(found, wanted, tolerance=1e-11):
    """{name: (loss, {parameter: gradient})}, the same up to the order of additions."""
    assert found.keys() == wanted.keys()
    for name, (loss, grads) in wanted.items():
        assert abs(found[name][0] - loss) <= tolerance * max(1, abs(loss)), name
        size = max(float(g.norm()) for g in grads.values())
        assert size > 1e-6, name
        for parameter, g in grads.items():
            assert float((found[name][1][parameter] - g).norm()) <= tolerance * max(size, 1e-3), (name, parameter)


def kill_after(step, module, *args, out):
    """Starts a script and kills it (SIGKILL) once its log has reached the step."""
    command = [sys.executable, str(ROOT / f"{module.__name__}.py"), *map(str, args), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    log, deadline = Path(out) / "log.jsonl", time.time() + HANG
    while time.time() < deadline and process.poll() is None:
        if log.exists() and any(f'{{"step": {s},' in log.read_text() for s in range(step, step + 3)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.005)
    raise AssertionError(f"the run did not reach step {step}: {process.communicate()}")


def killed_in(step, module, *args):
    """Runs a script in a process of its own, which is killed (SIGKILL) in the middle of a step (from 0): the gradient is there,
    and the weights have not moved. No clock decides when. The process is forked: nothing is imported again, and patches hold."""
    child = os.fork()
    if not child:
        update = Run.update

        def die(run, loss):
            if run.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            update(run, loss)
        try:
            torch.set_num_threads(1)                      # a forked process has no other threads
            with mock.patch.object(Run, "update", die):
                print(run_main(module, *args), file=sys.stderr)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def calls_of(function, *args, **more):
    """What a function returns, and how many functions are called for that, Python's and C's: its time without a clock. A minute
    of the processor's time, a hundred times what any of the tests needs, ends a search that has no end inside of one call."""
    count = 0

    def watch(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    def hung(*_):
        raise AssertionError(f"{function.__name__} does not end")
    before = signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, 60)
    sys.setprofile(watch)
    try:
        found = function(*args, **more)
    finally:
        sys.setprofile(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return found, count


def state_of(folder):
    return torch.load(Path(folder) / "train_state.pt", weights_only=True)


def steps_of(folder):
    """The step records of a log: {step: loss}."""
    records = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in records if "loss" in r}


def assert_same_state(a, b):
    """Two saved states, equal to the last bit: weights, optimisers and data position."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            assert_same_state(a[k], b[k])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_state(x, y)
    else:
        assert a == b

"""What several test files share: where real data lies, a small tokenizer and model, and running a script as a user does."""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
HANG = 3600                              # seconds after which a test's program counts as hung, however slow the machine; no more

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: # a shell that starts the tests in the background has them, and all programs
    signal.signal(signal.SIGINT, signal.default_int_handler)                  # that they start, ignore Ctrl-C


def real_file(name):
    """A real data file, from $NANOTHINK_DATA or ../shared/data; skips the test where neither has it."""
    for folder in (os.environ.get("NANOTHINK_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / name).is_file():
            return Path(folder) / name
    pytest.skip(f"{name} is not in $NANOTHINK_DATA")


def script(*args, ok=True, cwd=ROOT, **env):
    """Runs `python SCRIPT ARGS...`, or `python -m PACKAGE.FILE ARGS...`, in this process, which saves the seconds in which Python
    imports torch; as a program of its own where the environment is another. Returns what subprocess.run does, with .json the
    last line of standard output."""
    if env:
        name = args[:2] if args[0] == "-m" else [str(ROOT / args[0])]
        command = [sys.executable, *name, *map(str, args[len(name):])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=HANG,
                              env=os.environ | {"OMP_NUM_THREADS": "1"} | env)
    else:
        done = _in_this_process(*map(str, args[args[0] == "-m":]), cwd=cwd)
    assert not ok or done.returncode == 0, f"{' '.join(map(str, args))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    lines = done.stdout.strip().splitlines()
    done.json = json.loads(lines[-1]) if ok else None
    return done


def _in_this_process(name, *args, cwd):
    """What a program changes for itself is put back: the folder, the number of threads (one, as in the tests' programs), the
    state of randomness, handlers of signals."""
    module, out, err, code = importlib.import_module(name.removesuffix(".py")), io.StringIO(), io.StringIO(), 0
    threads, here, dice = torch.get_num_threads(), os.getcwd(), random.getstate()
    os.chdir(cwd)
    torch.set_num_threads(1)
    try:
        with (mock.patch.object(sys, "argv", [name, *args]), mock.patch.object(signal, "signal", lambda *_: None),
              torch.random.fork_rng([]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
            try:
                module.main()
            except SystemExit as e:
                code = e.code or 0
            except Exception:
                traceback.print_exc()
                code = 1
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)
        random.setstate(dice)
    return subprocess.CompletedProcess([name, *args], code, out.getvalue(), err.getvalue())


@pytest.fixture
def dot_in_order(monkeypatch):
    """Gives Triton's interpreter a product that adds up in one order. Its own is numpy's, whose library gives a row other bits in
    a larger product on some processors; on a GPU the compiled kernels are what counts."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    def create_dot(self, a, b, d, *_):
        found = np.zeros((*a.data.shape[:-1], b.data.shape[-1]), d.data.dtype)
        for k in range(a.data.shape[-1]):
            found += a.data[..., k:k + 1].astype(d.data.dtype) * b.data[..., k:k + 1, :].astype(d.data.dtype)
        return interpreter.TensorHandle(found + d.data, d.dtype.scalar)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def one_thread():
    """Sums have other bits where several threads share them, and a forked process has one (helpers.killed_in)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer():
    """A small tokenizer trained on problems of the world."""
    from tasks.world import World
    from tokenizer import Tokenizer
    world = World()
    return Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(world.problem, range(500))), 512)


@pytest.fixture
def tiny(tokenizer):
    """A random model of two layers, float64, whose logits are far from uniform."""
    from model import Config, Transformer
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=len(tokenizer), layers=2, width=32, heads=4, kv_heads=2,
                               attention="rope+nope")).double()
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.15)
    return model


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """A run folder: a toy model pre-trained for a few steps by the script itself."""
    out = tmp_path_factory.mktemp("toy") / "base"
    script("pretrain.py", "--data", "world:ops=1-2,split=pretrain", "--out", out, "--steps", 6, "--batch-tokens", 1024,
           "--layers", 2,
           "--width", 32, "--vocab-size", 512)
    return out


@pytest.fixture(scope="session")
def able(tmp_path_factory):
    """A toy model that has learned the form of a solution."""
    out = tmp_path_factory.mktemp("able") / "base"
    script("pretrain.py", "--data", "world:ops=1-2,split=pretrain", "--out", out, "--steps", 60, "--batch-tokens", 2048,
           "--layers", 2, "--width", 32, "--vocab-size", 512, "--qk-norm", "head")
    return out

"""Measures what exact mode costs: a training step, a rollout and a GRPO step in both modes; bench.py exact runs this."""

import functools
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.timing import LARGE, SMALL, row, training_step, turns
from model import Config, Transformer
from sampler import Sampler
from tasks.world import World
from tokenizer import Tokenizer

HERE = Path(__file__).parent.parent


def bench_exact(device: torch.device, dtype: torch.dtype, count: int, rows: list, toy: bool = False) -> dict:
    """A training step, a rollout and a GRPO step in exact mode against the fast one: {"rows"}; ratio = fast / exact."""
    on_gpu = device.type == "cuda"
    shape = dict(vocab_size=256, layers=1, width=32, heads=2, kv_heads=1, ff=64) if toy else LARGE if on_gpu else SMALL
    T, B, prompts, new = (64, 2, 4, 8) if toy else (2048, 16, 256, 256) if on_gpu else (256, 16, 64, 64)
    torch.manual_seed(0)
    model = Transformer(Config(**shape)).to(device)
    half = dtype if dtype != torch.float32 else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, shape["vocab_size"], (B, T + 1), generator=g).to(device)
    documents = (torch.rand(B, T, generator=g) < 4 / T).cumsum(1).to(device)
    lengths = torch.randint(16, 65, (prompts,), generator=g).tolist()
    texts = [torch.randint(3, shape["vocab_size"], (n,), generator=g).tolist() for n in lengths]
    # One engine for each, warm after the first turn: a new one captures its graphs, which takes both modes equally long.
    engines = {exact: Sampler(model, rows=prompts, dtype=half, exact=exact) for exact in (False, True)}
    for name, work, case in (
        ("training step", lambda exact: training_step(model, optimizer, tokens, documents, dtype, exact), f"{B} x {T}, packed"),
        ("rollout", lambda exact: engines[exact].generate(texts, max_new_tokens=new, stop=set()),
         f"{prompts} rows, {new} new tokens each"),
    ):
        ms = turns(device, {"fast": functools.partial(work, False), "exact": functools.partial(work, True)}, count)
        rows.append(row(name, case, ms, "exact", ["fast"]))
    parameters = sum(w.numel() for w in model.parameters())
    rows.extend(grpo_steps(device, dtype, shape, count, toy))
    return {"rows": rows, "parameters": parameters}


# A GRPO step needs old log-probabilities (pi_old) for its ratios. The variants take them from:
ARMS = {"fast, with recomputation": [],                   # a forward pass of the trainer before the first update
        "fast, without recomputation": ["--old", "sampler"],                  # the sampler; they differ a little
        "exact": ["--exact"]}                             # the sampler; they equal those of the trainer


def grpo_steps(device: torch.device, dtype: torch.dtype, shape: dict, count: int, toy: bool) -> list[dict]:
    """Milliseconds of a GRPO step, measured by running grpo.py: a row for each variant of fast mode, compared with exact mode.

    Each batch gets two updates. With one, the old log-probabilities would not be needed."""
    world = World.from_spec("ops=2-4,split=rl")
    P, G, new = (2, 2, 8) if toy else (64, 8, 256) if device.type == "cuda" else (8, 8, 64)
    seconds, apart = {arm: [] for arm in ARMS}, {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(world.problem, range(300 if toy else 2000))), 512)
        torch.manual_seed(0)
        Transformer(Config(**shape | {"vocab_size": len(tokenizer)})).save(f"{folder}/model", tokenizer)
        for i in range(1 if toy else max(1, count // 3)):
            for name in list(seconds)[::1 if i % 2 else -1]:
                out = f"{folder}/{name}{i}"
                command = [sys.executable, HERE / "grpo.py", "--init", f"{folder}/model", "--out", out, "--mode", "plain",
                           "--data", "world:ops=2-4,split=rl", "--reward", "random", "--prompts", P, "--group", G, "--steps", 4,
                           "--max-new-tokens", new, "--rows", P * G, "--lr", 1e-6, "--updates", 2, "--device", device.type,
                           "--dtype", str(dtype).removeprefix("torch."), "--show-every", 0, *ARMS[name]]
                subprocess.run(list(map(str, command)), check=True, capture_output=True)
                records = [json.loads(line) for line in Path(f"{out}/log.jsonl").read_text().splitlines()]
                records = [r for r in records if "reward" in r]
                seconds[name] += [r["seconds"] for r in records[1:]]          # the first one warms up
                apart[name] = max(r["logprob_diff_max"] for r in records)
    ms = {name: round(1e3 * statistics.median(s), 1) for name, s in seconds.items()}
    return [row("GRPO step", f"{P} x {G} x {new} tokens", {arm: ms[arm] for arm in (other, "exact")}, "exact", [other],
                logprob_diff_max={arm: apart[arm] for arm in (other, "exact")}) for other in ARMS if other != "exact"]

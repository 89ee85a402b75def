"""Compares runs of grpo.py: asynchronous with synchronous rollouts, and exact mode with fast mode.

bench.py async measures the seconds of a step, with answers of similar and of very different lengths. It also measures accuracy
after equally many steps from one checkpoint. bench.py learn measures the reward, and how far sampler and trainer differ.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tasks.accuracy import gain, interval

HERE = Path(__file__).parent.parent
APART = ["--rollout-ranks", 1, "--async-steps"]
ARMS = {                                                  # {name: (processes, flags)}
    "turns, one process": (1, []),
    "turns, two ranks": (2, []),
    "K = 0, ranks apart": (2, [*APART, 0]),
    "K = 1, ranks apart": (2, [*APART, 1, "--correction", "tis"]),
    "K = 4, ranks apart": (2, [*APART, 4, "--correction", "tis"]),
    "K = 4, clipped": (2, [*APART, 4, "--old", "sampler"]),                   # ratio to the sampling policy, clipped
    "K = 4, not corrected": (2, [*APART, 4]),
    "K = 1, two sample": (3, ["--rollout-ranks", 2, "--async-steps", 1, "--correction", "tis"]),
}
MODES = {"exact": (1, ["--exact"]), "fast": (1, [])}
LEARNED = ("turns, one process", "K = 1, ranks apart", "K = 4, ranks apart", "K = 4, clipped", "K = 4, not corrected",
           "K = 1, two sample")
LENGTHS = {"fixed": (["world:ops=5,split=rl,branch=0"], 120),
           "long-tailed": (["world:ops=2,split=rl,branch=0@0.98", "world:ops=26,places=1,split=rl,branch=0@0.02"], 416)}
EDGE = "world:ops=4-8,split={},branch=0,seed={}"


def train(init: str, out: str | Path, arm: str, steps: int, data: Sequence[str], cap: int, seed: int = 0, toy: bool = False,
          more: Sequence = ()) -> tuple[float, list[dict]]:
    """One run of a variant; its processes share the cores. Returns (seconds of the whole command, its step records).
    If the folder holds the finished run already (an interrupted bench with --keep), it is not run again."""
    log, whole = Path(out) / "log.jsonl", Path(out) / "command_seconds"
    processes, flags = (ARMS | MODES)[arm]
    start = ([sys.executable] if processes == 1 else
             [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"])
    P, G = (6, 2) if toy else (16, 8)
    command = [*start, HERE / "grpo.py", "--init", init, "--out", out, "--data", *data, "--mode", "think", "--reward", "strict",
               "--prompts", P, "--group", G, "--max-new-tokens", cap, "--lr", 4e-4, "--steps", steps, "--seed", seed,
               "--show-every", 0, *flags, *more]
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())) // processes)
    if not whole.exists():
        began = time.perf_counter()
        done = subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        if done.returncode:
            raise ValueError(f"{arm}: grpo.py failed: {done.stderr.strip().splitlines()[-1]}")
        whole.write_text(str(time.perf_counter() - began))
    return float(whole.read_text()), [r for r in map(json.loads, log.read_text().splitlines()) if "reward" in r]


def speed(init: str, folder: str, steps: int, kept: list, toy: bool) -> list[dict]:
    """Seconds for a step of each variant, for each kind of lengths. The first steps count too: in them a sampling rank works
    ahead, which makes the later steps shorter."""
    found = []
    for kind, (data, cap) in LENGTHS.items():
        for arm in ("turns, one process", "K = 1, ranks apart") if toy else ARMS:
            if arm in ("K = 4, clipped", "K = 4, not corrected"):             # as fast as with the correction
                continue
            _, records = train(init, f"{folder}/{kind}/{arm}", arm, steps, data, 12 if toy else cap, toy=toy)
            seconds = [r["seconds"] for r in records]
            found.append({"lengths": kind, "arm": arm, "seconds": round(statistics.mean(seconds), 4),
                          "interval": [round(x, 4) for x in interval(seconds)[1:]],
                          "length_mean": round(statistics.mean(r["length_mean"] for r in records), 1),
                          "length_max": max(r["length_max"] for r in records)})
            kept.append(found[-1])
            print(f"{kind:<12} {arm:<22} {found[-1]['seconds']:.3f} seconds a step, answers of {found[-1]['length_mean']} "
                  f"tokens, at most {found[-1]['length_max']}", file=sys.stderr, flush=True)
    return found


def learning(init: str, folder: str, seeds: int, steps: int, kept: list, toy: bool) -> dict:
    """Accuracy of each variant after equally many steps from one checkpoint, with several seeds. Each seed has its own training
    problems, test problems and random numbers. The difference to synchronous rollouts is paired by problem, over all seeds."""
    runs, tables = [], {}
    for seed in range(seeds):
        for arm in LEARNED[:2] if toy else LEARNED:
            seconds, records = train(init, f"{folder}/{seed}/{arm}", arm, steps, [EDGE.format("rl", seed)], 120, seed, toy)
            runs.append({"arm": arm, "seed": seed, "command_seconds": round(seconds, 1),
                         "step_seconds": round(statistics.mean(r["seconds"] for r in records), 4),
                         "staleness_mean": round(statistics.mean(r.get("staleness_mean", 0) for r in records), 3),
                         "stale_groups": sum(r.get("stale_groups", 0) for r in records),
                         "length_mean": round(statistics.mean(r["length_mean"] for r in records[-20:]), 1)})
            kept.append(runs[-1])
            print(f"seed {seed}, {arm}: {steps} steps in {seconds:.0f} seconds", file=sys.stderr, flush=True)
        arms = [r["arm"] for r in runs if r["seed"] == seed]
        out = f"{folder}/{seed}.json"
        Path(out).unlink(missing_ok=True)
        command = [sys.executable, HERE / "evaluate.py", "--init", init, *(f"{folder}/{seed}/{arm}" for arm in arms), "--chat",
                   "--user-suffix", " /think", "--data", EDGE.format("test", seed), "--problems", 2 if toy else 50, "--k", 1, 8,
                   "--temperature", 1, "--rows", 256, "--out", out]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        results = json.loads(Path(out).read_text())["results"].values()
        for arm, measured in zip(["before", *arms], results, strict=True):
            rows = [r for r in next(iter(measured.values()))["rows"] if "ops" in r]
            tables.setdefault(arm, []).append(rows)
    found, everything = [], range(1, 100)
    turns = [row for rows in tables[LEARNED[0]] for row in rows]
    for arm, by_seed in tables.items():
        rows = [row for rows in by_seed for row in rows]
        means = [round(statistics.mean(r["process"]["pass@1"][0] for r in part), 4) for part in by_seed]
        found.append({"arm": arm, "by_seed": means,
                      "accuracy": interval([c / n for r in rows for c, n in r["right"]]),
                      "difference": None if arm in (LEARNED[0], "before") else gain(turns, rows, everything)})
    return {"runs": runs, "accuracy": found}


def bench_async(init: str, seeds: int, steps: int, kept: list, toy: bool = False, keep: str = "") -> dict:
    """Both parts: {"init", "steps", "speed": [...], "runs": [...], "accuracy": [...]}. Each measurement is appended to `kept`
    at once; the runs themselves stay in the folder `keep`."""
    with tempfile.TemporaryDirectory() as folder:
        folder = keep or folder
        return {"init": Path(init).name, "steps": steps, "speed": speed(init, folder, 3 if toy else 20, kept, toy),
                **learning(init, folder, seeds, steps, kept, toy)}


def bench_learn(init: str, steps: int, rows: list, toy: bool = False, device: str | torch.device = "cpu",
                dtype: str = "float32") -> dict:
    """Both modes from one checkpoint on the same prompts: {"init", "steps", "rows"}. In a row, reward is that of the first and
    of the last third of the steps (mean, low, high); logprob_diff_max is the smallest and the largest of all steps."""
    steps = 3 if toy else steps
    with tempfile.TemporaryDirectory() as folder:
        for arm in MODES:
            seconds, records = train(init, f"{folder}/{arm}", arm, steps, [EDGE.format("rl", 0)], 12 if toy else 120, toy=toy,
                                     more=["--device", device, "--dtype", str(dtype).removeprefix("torch.")])
            third = -(-len(records) // 3)
            apart = [r["logprob_diff_max"] for r in records]
            rows.append({"arm": arm, "seconds": round(seconds, 1), "logprob_diff_max": [min(apart), max(apart)],
                         "reward": [[round(x, 4) for x in interval([r["reward"] for r in part])]
                                    for part in (records[:third], records[-third:])]})
    return {"init": Path(init).name, "steps": steps, "rows": rows}

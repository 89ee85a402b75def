"""Measures complete recipes: the pipeline on a laptop, rewards that mean nothing, and a real model on real questions."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks.accuracy import gain

HERE = Path(__file__).parent.parent


def bench_pipeline(seed: int, keep: str = "") -> dict:
    """recipes/laptop.sh from start to end: its seconds, those of each stage, the verified accuracy after each stage, and how many
    of GRPO's groups had no spread."""
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(keep or folder) / "laptop", time.perf_counter()
        if subprocess.run(["bash", str(HERE / "recipes" / "laptop.sh")], stdout=sys.stderr,
                          env=os.environ | {"OUT": str(out), "SEED": str(seed), "PYTHON": sys.executable}).returncode:
            raise ValueError("recipes/laptop.sh failed; its last lines say why")
        seconds = time.perf_counter() - start
        evaluation = json.loads((out / "evaluation.json").read_text())
        logs = {f.parent.name: [json.loads(line) for line in f.read_text().splitlines()] for f in sorted(out.glob("*/log.jsonl"))}
    if os.environ.get("RESUME"):                          # it continued older runs, so this is not the time of all stages
        seconds = 0
    return {"seconds": round(seconds), "seed": seed, "temperature": evaluation["flags"]["temperature"],
            "stage_seconds": {stage: log[-1]["result"]["seconds"] for stage, log in logs.items()},
            "verified": verified(evaluation), "rollouts": rollouts(logs["grpo"]),
            "gain": [g | {k: Path(g[k]).name for k in ("before", "after")} for g in evaluation["gain"]]}


def rollouts(log: list[dict]) -> dict:
    """The mean over a run of GRPO: the share of groups without spread, and the entropy in nats a token."""
    steps = [record for record in log if "zero_spread" in record]
    return {name: round(statistics.mean(record[name] for record in steps if name in record), 4)
            for name in ("zero_spread", "entropy")}


def verified(evaluation: dict) -> dict:
    """evaluate.py's file -> {checkpoint: [{"ops", "problems", "pass@k": (mean, low, high)}]}."""
    tables = {Path(folder).name: next(iter(found.values()))["rows"] for folder, found in evaluation["results"].items()}
    return {name: [{"ops": r["ops"], "problems": r["problems"]} | r["process"] for r in rows if "ops" in r]
            for name, rows in tables.items()}


def bench_spurious(folder: str) -> dict:
    """What recipes/spurious.sh left in its folder: for each seed and reward the gain in verified and in answer accuracy."""
    arms = []
    for file in sorted(Path(folder).glob("*.json")):
        tables_of = {f: next(iter(found.values()))["rows"] for f, found in json.loads(file.read_text())["results"].items()}
        start, *others = tables_of
        ops = [r["ops"] for r in tables_of[start] if "ops" in r]
        for name in others:
            both = [[r for r in tables_of[f] if "ops" in r] for f in (start, name)]
            arms.append({"reward": Path(name).name, "train_seed": int(file.stem), "ops": [min(ops), max(ops)],
                         "gain": gain(*both, ops)}
                        | {kind: [round(statistics.mean(r[kind]["pass@1"][0] for r in rows), 4) for rows in both]
                           for kind in ("process", "answer")})
    if not arms:
        raise ValueError(f"--runs {folder}: holds no evaluations; run recipes/spurious.sh first")
    return {"arms": arms}


def bench_real(init: str, data: str) -> dict:
    """A real checkpoint on real questions: twenty steps of SFT and two of GRPO, with seconds and peak memory."""
    found = {"init": Path(init).name, "data": Path(data).name}
    common_flags = ["--init", init, "--data", data]
    stages = {"sft": ["--seq-len", 512, "--batch-tokens", 512, "--optimizer", "adamw", "--lr", 2e-5, "--steps", 20,
                      "--log-every", 1],
              "grpo": ["--steps", 2, "--prompts", 4, "--group", 4, "--max-new-tokens", 120, "--lr", 1e-6]}
    for name, more in stages.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, HERE / f"{name}.py", *common_flags, *more, "--out", f"{folder}/run"]
            start = time.perf_counter()
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise ValueError(f"{name}.py failed; its last lines say why")
            records = [json.loads(line) for line in Path(f"{folder}/run/log.jsonl").read_text().splitlines()]
        steps = [r for r in records if "loss" in r]
        found[name] = {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(usage.ru_maxrss / 2 ** 20, 2)}
        if name == "sft":
            found[name] |= {"nll_first5": round(statistics.mean(r["nll"] for r in steps[:5]), 4),
                            "nll_last5": round(statistics.mean(r["nll"] for r in steps[-5:]), 4)}
        else:
            found[name] |= {k: [r[k] for r in steps] for k in ("reward", "length_mean", "zero_spread")}
            found[name]["step_seconds"] = [r["seconds"] for r in steps]
    return found

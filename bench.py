"""Speed, side by side with what a user would pick instead, in one process on one machine.

    python bench.py train     training tokens/s against Hugging Face's LlamaForCausalLM of the same shape and data
    python bench.py sampler   generated tokens/s against its generate and its continuous batching, for three kinds of load
    python bench.py kernels   the blocks by themselves, against torch's: attention, product, norm, log-probability
    python bench.py exact     what the exact mode costs: a training step, a rollout, a GRPO step
    python bench.py learn --init runs/laptop/sft --steps 60         GRPO in exact mode and in fast: does it learn, to which bit
    python bench.py launches              registers, spills, instructions of each Triton launch; no GPU needed
    python bench.py probe     which blocks give a row the same bits in every batch on this device
    python bench.py bits --device cuda --dtype bfloat16             sampled tokens whose log-probability the trainer has otherwise
    python bench.py shapes    the same in exact mode for every even head size, 1 to 8 query heads for a key head, and odd widths
    python bench.py pretrain --device cuda --dtype bfloat16 --sizes 120M 1.2B       training against Hugging Face's model, the
                              share of the device's peak, where the rest goes
    python bench.py largest --device cuda               the largest model that trains, beside what plan predicts
    python bench.py rl        seconds per GRPO step against TRL's GRPOTrainer (pip install trl)
    python bench.py async --init runs/laptop/sft --rounds 3         GRPO with rollouts ahead against taking turns
    python bench.py plan --params 7e9 --gpus 64           predicts seconds and memory of a step, and how many ranks should learn
    python bench.py all       all of these; rl where TRL is installed
    python bench.py answers   the answer check: right on how many cases and how fast, beside math-verify where that is installed
    python bench.py pipeline                runs recipes/laptop.sh and keeps its accuracies and time
    python bench.py spurious --runs runs/spurious       keeps what recipes/spurious.sh found
    python bench.py real --init smollm2/ --data gsm8k/train.jsonl   SFT and GRPO of a real model: seconds and memory
    python bench.py readme    writes the newest results into README.md's tables

Both sides get the same weights, batches, optimiser and dtype, and take turns, round by round; the ratio is the median of
the rounds' ratios, so a machine whose speed drifts does not favour one. Every result is appended to results/, with the
machine, the versions and the commit.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import answers as bench_answers
from benchmarks import large as bench_large
from benchmarks import peers as bench_peers
from benchmarks import plan, tables
from benchmarks.async_rl import bench_async, bench_learn
from benchmarks.blocks import bench_exact, bench_kernels, probe
from benchmarks.launches import bench_launches, launches_table
from benchmarks.peers import bench_rl, bench_sampler, bench_train
from tasks.accuracy import gain
from training import cli

HERE = Path(__file__).parent
TOY = dict(vocab_size=256, layers=1, width=32, heads=2, kv_heads=1, ff=64)
BENCHES = {"train": bench_train, "sampler": bench_sampler, "rl": bench_rl, "kernels": bench_kernels, "exact": bench_exact}
MANY = ("kernels", "exact", "sampler")                    # of many rows each


def bench_pipeline(seed, keep=""):
    """recipes/laptop.sh from start to end: seconds, what each stage took, and the verified accuracy after each stage."""
    with tempfile.TemporaryDirectory() as folder:
        out, start = Path(keep or folder) / "laptop", time.perf_counter()
        if subprocess.run(["bash", str(HERE / "recipes" / "laptop.sh")], stdout=sys.stderr,
                          env=os.environ | {"OUT": str(out), "SEED": str(seed), "PYTHON": sys.executable}).returncode:
            raise ValueError("recipes/laptop.sh failed; its last lines say why")
        seconds = time.perf_counter() - start
        evaluation = json.loads((out / "evaluation.json").read_text())
        stages = {f.parent.name: json.loads(f.read_text().splitlines()[-1])["result"]["seconds"]
                  for f in sorted(out.glob("*/log.jsonl"))}
    if os.environ.get("RESUME"):                          # it went on with kept runs: not the time of the whole
        seconds = 0
    return {"seconds": round(seconds), "seed": seed, "temperature": evaluation["flags"]["temperature"],
            "stage_seconds": stages, "verified": verified(evaluation),
            "gain": [g | {k: Path(g[k]).name for k in ("before", "after")} for g in evaluation["gain"]]}


def verified(evaluation):
    """evaluate.py's file -> {checkpoint: [{"ops", "problems", "pass@k": (mean, low, high)}]}."""
    tables = {Path(folder).name: next(iter(found.values()))["rows"] for folder, found in evaluation["results"].items()}
    return {name: [{"ops": r["ops"], "problems": r["problems"]} | r["process"] for r in rows if "ops" in r]
            for name, rows in tables.items()}


def bench_spurious(folder):
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


def bench_real(init, data):
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


def of(*names):
    """A condition of NEEDS: the bench is one of these."""
    return lambda args: args.what in names


# when a flag has an effect (see cli.Parser)
WHY = "on {what}"
NEEDS = (
    ("--rounds", of(*BENCHES, "all", "pretrain", "async"), WHY), ("--steps", of("async", "learn"), WHY),
    ("--device", of(*BENCHES, "all", "probe", "bits", "shapes", "pretrain", "largest", "learn"), WHY),
    ("--dtype", of(*BENCHES, "all", "probe", "bits", "shapes", "pretrain", "learn"), WHY),
    ("--tokens", of("bits", "shapes"), WHY), ("--sizes", of("pretrain"), WHY), ("--seed", of("pipeline", "answers"), WHY),
    ("--keep", of("pipeline", "async"), WHY), ("--runs", of("spurious"), WHY), ("--init", of("real", "async", "learn"), WHY),
    ("--data", of("real"), WHY), ("--cases", of("answers"), WHY),
    ("--toy", of(*BENCHES, "all", "answers", "launches", "probe", "bits", "shapes", "pretrain", "learn", "async"), WHY),
    ("--out", lambda args: args.what != "readme", WHY),
)


def main():
    if sys.argv[1:2] == ["plan"]:
        return plan.main(sys.argv[2:])
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("what", metavar="WHAT",
                   choices=[*BENCHES, "all", "answers", "async", "bits", "largest", "launches", "learn", "pretrain", "probe",
                            "pipeline", "plan", "shapes", "spurious", "real", "readme"],
                   help="which comparison; readme: write the tables; plan has flags of its own: bench.py plan --help")
    p.add_argument("--rounds", type=cli.count, default=7, help="turns of each side; seeds of async")
    p.add_argument("--steps", type=cli.count, default=100, help="of each run of async and learn")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and matrix products")
    p.add_argument("--tokens", type=cli.count, help="to sample for bits and shapes; none: 1,000,000 and 100,000")
    p.add_argument("--sizes", nargs="+", default=[], choices=list(bench_large.SIZES), help="of pretrain; none: all")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the pipeline; of the strings of answers")
    p.add_argument("--keep", metavar="FOLDER", default="", help="where to keep the runs of pipeline and async; none: nowhere")
    p.add_argument("--runs", metavar="FOLDER", default="runs/spurious", help="of recipes/spurious.sh")
    p.add_argument("--init", metavar="FOLDER", default="smollm2", help="checkpoint for real, async and learn")
    p.add_argument("--data", metavar="FILE", default="gsm8k/train.jsonl", help="questions for real")
    p.add_argument("--cases", metavar="FILE", default="", help="more cases for answers: JSONL of text, gold, right")
    p.add_argument("--toy", action="store_true", help="a tiny model, only to see that it works")
    p.add_argument("--out", type=cli.out_folder, metavar="FOLDER", default=str(HERE / "results"), help="where results go")
    args = p.parse_args()
    if args.what == "plan":
        cli.fail("plan has flags of its own and comes first: bench.py plan --help lists them")
    if args.what == "readme":
        (HERE / "README.md").write_text(tables.readme((HERE / "README.md").read_text()))
        cli.finish({"readme": "written"})
        return
    device, dtype, results = torch.device(args.device), getattr(torch, args.dtype), {}
    if args.toy:
        bench_peers.SHAPE.update(TOY)
    for name in BENCHES if args.what == "all" else [args.what]:
        with cli.bad_input():
            try:
                kept = {"pipeline": lambda: bench_pipeline(args.seed, args.keep), "spurious": lambda: bench_spurious(args.runs),
                        "real": lambda: bench_real(args.init, args.data),
                        "answers": lambda: bench_answers.bench_answers(args.cases, args.seed, args.toy),
                        "probe": lambda: probe(device, dtype, args.toy),
                        "bits": lambda: bench_large.bench_bits(device, dtype, args.tokens or 1_000_000, args.toy),
                        "shapes": lambda: bench_large.bench_shapes(device, dtype, args.tokens or 100_000, args.toy),
                        "pretrain": lambda: bench_large.bench_pretrain(device, dtype, args.rounds, args.sizes, args.toy),
                        "largest": lambda: bench_large.bench_largest(device),
                        "launches": lambda: bench_launches(args.toy),
                        "learn": lambda: bench_learn(args.init, args.steps, args.toy, args.device, args.dtype),
                        "async": lambda: bench_async(args.init, args.rounds, args.steps, args.toy, args.keep)}
                toy = {"toy": args.toy} if name in MANY else {}
                result = kept[name]() if name in kept else BENCHES[name](device, dtype, args.rounds, **toy)
            except ModuleNotFoundError as e:
                if args.what == "all":
                    print(f"{name:<8} left out: {e.name} is needed to compare with; make bench installs it", file=sys.stderr)
                    continue
                raise ValueError(f"{e.name} is needed to compare with; run make bench, or pip install {e.name}") from None
        results[name] = tables.keep(name, result, device, args.dtype, args.out)
        if name == "probe":
            print("\n".join(f"{r['block']:<20} {r['case']:<40} " + (f"differs at {r['differ']}" if r["differ"] else "same bits")
                            for r in result["rows"]), flush=True)
        elif name == "answers":
            print("\n".join(bench_answers.lines(result)), flush=True)
        elif name == "launches":
            table, records = Path(args.out) / "README.md", (Path(args.out) / "bench_launches.jsonl").read_text().splitlines()
            table.write_text(launches_table([json.loads(line) for line in records]))
            results[name] = {"launches": len(result["rows"]), "table": str(table)}        # too many for a line
        elif name in MANY:
            print("\n".join((tables.sampler_lines if name == "sampler" else tables.block_lines)(result)), flush=True)
        elif name in BENCHES:
            ours, theirs = tables.shown(result)
            print(f"{name:<8} ours {ours}   theirs {theirs}   ratio {result['ratio']:.2f} ({result['ratio_low']:.2f} to "
                  f"{result['ratio_high']:.2f})", flush=True)
    cli.finish(results)


if __name__ == "__main__":
    main()

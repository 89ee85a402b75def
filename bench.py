"""Measures speed, side by side with what a user would choose instead, in one process on one machine.

    python bench.py train     training tokens/s against Hugging Face's LlamaForCausalLM of the same shape and data
    python bench.py sampler   generated tokens/s against its generate and its continuous batching, for three kinds of load
    python bench.py kernels   single blocks against torch: attention, matrix product, norm, log-probability
    python bench.py exact     what exact mode costs: a training step, a rollout, a GRPO step
    python bench.py learn --init runs/laptop/sft --steps 100        GRPO in exact and in fast mode: rewards, differing bits
    python bench.py groups    a decoding step with 1, 2, 4, 8 key/value heads at equal parameters: time and memory by length
    python bench.py launches              registers, spills, instructions of each Triton launch; no GPU needed
    python bench.py probe     which blocks give a row the same bits in every batch on this device
    python bench.py bits --device cuda --dtype bfloat16             sampled tokens with a different log-probability in the trainer
    python bench.py shapes    the same in exact mode for every even head size, 1 to 8 query heads per key head, and odd widths
    python bench.py pretrain --device cuda --dtype bfloat16 --sizes 120M 1.2B       training against Hugging Face's model, the
                              share of the device's peak, and what takes the rest of the time
    python bench.py largest --device cuda               the largest model that trains, and what plan predicts
    python bench.py rl        seconds per GRPO step against TRL's GRPOTrainer (pip install trl)
    python bench.py async --init runs/laptop/sft --rounds 3         GRPO with asynchronous rollouts against synchronous ones
    python bench.py plan --params 7e9 --gpus 64           predicts seconds and memory of a step, and how many ranks should learn
    python bench.py all       train, sampler, rl (if TRL is installed), kernels and exact
    python bench.py answers   the answer check: accuracy and speed, also of math-verify if it is installed
    python bench.py harness --init smollm2/ --python OTHER_VENV/bin/python     GSM8K and MATH500 beside lm-eval, by question
    python bench.py pipeline                runs recipes/laptop.sh and keeps its accuracies and time
    python bench.py spurious --runs runs/spurious       keeps what recipes/spurious.sh found
    python bench.py real --init smollm2/ --data gsm8k/train.jsonl   SFT and GRPO of a real model: seconds and memory
    python bench.py readme    writes the newest results into README.md and results/README.md

Both sides get the same weights, batches, optimiser and dtype. They run in turns, round by round. The ratio is the median of
the rounds, so it stays fair if the speed of the machine changes. Every result is appended to results/, with the machine, the
versions and the commit.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import (
    answers,
    bits,
    blocks,
    exact,
    groups,
    grpo_runs,
    harness,
    large,
    launches,
    peers,
    plan,
    readme,
    recipes,
    records,
    timing,
)
from tasks.benchmarks.ask import TEMPLATES
from training import cli

TOY = dict(vocab_size=256, layers=1, width=32, heads=2, kv_heads=1, ff=64)

# What each bench calls. It gets the flags, and the list to which it appends each row once it is measured.
BENCHES = {
    "train": lambda a, rows: peers.bench_train(a.device, a.dtype, a.rounds),
    "sampler": lambda a, rows: peers.bench_sampler(a.device, a.dtype, a.rounds, rows, a.toy),
    "rl": lambda a, rows: peers.bench_rl(a.device, a.dtype, a.rounds),
    "kernels": lambda a, rows: blocks.bench_kernels(a.device, a.dtype, a.rounds, rows, a.toy),
    "exact": lambda a, rows: exact.bench_exact(a.device, a.dtype, a.rounds, rows, a.toy),
    "learn": lambda a, rows: grpo_runs.bench_learn(a.init, a.steps, rows, a.toy, a.device, a.dtype),
    "groups": lambda a, rows: groups.bench_groups(a.device, a.dtype, a.rounds, rows, a.toy),
    "launches": lambda a, rows: launches.bench_launches(a.toy),
    "probe": lambda a, rows: bits.bench_probe(a.device, a.dtype, rows, a.toy),
    "bits": lambda a, rows: bits.bench_bits(a.device, a.dtype, a.tokens or 1_000_000, rows, a.toy),
    "shapes": lambda a, rows: bits.bench_shapes(a.device, a.dtype, a.tokens or 100_000, rows, a.toy),
    "pretrain": lambda a, rows: large.bench_pretrain(a.device, a.dtype, a.rounds, rows, a.sizes, a.toy),
    "largest": lambda a, rows: large.bench_largest(a.device, rows),
    "async": lambda a, rows: grpo_runs.bench_async(a.init, a.rounds, a.steps, rows, a.toy, a.keep),
    "answers": lambda a, rows: answers.bench_answers(a.cases, a.seed, a.toy),
    "harness": lambda a, rows: harness.bench_harness(a.init, a.benchmark, a.benchmark_data, a.template, a.limit, a.python, a.keep,
                                                       rows),
    "pipeline": lambda a, rows: recipes.bench_pipeline(a.seed, a.keep),
    "spurious": lambda a, rows: recipes.bench_spurious(a.runs),
    "real": lambda a, rows: recipes.bench_real(a.init, a.data),
}
ALL = ("train", "sampler", "rl", "kernels", "exact")      # comparisons with others that take minutes each
LINES = {"train": peers.speed_lines, "rl": peers.speed_lines, "sampler": peers.sampler_lines, "kernels": timing.block_lines,
         "exact": timing.block_lines, "probe": bits.probe_lines, "answers": answers.lines,
         "harness": harness.lines, "groups": groups.lines}                # for the terminal


def of(*names: str) -> Callable:
    """A condition of NEEDS: the bench is one of these."""
    return lambda args: args.what in names


# when a flag has an effect (see cli.Parser)
WHY = "on {what}"
NEEDS = (
    ("--rounds", of(*ALL, "all", "pretrain", "async", "groups"), WHY), ("--steps", of("async", "learn"), WHY),
    ("--device", of(*ALL, "all", "probe", "bits", "shapes", "pretrain", "largest", "learn", "groups"), WHY),
    ("--dtype", of(*ALL, "all", "probe", "bits", "shapes", "pretrain", "learn", "groups"), WHY),
    ("--tokens", of("bits", "shapes"), WHY), ("--sizes", of("pretrain"), WHY), ("--seed", of("pipeline", "answers"), WHY),
    ("--keep", of("pipeline", "async", "harness"), WHY), ("--runs", of("spurious"), WHY),
    ("--init", of("real", "async", "learn", "harness"), WHY),
    ("--benchmark --benchmark-data --template --limit --python", of("harness"), WHY),
    ("--data", of("real"), WHY), ("--cases", of("answers"), WHY),
    ("--toy", of(*ALL, "all", "answers", "launches", "probe", "bits", "shapes", "pretrain", "learn", "async",
                 "groups"), WHY),
    ("--out", lambda args: args.what != "readme", WHY),
)


def main() -> None:
    if sys.argv[1:2] == ["plan"]:
        return plan.main(sys.argv[2:])
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("what", metavar="WHAT", choices=[*BENCHES, "all", "plan", "readme"],
                   help="which bench; readme: write the tables; flags of plan: bench.py plan --help")
    p.add_argument("--rounds", type=cli.positive_int, default=7, help="rounds, in which each side runs once; seeds of async")
    p.add_argument("--steps", type=cli.positive_int, default=100, help="of each run of async and learn")
    p.add_argument("--device", type=cli.device, default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and matrix products")
    p.add_argument("--tokens", type=cli.positive_int, help="to sample for bits and shapes; none: 1,000,000 and 100,000")
    p.add_argument("--sizes", nargs="+", default=[], choices=list(large.SIZES), help="of pretrain; none: all")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the pipeline; of the strings of answers")
    p.add_argument("--keep", metavar="FOLDER", default="",
                   help="where to keep the runs of pipeline and async; none: delete them. Of harness; none: runs/harness")
    p.add_argument("--runs", metavar="FOLDER", default="runs/spurious", help="of recipes/spurious.sh")
    p.add_argument("--init", metavar="FOLDER", default="smollm2", help="checkpoint for real, async, learn and harness")
    p.add_argument("--data", metavar="FILE", default="gsm8k/train.jsonl", help="questions for real")
    p.add_argument("--benchmark", nargs="+", choices=harness.NAMES, default=list(harness.NAMES), help="of harness")
    p.add_argument("--benchmark-data", metavar="FOLDER", default="", help="files of the benchmarks, as in evaluate.py")
    p.add_argument("--template", choices=TEMPLATES, default="rl", help="in which the questions of harness are asked")
    p.add_argument("--limit", type=cli.positive_int, default=40, help="questions of each benchmark")
    p.add_argument("--python", default=sys.executable, help="the interpreter that has lm-eval")
    p.add_argument("--cases", metavar="FILE", default="", help="more cases for answers: JSONL of text, gold, right")
    p.add_argument("--toy", action="store_true", help="a tiny model, for a quick test that everything works")
    p.add_argument("--out", type=cli.out_folder, metavar="FOLDER", default=str(records.RESULTS), help="where to write results")
    args = p.parse_args()
    if args.what == "plan":
        cli.fail("plan has flags of its own and comes first: bench.py plan --help lists them")
    if args.what == "readme":
        with cli.bad_input():
            written = readme.write()
        cli.finish({"readme": "written" if written else "as it was", "files": written})
        return
    args.device, args.dtype, results = torch.device(args.device), getattr(torch, args.dtype), {}
    if args.toy:
        peers.SHAPE.update(TOY)
    for name in ALL if args.what == "all" else [args.what]:
        try:
            with cli.bad_input():
                results[name] = run(name, args)
        except ModuleNotFoundError as e:
            if args.what != "all":
                cli.fail(f"{e.name} is needed to compare with; run make bench, or pip install {e.name}")
            print(f"{name:<8} left out: {e.name} is needed to compare with; make bench installs it", file=sys.stderr)
    cli.finish(results)


def run(name: str, args: Namespace) -> dict:
    """Runs one bench, keeps its record and returns it. For launches it returns the number of rows, which are too many to
    print."""
    rows = records.Rows(name, args.out)
    result = BENCHES[name](args, rows)
    record = records.keep(name, result, args.device, str(args.dtype).removeprefix("torch."), args.out)
    rows.done()
    if name in LINES:
        print("\n".join(LINES[name](result)), flush=True)
    if name == "launches":
        table = Path(args.out) / "launches.md"
        table.write_text(launches.launches_page(records.records_of(name, args.out)))
        return {"launches": len(result["rows"]), "table": str(table)}
    return record


if __name__ == "__main__":
    main()

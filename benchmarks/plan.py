r"""Predicts how long a step of reinforcement learning takes, what memory it needs, and how to spend a budget.

    python bench.py plan --params 7e9 --gpus 64 --response 4000 --longest 16000
    python bench.py plan --init runs/sft --gpus 8 --prompts 64 --group 16
    python bench.py plan --check                          compares predictions with runs of grpo.py on this machine
    python bench.py plan --fit runs/sweep/* --budget 1e13                     how to spend 1e13 FLOPs, by runs that were measured
    python bench.py plan --fit runs/sweep/* --hours 24 --gpus 8 --law sigmoid

N is the number of weights, L of layers; the other letters are as in model.py. A step trains on P x G completions. "In turns":
all ranks sample, then all train. "Apart": some ranks train while the others sample.

- Training takes tokens x (6 N + 12 L H hd T) FLOPs, a third more with checkpointing. A learner reaches --flops per second. With
  FSDP2 each micro-batch also moves 12 N bytes to and from each learner while it computes; the longer of the two times counts.
- A decode step gives one token to each row. It reads the weights and the cache once, at --bandwidth, computes 2 N FLOPs per row,
  at --flops, and has some overhead. In turns (and with K = 0) all ranks wait for the longest answer.
- New weights are 4 N bytes from rank 0, at --link. The number of ranks that sample does not matter (a broadcast is pipelined).
- In turns (and with K = 0) a step takes the sum of sampling and training; apart it takes the longer of the two. The time for the
  new weights is added.
- Memory of a learner: 16 N bytes for weights, gradients and AdamW (divided by the learners if sharded); what the layers keep for
  the backward pass of a micro-batch; one layer and the head, gathered; on rank 0 the 4 N bytes to send.
- Memory of a rank that samples: 4 N bytes, 2 N more for half-precision copies, and the pages of its rows.

Simpler than reality: scoring takes no time, and all ranks are equally fast.

With --fit runs of grpo.py that measured themselves on their way (--eval-data, --eval-every) say what a budget buys: which size of
model, how many prompts and rollouts, how many steps, and the score to expect with its 95% interval (scaling/). Their steps take
as long as is predicted here for --gpus ranks. Runs of one size cannot tell the law with size: --steepness gives its K and N0, as
0.135 1.3e10 for GRPO of Qwen2.5 (arXiv 2509.25300). A size of which nothing was measured cannot be predicted; a few early
measurements of it suffice.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.budget import spend
from benchmarks.records import keep, newest
from benchmarks.timing import clock, copy_rate, training_step
from model import Config, Transformer, read_config
from sampler import Sampler
from scaling.allocation import LAWS
from scaling.points import Curve
from tasks.world import World
from tokenizer import Tokenizer
from training import cli

HERE = Path(__file__).parent.parent
SHAPES = [Config(layers=24, width=896, heads=14, kv_heads=2, ff=4864, vocab_size=151_936),                     # Qwen2.5 0.5B
          Config(layers=28, width=1536, heads=12, kv_heads=2, ff=8960, vocab_size=151_936),                    # 1.5B
          Config(layers=28, width=3584, heads=28, kv_heads=4, ff=18_944, vocab_size=152_064, tied=False),      # 7B
          Config(layers=64, width=5120, heads=40, kv_heads=8, ff=27_648, vocab_size=152_064, tied=False),      # 32B
          Config(layers=80, width=8192, heads=64, kv_heads=8, ff=29_568, vocab_size=152_064, tied=False)]      # 72B


def weights_of(c: Config) -> float:
    """N, the number of weights of a config (without norms and biases)."""
    layer = c.width * c.head_size * (2 * c.heads + 2 * c.kv_heads) + 3 * c.width * c.ff
    return c.layers * layer + c.vocab_size * c.width * (1 if c.tied else 2)


@dataclass
class Rates:
    """The speed of one rank, in FLOPs and bytes per second."""
    flops: float                      # training
    bandwidth: float                  # decoding: weights and cache
    link: float                       # a broadcast of weights, and FSDP2's traffic
    overhead: float = 0.0             # seconds of a decode step in addition to those for rows and bytes
    decode_flops: float = 0.0         # 0: as in training


@dataclass
class Load:
    """A step: P prompts of `prompt` tokens, and G completions of each, with `response` tokens on average, at most `longest`."""
    P: int
    G: int
    prompt: int
    response: float
    longest: float
    rows: int = 256                   # that decode at once on a rank
    micro_tokens: int = 16_384
    checkpointing: bool = True
    shard: bool = True
    half: int = 2                     # bytes of a number in the cache and in activations


def decode_seconds(c: Config, N: float, rates: Rates, rows: float, held: float, half: int) -> float:
    """One decode step of the engine with `rows` rows, each of which holds `held` tokens."""
    cache = rows * held * 2 * c.layers * c.kv_heads * c.head_size * half
    products = max(half * N / rates.bandwidth, 2 * N * rows / (rates.decode_flops or rates.flops))
    return rates.overhead + products + cache / rates.bandwidth


def step(c: Config, N: float, load: Load, rates: Rates, learners: int, samplers: int = 0, ahead: int = 0) -> dict:
    """Seconds {"train", "rollout", "sync", "step"} of a step. samplers = 0: all learners also sample, in turns."""
    tokens = load.P * load.G * (load.prompt + load.response)
    flops = 6 * N + 12 * c.layers * c.heads * c.head_size * (load.prompt + load.response)
    train = tokens * flops * (4 / 3 if load.checkpointing else 1) / (learners * rates.flops)
    if load.shard and learners > 1:
        train = max(train, tokens / learners / load.micro_tokens * 12 * N / rates.link)
    ranks = samplers or learners
    mine = load.P * load.G / ranks
    rows = max(1.0, min(load.rows, mine * (1 + ahead)))
    held = load.prompt + load.response / 2
    prefill = mine / load.G * load.prompt * 2 * N / (rates.decode_flops or rates.flops)
    rollout = prefill + mine * load.response / rows * decode_seconds(c, N, rates, rows, held, load.half)
    if not ahead:                     # fewer and fewer rows are left; all wait for the longest one
        alone = decode_seconds(c, N, rates, max(1, rows / 16), load.prompt + load.longest / 2, load.half)
        rollout += max(0.0, load.longest - mine * load.response / rows) * alone
    sync = 4 * N / rates.link if samplers or (load.shard and learners > 1) else 0.0
    whole = max(train, rollout) + sync if samplers and ahead else train + rollout + sync
    return {"train": train, "rollout": rollout, "sync": sync, "step": whole}


def kept_for_backward(c: Config, tokens: int, half: int, checkpointing: bool) -> float:
    """Bytes that the layers (model.Block) keep for the backward pass of a micro-batch:

    - in float32, the residual stream before each norm;
    - in the dtype of the products: the results of the two norms; queries, keys and values; the output of attention; gate, up,
      silu(gate) and their product."""
    layer = 2 * c.width * 4 + half * (2 * c.width + (2 * c.heads + 2 * c.kv_heads) * c.head_size + 4 * c.ff)
    return tokens * (c.layers * c.width * 4 + layer if checkpointing else c.layers * layer)


def memory(c: Config, N: float, load: Load, learners: int, samplers: int = 0) -> dict[str, float]:
    """Bytes {"learner", "sampler"} of the fullest rank of each kind."""
    state, layer = 16 * N / (learners if load.shard else 1), (N - c.vocab_size * c.width) / c.layers
    logits = min(4 * 2 ** 26, 4 * load.micro_tokens * c.vocab_size) * 2
    gathered = (4 * (2 * layer + c.vocab_size * c.width) if load.shard and learners > 1 else 0)
    sending = 4 * N if samplers or (load.shard and learners > 1) else 0
    learner = state + gathered + sending + logits + kept_for_backward(c, load.micro_tokens, load.half, load.checkpointing)
    pages = load.rows * (load.prompt + load.response) * 2 * c.layers * c.kv_heads * c.head_size * load.half
    sampler = 4 * N + (2 * N if load.half == 2 else 0) + pages
    return {"learner": learner if samplers else learner + pages, "sampler": sampler if samplers else 0.0}


def splits(c: Config, N: float, load: Load, rates: Rates, ranks: int, room: float, ahead: int) -> list[dict]:
    """Every split of the ranks into learners and samplers: list of dict; those that fit first, the fastest first."""
    found = []
    for samplers in range(ranks):
        learners = ranks - samplers
        if load.P % learners:
            continue
        bytes_of = memory(c, N, load, learners, samplers)
        found.append({"learners": learners, "samplers": samplers, "fits": max(bytes_of.values()) <= room}
                     | step(c, N, load, rates, learners, samplers, ahead if samplers else 0)
                     | {f"{k}_gb": v / 1e9 for k, v in bytes_of.items()})
    return sorted(found, key=lambda f: (not f["fits"], f["step"]))


def rates_of(device: str) -> tuple[Rates, str]:
    """(Rates, where they come from): the newest records of bench.py train and sampler for this kind of device. Without such
    records, what an H200 should reach."""
    for (name, _), trained in newest("train").items():
        sampled = next((r for (n, _), r in newest("sampler").items() if n == name), None)
        if sampled and ("CPU" in name) == (device == "cpu"):
            share = next(r["bandwidth_share"] for r in sampled["rows"] if r["load"] in ("equal", "uniform"))
            return Rates(trained["flops_per_second"], share * sampled["copy_gb_per_second"] * 1e9,
                         1e9 if device == "cpu" else 50e9), f"measured on {name}"
    return Rates(0.4 * 790e12, 0.6 * 4.3e12, 50e9, overhead=2e-3), (
        "assumed: 40% of an H200's 790 TFLOP/s, 60% of its 4.3 TB/s, 50 GB/s between GPUs; run make gpu to measure them")


def nearest(params: float) -> Config:
    """The shape of the Qwen2.5 that is nearest in size."""
    return min(SHAPES, key=lambda c: abs(weights_of(c) / params - 1))


def time_of(curve: Curve, rates: Rates, args: Namespace) -> tuple[float, bool]:
    """(seconds of a step like those of a run, by the fastest split of the ranks; whether it fits into memory)."""
    c = Config(**curve.config) if curve.config else nearest(curve.N)
    load = Load(curve.prompts, curve.group, args.prompt_tokens, curve.response, 4 * curve.response, args.rows, args.micro_tokens,
                shard=args.gpus > 1)
    best = splits(c, curve.N, load, rates, args.gpus, args.memory_gb * 1e9, args.async_steps)[0]
    return best["step"], best["fits"]


# the check: predictions compared with measurements

CASES = ((dict(layers=4, width=128, heads=4, kv_heads=2), 32), (dict(layers=4, width=128, heads=4, kv_heads=2), 96),
         (dict(layers=6, width=256, heads=4, kv_heads=2), 48), (dict(layers=6, width=384, heads=6, kv_heads=2), 64))

ARMS = {"turns": ([], [], (1, 0)),                        # {name: (start, flags, (learners, samplers))}
        "apart, K = 1": (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
                         ["--rollout-ranks", 1, "--async-steps", 1], (1, 1))}


def measured_rates(model: Transformer, load: Load) -> Rates:
    """The rates of this process with this model, from a training step and from decode steps of two sizes."""
    c, N = model.config, weights_of(model.config)
    device = torch.device("cpu")
    T, B = int(load.prompt + load.response), 16
    tokens = torch.randint(0, c.vocab_size, (B, T + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    documents = torch.zeros(B, T, dtype=torch.long)
    seconds = [clock(device, lambda: training_step(model, optimizer, tokens, documents, torch.float32, False)) for _ in range(4)]
    flops = B * T * model.flops_per_token(T) / min(seconds[1:])

    def decode(rows):
        engine = Sampler(model, rows=rows)
        engine.start(load.prompt + 40, stop=set(), rows=rows)
        for i in range(rows):
            engine.submit([i % c.vocab_size] * load.prompt, 32)
        engine.step()
        return statistics.median(clock(device, engine.step) for _ in range(24))
    one, many, rows = decode(2), decode(load.P * load.G), load.P * load.G
    bandwidth = copy_rate(device, 64)
    decode_flops = 2 * N * (rows - 2) / max(1e-9, many - one)
    return Rates(flops, bandwidth, 1e9, max(0.0, one - 4 * N / bandwidth), decode_flops)


def check(steps: int = 6, cases: Sequence[tuple[dict, int]] = CASES) -> list[dict]:
    """Measured and predicted seconds of grpo.py: list of dict. Ranks work in turns, or apart (one samples); one thread each."""
    torch.set_num_threads(1)
    found, world = [], World.from_spec("ops=2-4,split=rl")
    tokenizer = Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(world.problem, range(1000))), 512)
    prompt = round(statistics.mean(len(tokenizer.encode(world.problem(i).question)) + 1 for i in range(200)))
    for shape, new in cases:
        c = Config(vocab_size=len(tokenizer), **shape)
        torch.manual_seed(0)
        model = Transformer(c)
        load = Load(8, 8, prompt, new, new, 64, 16_384, checkpointing=False, shard=False, half=4)
        rates = measured_rates(model, load)
        with tempfile.TemporaryDirectory() as folder:
            Transformer(c).save(f"{folder}/model", tokenizer)
            for arm, (start, more, ranks) in ARMS.items():
                command = [sys.executable, *start, HERE / "grpo.py", "--init", f"{folder}/model", "--out",
                           f"{folder}/{len(found)}", "--data", "world:ops=2-4,split=rl", "--mode", "plain", "--reward", "random",
                           "--prompts", load.P, "--group", load.G, "--steps", steps, "--max-new-tokens", new, "--rows", load.rows,
                           "--lr", 1e-6, "--device", "cpu", "--dtype", "float32", "--show-every", 0, *more]
                process = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                                         env=os.environ | {"OMP_NUM_THREADS": "1"})
                if process.returncode:
                    raise ValueError(f"grpo.py failed: {process.stderr.strip().splitlines()[-1]}")
                records = [json.loads(line) for line in Path(f"{folder}/{len(found)}/log.jsonl").read_text().splitlines()]
                records = [r for r in records if "reward" in r]
                load.response = statistics.mean(r["length_mean"] for r in records)
                predicted = step(c, weights_of(c), load, rates, *ranks, ahead=ranks[1])
                seconds = statistics.median(r["seconds"] for r in records[2:])
                found.append({"parameters": weights_of(c), "response": round(load.response, 1), "arm": arm,
                              "predicted_seconds": round(predicted["step"], 3), "measured_seconds": round(seconds, 3),
                              "predicted_over_measured": round(predicted["step"] / seconds, 3)})
                print(f"{found[-1]['parameters'] / 1e6:6.1f}M weights, {load.response:5.1f} tokens, {arm:<12}: predicted "
                      f"{predicted['step']:.3f} seconds a step, measured {seconds:.3f}", file=sys.stderr, flush=True)
    return found


# when a flag has an effect (see cli.Parser)
NEEDS = (
    ("--params", lambda a: not a.init, "with --init, whose weights are counted"),
    ("--params --init --gpus --prompts --group --prompt-tokens --response --longest --async-steps --rows --micro-tokens "
     "--memory-gb --flops --bandwidth --link --device --fit", lambda a: not a.check, "with --check, which has its own cases"),
    ("--params --init --prompts --group --response --longest", lambda a: not a.fit, "with --fit, whose runs say it"),
    ("--budget --hours --law --steepness", lambda a: a.fit, "without --fit, the runs that it is about"),
    ("--steepness", lambda a: a.law == "size", "with --law {law}"),
    ("--toy --rounds --out", lambda a: a.check, "without --check"),
)


def main(argv: list[str] | None = None) -> None:
    p = cli.Parser(__doc__, NEEDS)
    p.add_argument("--params", type=cli.above_zero, default=7e9,
                   help="weights of the model; its shape is that of the nearest Qwen2.5")
    p.add_argument("--init", metavar="FOLDER", default="", help="or a checkpoint, whose shape it takes")
    p.add_argument("--gpus", type=cli.positive_int, default=8, help="number of ranks")
    p.add_argument("--prompts", type=cli.positive_int, default=128, help="P of a step")
    p.add_argument("--group", type=cli.positive_int, default=8, help="G, completions of a prompt")
    p.add_argument("--prompt-tokens", type=cli.non_negative_int, default=200, help="of a prompt, on average")
    p.add_argument("--response", type=cli.above_zero, default=2000, help="tokens of a completion, on average")
    p.add_argument("--longest", type=cli.not_negative, default=0, help="tokens of the longest one; 0: four times the mean")
    p.add_argument("--async-steps", type=cli.non_negative_int, default=1, help="K, if some ranks only sample")
    p.add_argument("--rows", type=cli.positive_int, default=256, help="completions that decode at once on a rank")
    p.add_argument("--micro-tokens", type=cli.positive_int, default=16_384, help="tokens of a micro-batch")
    p.add_argument("--memory-gb", type=cli.above_zero, default=139, help="of a GPU")
    p.add_argument("--flops", type=cli.not_negative, default=0, help="that a rank reaches in training; 0: measured, or assumed")
    p.add_argument("--bandwidth", type=cli.not_negative, default=0, help="bytes per second in decoding; 0: measured, or assumed")
    p.add_argument("--link", type=cli.not_negative, default=0, help="bytes per second between ranks; 0: as above")
    p.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="whose measured rates to take")
    p.add_argument("--fit", nargs="+", metavar="RUN", default=[],
                   help="run folders of grpo.py that measured themselves on their way; says how to spend a budget")
    p.add_argument("--budget", type=cli.not_negative, default=0, metavar="FLOPS", help="to spend, on rollouts and training")
    p.add_argument("--hours", type=cli.not_negative, default=0, help="or hours, on --gpus ranks")
    p.add_argument("--law", default="size", choices=LAWS, help="by which scores are predicted: a power law that knows the size "
                   "(scaling/rl_law.py), or a sigmoid of each run, which has a ceiling (scaling/sigmoid.py)")
    p.add_argument("--steepness", type=cli.above_zero, nargs=2, default=None, metavar=("K", "N0"),
                   help="of the law with size, if they are known; none: fitted")
    p.add_argument("--check", action="store_true", help="compare predictions with runs of small models here; --out keeps them")
    p.add_argument("--toy", action="store_true", help="a small check, only to test that it works")
    p.add_argument("--rounds", type=cli.positive_int, default=8, help="steps of each run of the check")
    p.add_argument("--out", type=cli.out_folder, metavar="FOLDER", default=str(HERE / "results"), help="where the check goes")
    args = p.parse_args(argv)
    with cli.bad_input():
        if args.check:
            found = check(max(4, args.rounds), CASES[:1] if args.toy else CASES)
            return cli.finish(keep("plan", {"rows": found}, torch.device("cpu"), "float32", args.out))
        if 0 < args.longest < args.response:
            raise ValueError(f"--longest {args.longest:g}: is less than the mean, --response {args.response:g}; raise it")
        rates, whence = rates_of(args.device)
        for name in ("flops", "bandwidth", "link"):
            setattr(rates, name, getattr(args, name) or getattr(rates, name))
        if args.fit:
            found = spend(args.fit, args.budget, args.hours, args.law, args.steepness, lambda c: time_of(c, rates, args))
            return cli.finish(found | {"rates": whence})
        c, N = nearest(args.params), args.params
        if args.init:
            c = read_config(args.init)
            N = weights_of(c)
        load = Load(args.prompts, args.group, args.prompt_tokens, args.response, args.longest or 4 * args.response, args.rows,
                    args.micro_tokens, shard=args.gpus > 1)
        found = splits(c, N, load, rates, args.gpus, args.memory_gb * 1e9, args.async_steps)
        if not found:
            raise ValueError(f"--prompts {args.prompts} cannot be divided among any number of learners up to {args.gpus}")
    print(f"{N / 1e9:.3g}B weights, {args.gpus} ranks; rates {whence}")
    print(f"{'learn':>6}{'sample':>7}" + "".join(f"{name:>12}" for name in ("train s", "rollout s", "sync s", "step s",
                                                                             "learner GB", "sampler GB")))
    turns = [f for f in found if not f["samplers"]]
    for f in [*found[:6], *[f for f in turns if f not in found[:6]]]:
        numbers = (f[k] for k in ("train", "rollout", "sync", "step", "learner_gb", "sampler_gb"))
        print(f"{f['learners']:>6}{f['samplers'] or 'turns':>7}" + "".join(f"{x:>12.3g}" for x in numbers)
              + ("" if f["fits"] else "   too large"))
    best = found[0]
    return cli.finish({"best": {k: round(v, 4) if isinstance(v, float) else v for k, v in best.items()},
                       "sync_bytes": 4 * N, "rates": whence})

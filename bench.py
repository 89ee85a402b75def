"""Speed, side by side with what a user would pick instead, in one process on one machine.

    python bench.py train     training tokens/s against Hugging Face's LlamaForCausalLM of the same shape and data
    python bench.py sample    generated tokens/s against its generate, all completions of one length
    python bench.py ragged    the same with completions of many lengths, as rollouts have them
    python bench.py kernels   the blocks by themselves, against torch's: attention, product, norm, log-probability
    python bench.py exact     what the exact mode costs: a training step, a rollout, a GRPO step
    python bench.py probe     which blocks give a row the same bits in every batch on this device
    python bench.py rl        seconds per GRPO step against TRL's GRPOTrainer (pip install trl)
    python bench.py all       all of these; rl where TRL is installed
    python bench.py pipeline  runs recipes/laptop.sh and keeps its accuracies and time
    python bench.py spurious --runs runs/spurious       keeps what recipes/spurious.sh found
    python bench.py real --init smollm2/ --data gsm8k/train.jsonl   SFT and GRPO of a real model: seconds and memory
    python bench.py readme    writes the newest results into README.md's tables

Both sides get the same weights, batches, optimiser and dtype, and take turns, round by round; the ratio is the median of
the rounds' ratios, so a machine whose speed drifts does not favour one. Every result is appended to results/, with the
machine, the versions and the commit.
"""

import copy
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

import cli
import common
import tables
from bench_kernels import SMALL, bench_exact, bench_kernels, clock, probe
from evaluate import gain
from model import Config, Transformer
from sampler import Sampler

HERE = Path(__file__).parent
SHAPE = dict(SMALL)
TOY = dict(vocab_size=256, layers=1, width=32, heads=2, kv_heads=1, ff=64)


def pair(device, dtype):
    """Our model and Hugging Face's with the same weights."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    ours = Transformer(Config(**SHAPE))
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return ours.to(device, dtype), theirs.to(device, dtype)


def rounds(device, count, work, tokens):
    """Runs {side: function} in turn; returns tokens/s of each side (median) and the ratio ours/theirs of each round."""
    for f in work.values():
        f()                                                                   # warm-up
    seconds = {side: [] for side in work}
    for i in range(count):
        for side in list(work)[::1 if i % 2 else -1]:
            seconds[side].append(clock(device, work[side]))
    ratios = [t / o for o, t in zip(seconds["ours"], seconds["hugging_face"], strict=True)]
    speeds = {side: round(tokens / statistics.median(s), 1) for side, s in seconds.items()}
    return {"tokens_per_second": speeds, "ratio": round(statistics.median(ratios), 3),
            "ratio_low": round(min(ratios), 3), "ratio_high": round(max(ratios), 3),
            "rounds": count}


def bench_train(device, dtype, count):
    """One optimiser step (AdamW) on 16 rows of 256 tokens, one document a row."""
    ours, theirs = pair(device, dtype)
    T, B = 256, 16
    tokens = torch.randint(0, SHAPE["vocab_size"], (B, T + 1), generator=torch.Generator().manual_seed(1)).to(device)
    optimizers = {side: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for side,
                  m in (("ours", ours), ("hugging_face", theirs))}

    def step(side):
        if side == "ours":
            loss = -ours(tokens[:, :-1], None, tokens[:, 1:]).mean()
        else:
            # shifts the labels itself: T predictions from T+1 tokens
            loss = theirs(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizers[side].step()
        optimizers[side].zero_grad(set_to_none=True)
        return float(loss.detach())
    first = {side: step(side) for side in optimizers}
    assert abs(first["ours"] - first["hugging_face"]) < 1e-2, f"the two sides do not compute the same loss: {first}"
    result = rounds(device, count, {side: (lambda side=side: step(side)) for side in optimizers}, B * T)
    rate = result["tokens_per_second"]["ours"]
    return result | {"shape": f"{B} x {T}", "parameters": sum(w.numel() for w in ours.parameters()),
                     "flops_per_second": round(rate * ours.flops_per_token(T))}


def against_generate(device, dtype, count, limits):
    """Prompts of 16 to 64 tokens, 64 rows at once, limits[i] new tokens for prompt i, drawn at temperature 1.

    There is no end token: limits stand for the ends, so that both sides draw the same number of tokens. `generate` gets
    its prompts in batches of 64 and knows by a stopping rule when a row is done; it goes on until the last one is.
    """
    import transformers
    ours, theirs = pair(device, dtype)
    theirs.eval()
    g = torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, SHAPE["vocab_size"], (int(torch.randint(16, 65, (1,), generator=g)),),
                             generator=g).tolist() for _ in limits]
    settings = copy.deepcopy(theirs.generation_config)
    settings.eos_token_id, settings.pad_token_id, settings.do_sample, settings.top_k = None, 0, True, 0

    def batch(part):
        longest = max(len(p) for p in prompts[part])
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts[part]], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts[part]], device=device)
        ends = torch.tensor(limits[part], device=device) + longest

        class Done(transformers.StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                return input_ids.shape[1] >= ends
        return dict(input_ids=ids, attention_mask=mask, max_new_tokens=max(limits[part]), stopping_criteria=[Done()],
                    generation_config=settings)
    batches = [batch(slice(i, i + 64)) for i in range(0, len(limits), 64)]

    def work_ours():
        done = Sampler(ours, rows=64).generate(prompts, max_new_tokens=limits, temperature=1.0, stop=set())
        assert [len(c.tokens) for [c] in done] == limits

    def work_theirs():
        with torch.no_grad():
            for b in batches:
                assert theirs.generate(**b).shape[1] == b["input_ids"].shape[1] + b["max_new_tokens"]
    return rounds(device, count, {"ours": work_ours, "hugging_face": work_theirs}, sum(limits))


def bench_sample(device, dtype, count):
    return against_generate(device, dtype, count, [64] * 64) | {"shape": "64 rows, 64 new tokens each"}


def bench_ragged(device, dtype, count):
    """Lengths fall off exponentially with mean 64, at most 256: most answers are short and a few are long."""
    u = torch.rand(256, generator=torch.Generator().manual_seed(3))
    limits = (-64 * u.log()).clamp(4, 256).int().tolist()
    shape = f"64 rows, {len(limits)} prompts, {min(limits)} to {max(limits)} new tokens"
    return against_generate(device, dtype, count, limits) | {"shape": shape}


def bench_rl(device, dtype, count):
    """Seconds for a GRPO step: 8 prompts x 8 completions of 64 tokens from random weights (which never end by themselves),
    one update with AdamW, against TRL's GRPOTrainer on the same model, tokenizer and prompts. The first step is left out."""
    import datasets
    import transformers
    from trl import GRPOConfig, GRPOTrainer

    from tokenizer import Tokenizer
    from world import World
    P, G, new, steps = 8, 8, 64, 3
    world = World.from_spec("ops=2-4,split=rl")
    problems = [world.problem(i) for i in range(P * steps * 2)]
    seconds = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(world.problem, range(2000))), 1024)
        torch.manual_seed(0)
        Transformer(Config(**SHAPE | {"vocab_size": len(tokenizer)})).save(f"{folder}/model", tokenizer)
        rows = datasets.Dataset.from_list([{"prompt": p.question + "\n"} for p in problems])

        def ours(i):
            command = [sys.executable, HERE / "grpo.py", "--init", f"{folder}/model", "--data", "world:ops=2-4,split=rl", "--out",
                       f"{folder}/{i}", "--mode", "plain", "--reward", "random", "--prompts", P, "--group", G, "--steps", steps,
                       "--max-new-tokens", new, "--rows", P * G, "--lr", 1e-6, "--device", device, "--dtype",
                       str(dtype).removeprefix("torch."), "--show-every", 0]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            records = [json.loads(line) for line in Path(f"{folder}/{i}/log.jsonl").read_text().splitlines()]
            seconds["ours"] += [r["seconds"] for r in records if "reward" in r][1:]
            assert all(r["length_mean"] > new / 2 for r in records if "reward" in r), "random weights ended early"

        def theirs(i):
            ends = []

            class Clock(transformers.TrainerCallback):
                def on_step_end(self, *_, **__):
                    ends.append(time.perf_counter())
            settings = GRPOConfig(
                output_dir=f"{folder}/trl{i}", per_device_train_batch_size=P * G, num_generations=G, max_steps=steps,
                max_completion_length=new, temperature=1.0, top_k=0, beta=0.0, loss_type="grpo", learning_rate=1e-6,
                report_to="none", save_strategy="no", logging_steps=1000, disable_tqdm=True, use_cpu=device.type == "cpu",
                bf16=dtype == torch.bfloat16, gradient_checkpointing=False)
            dice = torch.Generator().manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/model", attn_implementation="sdpa")
            GRPOTrainer(model, lambda completions, **_: torch.rand(len(completions), generator=dice).round().tolist(), settings,
                        rows, processing_class=transformers.AutoTokenizer.from_pretrained(f"{folder}/model"),
                        callbacks=[Clock()]).train()
            seconds["trl"] += [b - a for a, b in itertools.pairwise(ends)]
        for i in range(count):
            for side in (ours, theirs)[::1 if i % 2 else -1]:
                side(i)
    median = {side: statistics.median(s) for side, s in seconds.items()}
    ratios = [t / o for o, t in zip(sorted(seconds["ours"]), sorted(seconds["trl"]), strict=True)]
    return {"seconds_per_step": {k: round(v, 3) for k, v in median.items()}, "ratio": round(median["trl"] / median["ours"], 3),
            "ratio_low": round(min(ratios), 3), "ratio_high": round(max(ratios), 3), "rounds": count,
            "shape": f"{P} prompts x {G} completions x {new} tokens", "trl": version("trl")}


BENCHES = {"train": bench_train, "sample": bench_sample, "ragged": bench_ragged, "rl": bench_rl, "kernels": bench_kernels,
           "exact": bench_exact}
BLOCKS = ("kernels", "exact")                             # of many rows each


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


def main():
    p = cli.Parser(__doc__)
    p.add_argument("what", choices=[*BENCHES, "all", "probe", "pipeline", "spurious", "real", "readme"],
                   help="which comparison; readme: write the tables")
    p.add_argument("--rounds", type=int, default=7, help="turns of each side")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of weights and matrix products")
    p.add_argument("--seed", type=int, default=0, help="of the pipeline")
    p.add_argument("--keep", metavar="FOLDER", default="", help="where to keep the pipeline's runs; none: nowhere")
    p.add_argument("--runs", metavar="FOLDER", default="runs/spurious", help="of recipes/spurious.sh")
    p.add_argument("--init", metavar="FOLDER", default="smollm2", help="checkpoint for real")
    p.add_argument("--data", metavar="FILE", default="gsm8k/train.jsonl", help="questions for real")
    p.add_argument("--toy", action="store_true", help="a tiny model, only to see that it works")
    p.add_argument("--out", metavar="FOLDER", default=str(HERE / "results"), help="where results are appended")
    args = p.parse_args()
    if args.what == "readme":
        (HERE / "README.md").write_text(tables.readme((HERE / "README.md").read_text()))
        cli.finish({"readme": "written"})
        return
    device, dtype, results = torch.device(args.device), getattr(torch, args.dtype), {}
    if args.toy:
        SHAPE.update(TOY)
    for name in BENCHES if args.what == "all" else [args.what]:
        with cli.bad_input():
            try:
                kept = {"pipeline": lambda: bench_pipeline(args.seed, args.keep), "spurious": lambda: bench_spurious(args.runs),
                        "real": lambda: bench_real(args.init, args.data),
                        "probe": lambda: probe(device, dtype, args.toy)}
                toy = {"toy": args.toy} if name in BLOCKS else {}
                result = kept[name]() if name in kept else BENCHES[name](device, dtype, args.rounds, **toy)
            except ModuleNotFoundError as e:
                if args.what == "all":
                    print(f"{name:<8} left out: {e.name} is needed to compare with; make bench installs it", file=sys.stderr)
                    continue
                raise ValueError(f"{e.name} is needed to compare with; run make bench, or pip install {e.name}") from None
        results[name] = result | {"bench": name, "device": common.device_name(device), "dtype": args.dtype,
                                  "versions": common.versions(),
                                  "commit": common.commit(), "date": time.strftime("%Y-%m-%d")}
        if name == "probe":
            print("\n".join(f"{r['block']:<20} {r['case']:<40} " + (f"differs at {r['differ']}" if r["differ"] else "same bits")
                            for r in result["rows"]), flush=True)
        elif name in BLOCKS:
            print("\n".join(tables.block_lines(result)), flush=True)
        elif name in BENCHES:
            ours, theirs = tables.shown(result)
            print(f"{name:<8} ours {ours}   theirs {theirs}   ratio {result['ratio']:.2f} ({result['ratio_low']:.2f} to "
                  f"{result['ratio_high']:.2f})", flush=True)
        os.makedirs(args.out, exist_ok=True)
        with open(Path(args.out) / f"bench_{name}.jsonl", "a") as f:
            f.write(json.dumps(results[name]) + "\n")
    cli.finish(results)


if __name__ == "__main__":
    main()

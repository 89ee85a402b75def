"""Compares ours with what a user would choose instead: Hugging Face's model, its `generate` and continuous batching, and TRL.

bench.py train, sampler and rl run these. Both sides get the same weights, batches and lengths. They run in turns, round by
round; a ratio is the median over the rounds.
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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import SMALL, both_sides, clock, copy_rate, in_turns, rows_of_one_document
from engine.cache import PAGE, KVCache
from model import Config, Transformer
from sampler import Sampler
from tasks.world import World
from tokenizer import Tokenizer

HERE = Path(__file__).parent.parent
SHAPE = dict(SMALL)
QWEN = dict(vocab_size=151_936, layers=24, width=896, heads=14, kv_heads=2, ff=4864, qkv_bias=True)    # Qwen2.5-0.5B's


def pair(device: torch.device, dtype: torch.dtype, shape: dict) -> tuple[Transformer, Any]:
    """Our model and Hugging Face's with the same weights."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    ours = Transformer(Config(**shape))
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    return ours.to(device, dtype), theirs.to(device, dtype)


def bench_train(device: torch.device, dtype: torch.dtype, count: int) -> dict:
    """One optimiser step (AdamW) on 16 rows of 256 tokens, one document a row."""
    ours, theirs = pair(device, dtype, SHAPE)
    T, B = 256, 16
    tokens = torch.randint(0, SHAPE["vocab_size"], (B, T + 1), generator=torch.Generator().manual_seed(1)).to(device)
    optimizers = {side: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True) for side,
                  m in (("ours", ours), ("hugging_face", theirs))}

    def step(side):
        if side == "ours":
            loss = -ours(tokens[:, :-1], rows_of_one_document(tokens), tokens[:, 1:]).mean()
        else:
            # shifts the labels itself: T predictions from T+1 tokens
            loss = theirs(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizers[side].step()
        optimizers[side].zero_grad(set_to_none=True)
        return float(loss.detach())
    first = {side: step(side) for side in optimizers}
    assert abs(first["ours"] - first["hugging_face"]) < 1e-2, f"the two sides do not compute the same loss: {first}"
    result = in_turns(device, count, {side: (lambda side=side: step(side)) for side in optimizers}, B * T)
    rate, (ratio, low, high) = result["tokens_per_second"]["ours"], result.pop("ratios")["hugging_face"]
    return result | {"ratio": ratio, "ratio_low": low, "ratio_high": high, "shape": f"{B} x {T}",
                     "parameters": sum(w.numel() for w in ours.parameters()),
                     "flops_per_second": round(rate * ours.flops_per_token(T))}


def speed_lines(result: dict) -> list[str]:
    """A line of text of bench.py train and rl."""
    ours, theirs = both_sides(result)
    return [f"ours {ours}   theirs {theirs}   ratio {result['ratio']:.2f} ({result['ratio_low']:.2f} to "
            f"{result['ratio_high']:.2f})"]


def lengths_of(load: str, toy: bool = False, gpu: bool = False) -> list[int]:
    """New tokens for each request of a load:

    - equal: all have one length;
    - uniform: any length up to 16 times a short one;
    - exponential: long ones are exponentially rare;
    - long-tailed: one request in fifty is 16 times as long as the others."""
    count, short = (8, 4) if toy else (512, 32) if gpu else (128, 32)
    if load == "equal":
        return [2 * short] * (count // 2)
    if load == "uniform":
        return torch.randint(1, 16 * short + 1, (count,), generator=torch.Generator().manual_seed(3)).tolist()
    if load == "exponential":
        u = torch.rand(2 * count, generator=torch.Generator().manual_seed(3))
        return (-2 * short * u.log()).clamp(4, 8 * short).int().tolist()
    return [short * (16 if i % 50 == 25 or i == 3 else 1) for i in range(count)]


def bench_sampler(device: torch.device, dtype: torch.dtype, count: int, found: list, toy: bool = False) -> dict:
    """The rollout engine under three loads. A row for each is appended to `found`:

    tokens_per_second    of ours, of `generate` in batches, and of continuous batching
    busy                 the share of decode slots in use while some request waits
    first_token_seconds  until the first token of a request: median and 90th percentile
    bandwidth_share      bytes of weights and cache read per second (once a step), divided by the rate of a memory copy

    On a GPU: 256 rows, a model of half a billion weights, prompts of 512 tokens and answers of up to 512. There the engine is
    also measured alone, with 64 rows.
    """
    gpu = device.type == "cuda"
    many, (shortest, longest) = (256, (512, 512)) if gpu else (4, (2, 6)) if toy else (64, (16, 64))
    ours, theirs = pair(device, dtype, QWEN if gpu and not toy else SHAPE)
    theirs.eval()
    g = torch.Generator().manual_seed(2)
    for load, rows in (("uniform", many), ("long-tailed", many), ("uniform", 64)) if gpu else (
            (load, many) for load in ("equal", "exponential", "long-tailed")):
        limits = lengths_of(load, toy, gpu)
        sizes = torch.randint(shortest, longest + 1, (len(limits),), generator=g).tolist()
        prompts = [torch.randint(3, ours.config.vocab_size, (n,), generator=g).tolist() for n in sizes]

        engine = Sampler(ours, rows=rows)

        def ours_once(engine=engine, prompts=prompts, limits=limits):
            done = engine.generate(prompts, max_new_tokens=limits, temperature=1.0, stop=set())
            assert [len(c.tokens) for [c] in done] == limits
        work = {"ours": ours_once}
        if rows == many:
            work |= {"generate": in_batches(theirs, prompts, limits, rows),
                     "continuous batching": continuously(theirs, prompts, limits, rows)}
        shape = f"{rows} rows, {len(limits)} requests, {min(limits)} to {max(limits)} new tokens"
        found.append({"load": load, "shape": shape}
                     | in_turns(device, min(count, 2) if gpu else count, work, sum(limits))
                     | of_the_engine(engine, device, prompts, limits))
        print(*sampler_lines({"rows": found[-1:]}), sep="\n", file=sys.stderr, flush=True)
    return {"rows": found, "parameters": sum(w.numel() for w in ours.parameters()), "copy_gb_per_second": copy_rate(device) / 1e9}


def sampler_lines(result: dict) -> list[str]:
    """A line of text for each load of bench.py sampler."""
    lines = []
    for r in result["rows"]:
        speeds = ", ".join(f"{side} {s:,.0f}" if isinstance(s, float) else f"{side}: {s}"
                           for side, s in r["tokens_per_second"].items())
        ratios = ", ".join(f"{side} {x[0]:.2f} ({x[1]:.2f} to {x[2]:.2f})" for side, x in r["ratios"].items())
        lines.append(f"{r['load']}, {r['shape']}: {speeds} tokens/s; ours over {ratios}; busy slots {r['busy']}, first token "
                     f"after {r['first_token_seconds'][0]:.2f} s, {r['bandwidth_share']:.3f} of the bandwidth")
    return lines


def settings_of(theirs: Any) -> Any:
    """Samples at temperature 1 from the whole vocabulary. There is no end token; a limit ends each answer. So all sides
    sample the same number of tokens."""
    settings = copy.deepcopy(theirs.generation_config)
    settings.eos_token_id, settings.pad_token_id, settings.do_sample, settings.top_k = None, 0, True, 0
    return settings


def in_batches(theirs: Any, prompts: list[list[int]], limits: list[int], rows: int) -> Callable[[], None]:
    """`generate` on batches of `rows` prompts. A stopping rule says which rows are done; a batch ends with its last row."""
    import transformers
    device = theirs.device

    def batch(part):
        longest = max(len(p) for p in prompts[part])
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts[part]], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts[part]], device=device)
        ends = torch.tensor(limits[part], device=device) + longest

        class Done(transformers.StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                return input_ids.shape[1] >= ends
        return dict(input_ids=ids, attention_mask=mask, max_new_tokens=max(limits[part]), stopping_criteria=[Done()],
                    generation_config=settings_of(theirs))
    batches = [batch(slice(i, i + rows)) for i in range(0, len(limits), rows)]

    def work():
        with torch.no_grad():
            for b in batches:
                assert theirs.generate(**b).shape[1] == b["input_ids"].shape[1] + b["max_new_tokens"]
    return work


STALLED = 60                             # seconds without any finished answer, after which continuous batching counts as hung


def continuously(theirs: Any, prompts: list[list[int]], limits: list[int], rows: int) -> Callable[[], None]:
    """Hugging Face's continuous batching, with as many requests at once as we have rows."""
    import transformers

    def work():
        settings = settings_of(theirs)
        settings.eos_token_id = -1                        # None is not allowed here
        blocks = rows * -(-max(len(p) + n for p, n in zip(prompts, limits, strict=True)) // 256) + 1
        how = transformers.ContinuousBatchingConfig(max_requests_per_batch=rows, num_blocks=blocks,       # pages of 256 tokens
                                                    max_batch_tokens=max(512, rows, *map(len, prompts)))
        manager, drawn, done = theirs.init_continuous_batching(settings, how), 0, 0
        manager.start()
        try:
            for prompt, limit in zip(prompts, limits, strict=True):
                manager.add_request(prompt, max_new_tokens=limit)
            while done < len(prompts):
                result = manager.get_result(timeout=STALLED)
                if result is None or result.error:
                    raise RuntimeError(result.error if result else f"no answer in {STALLED} s")
                drawn, done = drawn + len(result.generated_tokens), done + 1
        finally:
            manager.stop(block=True)
        assert drawn == sum(limits), f"it drew {drawn} tokens of {sum(limits)}"
    return work


def of_the_engine(engine: Sampler, device: torch.device, prompts: list[list[int]], limits: list[int]) -> dict:
    """One run of our engine, step by step, for numbers that only it has. It has run before; all requests come at once."""
    model, begun, first = engine.model, {}, []
    rows, engine.busy, engine.slots = min(engine.rows, len(prompts)), 0, 0
    weights = sum(w.numel() * w.element_size() for w in model.parameters())
    engine.start(max(len(p) + n for p, n in zip(prompts, limits)), stop=set(), rows=rows)
    a_token = KVCache.page_bytes(model.config, engine.runner.dtype) / PAGE
    moved, decoding, start = 0, 0.0, time.perf_counter()
    for prompt, limit in zip(prompts, limits, strict=True):
        [request] = engine.submit(prompt, limit)
        begun[request.number] = request
    while engine.running or engine.waiting:
        prefilled = engine.prefills
        held = sum(len(r.completion.prompt) + len(r.completion.tokens) for r in engine.running)
        took = clock(device, engine.step)
        if held and engine.prefills == prefilled:         # a step that only decoded
            moved, decoding = moved + weights + held * a_token, decoding + took
        now = time.perf_counter() - start
        drew = [n for n, r in begun.items() if r.completion.tokens]
        first += [now for _ in drew]
        for n in drew:
            del begun[n]
    first.sort()
    return {"busy": round(engine.busy / engine.slots, 4) if engine.slots else None,
            "first_token_seconds": [round(first[int(q * (len(first) - 1))], 4) for q in (0.5, 0.9)],
            "bandwidth_share": round(moved / decoding / copy_rate(device), 4) if decoding else None}


def bench_rl(device: torch.device, dtype: torch.dtype, count: int) -> dict:
    """Seconds for a GRPO step, ours and that of TRL's GRPOTrainer with the same model, tokenizer and prompts.

    A step has 8 prompts x 8 completions of 64 tokens and one update with AdamW. The weights are random, so completions never
    end early. The first step does not count."""
    import datasets
    import transformers
    from trl import GRPOConfig, GRPOTrainer

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

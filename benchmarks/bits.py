"""Compares bits: log-probabilities of sampler and trainer, and the results of single blocks for a row in different batches.

bench.py bits, shapes and probe run these.
"""

import functools
import itertools
import random
import sys
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import kernels
from benchmarks.blocks import our_kernel
from benchmarks.peers import QWEN, SHAPE
from engine.cache import KVCache, pages_of
from kernels import Packing
from model import Config, Transformer
from rl.batches import pack
from sampler import Sampler

# sampler and trainer

def bench_bits(device: torch.device, dtype: torch.dtype, wanted: int, rows: list, toy: bool = False) -> dict:
    """How many sampled tokens have a different log-probability in the trainer's packed forward pass: {"rows": [...]}.

    The case is made hard: prompts of different lengths, each for 1 to 4 samples; rows that are filled again when others end;
    prompts prefilled in pieces; a pool too small for all rows; new weights every few steps, after which all keys are computed
    again. For comparison it also samples a tenth as many tokens in fast mode."""
    gpu, wanted = device.type == "cuda", 2000 if toy else wanted
    torch.manual_seed(0)
    model = Transformer(Config(**QWEN if gpu and not toy else SHAPE)).to(device)
    with torch.no_grad():                                 # without this, all tokens would be about equally likely
        for w in model.layers.parameters():
            w.mul_(4 if w.ndim == 2 else 1)
        model.norm.weight.mul_(6)
    versions = [{k: w.clone() for k, w in model.state_dict().items()}]
    versions.append({k: w * (1 + 0.02 * torch.randn_like(w)) for k, w in versions[0].items()})
    for exact, temperature, share in ((True, 1.0, 0.5), (True, 0.7, 0.5), (False, 1.0, 0.1)):
        size = (256, 1024, 97) if gpu and not toy else (16, 128, 7)
        rows.append(_bits(model, versions, dtype, exact, temperature, int(share * wanted), *size))
        print(bits_line(rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows, "parameters": sum(w.numel() for w in model.parameters())}


def _bits(model, versions, dtype, exact, temperature, wanted, rows, longest=128, every=7):
    """One row of bench_bits: about `wanted` tokens, sampled with `rows` rows and computed again by the trainer. A prompt has up
    to `longest` / 2 tokens, a completion up to `longest`. New weights come after every `every` steps."""
    V, device, half = model.config.vocab_size, model.head.device, None if dtype == torch.float32 else dtype
    dice, requests, drawn, start = random.Random(0), [], 0, time.perf_counter()
    model.load_state_dict(versions[0])
    engine = Sampler(model, rows=rows, dtype=half, exact=exact, prefill_chunk=longest // 4, pool_tokens=rows * longest // 3)
    engine.start(2 * longest, temperature, seed=1, stop=set(range(max(1, V // 300))), rows=rows)
    for step in itertools.count(1):
        while drawn < wanted and len(engine.waiting) < rows // 4:
            prompt = [dice.randrange(V) for _ in range(dice.randrange(1, longest // 2))]
            requests += engine.submit(prompt, dice.randrange(1, longest), n=dice.randrange(1, 5))
        drawn += sum(len(r.completion.tokens) for r in engine.step())
        if not (engine.running or engine.waiting):
            break
        if step % every == 0:
            engine.update_weights(versions[(engine.version + 1) % 2], engine.version + 1, recompute=True)
    seconds, apart = time.perf_counter() - start, []
    done = [SimpleNamespace(completion=r.completion, reward=0.0, baseline=0.0) for r in requests]
    was, model.exact = model.exact, exact
    for v, weights in enumerate(versions):
        model.load_state_dict(weights)
        for i, b in enumerate(pack(done)):
            on = b.to(device)
            with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
                logprobs = model(on.tokens, on.documents, on.targets, temperature).cpu()      # (B, T)
            for r in done:
                if r.batch == i:
                    c, mine = r.completion, (b.documents[r.row] == r.document).nonzero().flatten()
                    far = (logprobs[r.row, mine[-len(c.tokens):]].double() - torch.tensor(c.logprobs).double()).abs()
                    apart.append(far[torch.tensor(c.versions) % 2 == v])
    model.exact, apart = was, torch.cat(apart)
    assert len(apart) == sum(len(r.completion.tokens) for r in requests)
    reported = sum(sum(r.completion.logprobs) for r in requests) / len(apart)
    return {"mode": "exact" if exact else "fast", "temperature": temperature, "tokens": len(apart), "logprob": round(reported, 3),
            "differ": int((apart > 0).sum()), "greatest": float(apart.max()), "mean": float(apart.mean()),
            "updates": engine.version, "preempted": engine.preempted, "prefills": engine.prefills, "seconds": round(seconds, 1)}


FAMILIES = (dict(qkv_bias=True), dict(qk_norm="head"), dict(qk_norm="full", norm_after=True, tied=False),
            dict(attention="rope+nope"), dict(attention="window+rope", window=20, qk_norm="head"))


def bench_shapes(device: torch.device, dtype: torch.dtype, wanted: int, rows: list, toy: bool = False) -> dict:
    """The same in exact mode for shapes that no tile divides: {"rows": [...]}, one for each head size.

    It takes every even head size from 2 to 128 with 1 to 8 query heads per key head; odd widths, vocabularies and feed-forward
    widths; and the options of all families in turn."""
    dice, each = random.Random(0), 10 if toy else -(-wanted // (64 * 8))
    for hd in (6,) if toy else range(2, 129, 2):
        parts, widths = [], []
        for G in (1, 3) if toy else range(1, 9):
            K, odd = dice.randrange(1, 4), [2 * dice.randrange(1, n) + 1 for n in (80, 100, 400)]
            torch.manual_seed(hd + G)
            model = Transformer(Config(layers=2, heads=K * G, kv_heads=K, head_size=hd, width=odd[0], ff=odd[1],
                                       vocab_size=odd[2], **dice.choice(FAMILIES))).to(device)
            with torch.no_grad():
                for w in model.parameters():
                    w.mul_(4) if w.ndim == 2 else w.add_(0.3 * torch.randn_like(w))
            versions = [{k: w * scale for k, w in model.state_dict().items()} for scale in (1, 1.02)]
            parts.append(_bits(model, versions, dtype, True, dice.choice((0.7, 1.0)), each, 6, 96, 29))
            widths.append(odd[0])
        rows.append({"head_size": hd, "groups": [1, 3] if toy else [1, 8], "widths": widths}
                     | {k: sum(r[k] for r in parts) for k in ("tokens", "differ", "updates", "preempted")}
                     | {"greatest": max(r["greatest"] for r in parts), "seconds": round(sum(r["seconds"] for r in parts), 1)})
        print("head size {head_size:>3}: {differ} of {tokens} tokens differ".format(**rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows, "tokens": sum(r["tokens"] for r in rows), "differ": sum(r["differ"] for r in rows)}


def bits_line(r: dict) -> str:
    return (f"{r['mode']}, temperature {r['temperature']}: of {r['tokens']:,} tokens (log-probability {r['logprob']:.2f} in "
            f"the mean) {r['differ']:,} differ, by at most {r['greatest']:.2g} and {r['mean']:.2g} in the mean; {r['updates']} "
            f"times new weights, {r['preempted']} rows preempted, {r['prefills']} prompts; {r['seconds']:.0f} s")


# a row in every batch

ROWS = (1, 2, 3, 4, 7, 8, 16, 17, 31, 32, 33, 64, 65, 128, 256, 511, 1024)


def bench_probe(device: torch.device, dtype: torch.dtype, rows: list, toy: bool = False) -> dict:
    """Which blocks give a row the same bits in every batch on this device: {"rows": [{"block", "case", "differ"}]}.

    differ: the batch sizes in which some row has other bits than in a batch of 2,048. For attention: the chunk lengths with
    which a document has other bits than when it is computed at once."""
    g = torch.Generator().manual_seed(0)

    def differ(block, case, f, x, sizes):
        whole = f(x)
        rows.append({"block": block, "case": case, "differ": [n for n in sizes if not torch.equal(f(x[:n]), whole[:n])]})
    with torch.no_grad():
        products = {"library": F.linear, "invariant": functools.partial(kernels.project, exact=True)}
        if device.type == "cuda":                         # the order matters: after the second one the library may not split K
            products |= {"our kernel": our_kernel, "library without split-K": F.linear}
        for name in products:
            for K, N in ((64, 96),) if toy else ((1024, 2816), (2048, 2048), (2048, 50_304)) if device.type == "cuda" else (
                    (128, 384), (384, 128), (576, 1536), (384, 4099)):
                x = torch.randn(256 if toy else 2048, K, generator=g).to(device, dtype)
                weight = (torch.randn(N, K, generator=g) / K ** 0.5).to(device, dtype)
                differ("product", f"{name}, {K} to {N}", lambda x, f=products[name], w=weight: f(x, w), x, ROWS)
        x = torch.randn(256 if toy else 2048, 512, generator=g).to(device, dtype)
        w = torch.ones(512, device=device)
        for exact in (False, True):
            form = "exact" if exact else "fast"
            differ("RMSNorm", form, lambda x, exact=exact: kernels.rms_norm(x, w, 1e-6, exact), x, ROWS)
            differ("SwiGLU", form, lambda x, exact=exact: kernels.swiglu(x[:, :255], x[:, 255:510], exact), x, ROWS)
            differ("log-probability", form, lambda x, exact=exact: kernels.row_logprobs(
                x.float(), torch.zeros(len(x), dtype=torch.long, device=device), 0.7, exact), x, ROWS)
            for hd in (64, 128) if not toy else (16,):
                rows.append({"block": "attention, chunks", "case": f"{form}, head {hd}", "differ": chunks_that_differ(
                    device, dtype, hd, exact, T=64 if toy else 192)})
    return {"rows": rows}


def probe_lines(result: dict) -> list[str]:
    """A line of text for each row of bench.py probe."""
    return [f"{r['block']:<20} {r['case']:<40} " + (f"differs at {r['differ']}" if r["differ"] else "same bits")
            for r in result["rows"]]


def chunks_that_differ(device: torch.device, dtype: torch.dtype, hd: int, exact: bool,
                       T: int, H: int = 8, K: int = 2) -> list[int]:
    g = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, T, h, hd, generator=g).to(device, dtype) for h in (H, K, K))
    whole, bad = kernels.attend(q, k, v, Packing(1, T, device, torch.zeros(1, T, dtype=torch.long, device=device)), 0, exact), []
    config = Config(layers=1, heads=H, kv_heads=K, head_size=hd)
    for n in (1, 2, 7, 16, 64):
        cache, parts = KVCache(config, 1, pages_of(T), T, device, dtype), []
        cache.reserve(0, T)
        for at in range(0, T, n):
            new = slice(at, min(T, at + n))
            cache.write(0, k[:, new], v[:, new])
            parts.append(kernels.attend_cached(q[:, new], cache.pools[0], 0, 0, exact))
            cache.lengths += new.stop - new.start
        bad += [n] * (not torch.equal(torch.cat(parts, dim=1), whole))
    return bad

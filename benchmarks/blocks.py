"""Speed and memory of the kernels, block by block, and what the exact mode costs; bench.py calls these.

Every figure is the median of several turns: all candidates for the same work take one turn each, again and again, so a
machine whose speed drifts favours none. On a GPU the candidates are torch's attention back ends, FlexAttention and cuBLAS
against the Triton kernels; on a CPU, where there is nothing for Triton to compile to, torch against the exact form.
"""

import functools
import inspect
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import kernels
from benchmarks import tables
from engine.cache import KVCache, pages_of
from kernels import Packing
from model import Config, Transformer
from sampler import Sampler

HERE = Path(__file__).parent.parent
SMALL = dict(vocab_size=4096, layers=6, width=384, heads=6, kv_heads=2, ff=1024)                # for a CPU
LARGE = dict(vocab_size=32_768, layers=24, width=1024, heads=16, kv_heads=4, ff=2816)           # for a GPU


def clock(device, work):
    """Seconds that work() takes, the device's own work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def turns(device, work, count=5):
    """{name: function} -> {name: median milliseconds}, or a short reason where a candidate cannot do this. On a GPU a turn
    repeats its function until that takes about 20 ms, so that the launch of the first one hardly counts."""
    found, able, repeats = {}, {}, {}
    for name, f in work.items():
        try:
            f()                                                               # warm-up, compilation
            once = clock(device, f)
            able[name], repeats[name] = f, max(1, min(200, int(0.02 / max(once, 1e-6)))) if device.type == "cuda" else 1
        except Exception as e:                                                # a back end that cannot do this shape
            found[name] = f"{type(e).__name__}: {str(e)[:80]}"
    seconds = {name: [] for name in able}
    for i in range(count):
        for name in list(able)[::1 if i % 2 else -1]:
            def many(f=able[name], n=repeats[name]):
                for _ in range(n):
                    f()
            seconds[name].append(clock(device, many) / repeats[name])
    return {name: round(1e3 * statistics.median(s), 4) for name, s in seconds.items()} | found


def best(ms, *names):
    """The least of these that could run, or None."""
    return min((ms[n] for n in names if isinstance(ms.get(n), float)), default=None)


def row(block, case, ms, ours, others, **more):
    """One line of the result: milliseconds of each candidate, and how many times as fast as the best other one ours is."""
    other, own = best(ms, *others), best(ms, ours)
    found = {"block": block, "case": case, "ms": ms, "ours": ours, "ratio": round(other / own, 3) if other and own else None}
    print(*tables.block_lines({"rows": [found | more]}), sep="\n", file=sys.stderr, flush=True)      # a bench that is cut off
    return found | more                                   # has shown what it found


# attention

def sdpa_back_ends(device):
    from torch.nn.attention import SDPBackend
    names = {"flash": SDPBackend.FLASH_ATTENTION}
    if device.type == "cuda":
        names |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    return names


def attention_flops(lengths, H, hd):
    """Of the forward pass over causal documents of these lengths: two products of n (n + 1) / 2 pairs each."""
    return sum(4 * n * (n + 1) / 2 * H * hd for n in lengths)


def bench_attention(device, dtype, hd, T, tokens, H, K, mean=0, count=5):
    """Forward and backward over tokens / T rows of T; mean > 0: rows packed with documents of about that length."""
    B, g = max(1, tokens // T), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, T, h, hd, generator=g).to(device, dtype).requires_grad_() for h in (H, K, K))
    grad = torch.randn(B, T, H, hd, generator=g).to(device, dtype)
    starts = torch.rand(B, T, generator=g) < (1 / mean if mean else 0)
    new = torch.ones(B, T, dtype=torch.bool)
    new[:, 1:] = starts[:, 1:]
    ends = torch.cat([new.flatten().nonzero().flatten(), torch.tensor([B * T])])
    lengths = torch.diff(ends).tolist()
    # Documents in any case, as every trainer has them: without them attend takes torch's own attention.
    packing = Packing(B, T, device, starts.cumsum(1).to(device))

    def sdpa(back_end, mask):
        from torch.nn.attention import sdpa_kernel
        with sdpa_kernel(back_end):
            return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, is_causal=mask is None,
                                                  enable_gqa=H != K).transpose(1, 2)

    def flex():
        return compiled(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=block_mask, enable_gqa=H != K).transpose(1, 2)
    mask = packing.mask if mean else None
    forward = {"ours": lambda: kernels.attend(q, k, v, packing),
               "ours, exact": lambda: kernels.attend(q, k, v, packing, exact=True)}
    forward |= {f"sdpa {name}": functools.partial(sdpa, b, mask) for name, b in sdpa_back_ends(device).items()
                if not (mean and name == "flash" and device.type == "cuda")}  # which takes no mask
    if device.type == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask
        flat, compiled = packing.documents, flex_of_one_shape()

        def visible(b, h, i, j):
            return (i >= j) & (flat[b, i] == flat[b, j])
        block_mask = create_block_mask(visible, B, None, T, T, device=str(device))
        forward["flex"] = flex
        if varlen := varlen_of(ends.to(device, torch.int32), max(lengths), H != K):
            forward["varlen"] = lambda: varlen(*(x.flatten(0, 1) for x in (q, k, v))).view(q.shape)
    others, flops = [n for n in forward if not n.startswith("ours")], attention_flops(lengths, H, hd)
    case = f"{'packed, mean ' + str(mean) if mean else 'causal'}, head {hd}, {B} x {T}, {H}/{K} heads"

    with torch.no_grad():
        ms = turns(device, forward, count)
    rows = [row("attention, forward", case, ms, "ours", others, tflops=rate(flops, ms))]
    outputs = {name: f() for name, f in forward.items() if isinstance(ms[name], float)}
    back = turns(device, {name: functools.partial(torch.autograd.grad, out, (q, k, v), grad, retain_graph=True)
                          for name, out in outputs.items()}, count)
    return rows + [row("attention, backward", case, back, "ours", others, tflops=rate(2.5 * flops, back))]


def flex_of_one_shape():
    """FlexAttention compiled anew: from the second shape on the compiler would make it one for all shapes, which is slower."""
    from torch.nn.attention.flex_attention import flex_attention
    torch._dynamo.reset()
    return torch.compile(flex_attention, dynamic=False)


def varlen_of(ends, longest, grouped):
    """torch's attention over packed documents as a function of q, k and v (N, heads, hd); None where this version has none, or
    none for groups of heads. ends (documents + 1,) of int32: where they begin, and the end of the last."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    takes, how = inspect.signature(varlen_attn).parameters, {}
    how |= {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
    if grouped:
        if "enable_gqa" not in takes:
            return None
        how["enable_gqa"] = True
    return lambda q, k, v: varlen_attn(q, k, v, ends, ends, longest, longest, **how)


def rate(flops, ms):
    """{name: TFLOP/s}."""
    return {n: round(flops / t / 1e9, 2) for n, t in ms.items() if isinstance(t, float) and t > 0}


# products, norms, log-probabilities

def our_kernel(x, weight):
    """The row-invariant product by Triton, where the library agrees with it as well."""
    from kernels.gpu.linear import _by_triton
    return _by_triton(x, weight, None, x.dtype)


def bench_linear(device, dtype, K, N, sizes, count=5):
    weight, g = torch.randn(N, K, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    weight, rows = (weight / K ** 0.5).to(device, dtype), []
    for M in sizes:
        x = torch.randn(M, K, generator=g).to(device, dtype)
        with torch.no_grad():
            work = {"invariant": lambda x=x: kernels.project(x, weight, exact=True), "library": lambda x=x: F.linear(x, weight)}
            if device.type == "cuda":                     # which may have let the library take over
                work["our kernel"] = lambda x=x: our_kernel(x, weight)
            ms = turns(device, work, count)
        rows.append(row("product", f"{M} x {K} by {K} x {N}", ms, "invariant", ["library"], tflops=rate(2 * M * K * N, ms)))
    return rows


def bench_norm(device, dtype, M, D, count=5):
    x, w = torch.randn(M, D).to(device, dtype).requires_grad_(), torch.ones(D, device=device, dtype=dtype, requires_grad=True)
    g = torch.randn(M, D).to(device, dtype)
    work = {"ours": lambda: kernels.rms_norm(x, w, 1e-6).backward(g), "torch": lambda: F.rms_norm(x, (D,), w, 1e-6).backward(g)}
    return [row("RMSNorm, both ways", f"{M} x {D}", turns(device, work, count), "ours", ["torch"])]


def bench_logprob(device, dtype, N, D, V, count=3):
    """Forward and backward from hidden states to log-probabilities, in time and in memory beyond inputs and gradients."""
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(N, D, generator=g).to(device, dtype).requires_grad_()
    weight = (torch.randn(V, D, generator=g) / D ** 0.5).to(device, dtype).requires_grad_()
    targets = torch.randint(0, V, (N,), generator=g).to(device)

    def plain():
        F.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum").backward()
    work = {"ours": lambda: (-kernels.token_logprobs(hidden, weight, targets).sum()).backward(),
            "ours, exact": lambda: (-kernels.token_logprobs(hidden, weight, targets, exact=True).sum()).backward(),
            "logits, then cross entropy": plain}
    ms, extra = turns(device, work, count), {}
    if device.type == "cuda":
        for name, f in work.items():
            if isinstance(ms[name], float):
                hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                f()
                torch.cuda.synchronize()
                # what a backward pass must make in any case is one more gradient of each before it is added
                extra[name] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)
    return [row("log-probability, both ways", f"{N} x {D}, vocabulary {V}", ms, "ours", ["logits, then cross entropy"],
                extra_gb=extra)]


def bench_kernels(device, dtype, count, toy=False):
    """All blocks: {"rows": [...]}, see row."""
    rows = []
    if device.type == "cuda":
        for hd, H, K in ((64, 16, 16), (128, 8, 8)) if not toy else ((64, 4, 2),):
            for T in (2048, 4096, 16_384) if not toy else (512,):
                rows += bench_attention(device, dtype, hd, T, 16_384 if not toy else 512, H, K, count=count)
            rows += bench_attention(device, dtype, hd, 16_384 if not toy else 512, 16_384 if not toy else 512, H, K, 512, count)
        rows += bench_attention(device, dtype, 128, 4096, 16_384, 16, 4, count=count) if not toy else []
        for K, N in ((1024, 1024), (1024, 5632), (2048, 2048), (2048, 8192)) if not toy else ((256, 256),):
            rows += bench_linear(device, dtype, K, N, (1, 8, 16, 32, 64, 128, 256, 1024, 2048, 4096, 8192), count)
        rows += bench_norm(device, dtype, 16_384, 2048, count)
        rows += bench_logprob(device, dtype, 16_384, 2048, 128_256) if not toy else []
        rows += bench_logprob(device, dtype, 16_384 if not toy else 256, 1024, 32_768)
    else:
        size = 4 if not toy else 1
        rows += bench_attention(device, dtype, 64, 256 * size, 1024 * size, 6, 2, count=count)
        rows += bench_attention(device, dtype, 64, 256 * size, 1024 * size, 6, 2, 64 * size, count)
        for K, N in ((384, 384), (384, 1024), (1024, 384)) if not toy else ((64, 64),):
            rows += bench_linear(device, dtype, K, N, (1, 8, 32, 64, 128, 1024, 4096) if not toy else (1, 64), count)
        rows += bench_norm(device, dtype, 1024 * size, 384, count)
        rows += bench_logprob(device, dtype, 512 * size, 384, 4096)
    return {"rows": rows}


# what the exact mode costs

def bench_exact(device, dtype, count, toy=False):
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
    engines, rows = {exact: Sampler(model, rows=prompts, dtype=half, exact=exact) for exact in (False, True)}, []
    for name, work, case in (
        ("training step", lambda exact: training_step(model, optimizer, tokens, documents, dtype, exact), f"{B} x {T}, packed"),
        ("rollout", lambda exact: engines[exact].generate(texts, max_new_tokens=new, stop=set()),
         f"{prompts} rows, {new} new tokens each"),
    ):
        ms = turns(device, {"fast": functools.partial(work, False), "exact": functools.partial(work, True)}, count)
        rows.append(row(name, case, ms, "exact", ["fast"]))
    parameters = sum(w.numel() for w in model.parameters())
    return {"rows": rows + grpo_steps(device, dtype, shape, count, toy), "parameters": parameters}


def training_step(model, optimizer, tokens, documents, dtype, exact):
    model.exact = exact
    with torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32):
        loss = -model(tokens[:, :-1], documents, tokens[:, 1:]).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def grpo_steps(device, dtype, shape, count, toy):
    """Milliseconds of a GRPO step by grpo.py itself, two updates on each batch: exact, which takes the sampler's
    log-probabilities as they are, and fast, which computes pi_old by a pass of its own."""
    from tasks.world import World
    from tokenizer import Tokenizer
    world = World.from_spec("ops=2-4,split=rl")
    P, G, new = (2, 2, 8) if toy else (64, 8, 256) if device.type == "cuda" else (8, 8, 64)
    seconds, apart = {"fast, with recomputation": [], "exact": []}, {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer.train((f"{p.question}\n{p.solution}" for p in map(world.problem, range(300 if toy else 2000))), 512)
        torch.manual_seed(0)
        Transformer(Config(**shape | {"vocab_size": len(tokenizer)})).save(f"{folder}/model", tokenizer)
        for i in range(1 if toy else max(2, count // 3)):
            for name in list(seconds)[::1 if i % 2 else -1]:
                out = f"{folder}/{name}{i}"
                command = [sys.executable, HERE / "grpo.py", "--init", f"{folder}/model", "--out", out, "--mode", "plain",
                           "--data", "world:ops=2-4,split=rl", "--reward", "random", "--prompts", P, "--group", G, "--steps", 4,
                           "--max-new-tokens", new, "--rows", P * G, "--lr", 1e-6, "--updates", 2, "--device", device.type,
                           "--dtype", str(dtype).removeprefix("torch."), "--show-every", 0, *["--exact"] * (name == "exact")]
                subprocess.run(list(map(str, command)), check=True, capture_output=True)
                records = [json.loads(line) for line in Path(f"{out}/log.jsonl").read_text().splitlines()]
                records = [r for r in records if "reward" in r]
                seconds[name] += [r["seconds"] for r in records[1:]]          # the first one warms up
                apart[name] = max(r["logprob_diff_max"] for r in records)
    ms = {name: round(1e3 * statistics.median(s), 1) for name, s in seconds.items()}
    return [row("GRPO step", f"{P} x {G} x {new} tokens", ms, "exact", ["fast, with recomputation"], logprob_diff_max=apart)]


# does a row keep its bits?

ROWS = (1, 2, 3, 4, 7, 8, 16, 17, 31, 32, 33, 64, 65, 128, 256, 511, 1024)


def probe(device, dtype, toy=False):
    """Which blocks give a row the same bits in every batch here: {"rows": [{"block", "case", "differ"}]}, differ being the
    sizes of the batches in which some row has another bit than in a batch of 2,048 (for attention: the lengths of the
    chunks in which a document is computed, against all of it at once)."""
    rows, g = [], torch.Generator().manual_seed(0)

    def differ(block, case, f, x, sizes):
        whole = f(x)
        rows.append({"block": block, "case": case, "differ": [n for n in sizes if not torch.equal(f(x[:n]), whole[:n])]})
    with torch.no_grad():
        products = {"library": F.linear, "invariant": functools.partial(kernels.project, exact=True)}
        if device.type == "cuda":                         # in this order: from the second on the library may not split K
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


def chunks_that_differ(device, dtype, hd, exact, T, H=8, K=2):
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
            parts.append(kernels.attend_cached(q[:, new], cache, 0, 0, exact))
            cache.lengths += new.stop - new.start
        bad += [n] * (not torch.equal(torch.cat(parts, dim=1), whole))
    return bad

"""What only many tokens or a large model can show; bench.py calls these. Bits over a million tokens, and over all shapes;
pre-training at 120M to 1.2B weights, with its share of the device's peak and where the rest goes; the largest model that
trains.

Sized for a few minutes each on a large GPU. On a CPU the models are small, only to see that it works.
"""

import itertools
import random
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import plan
from benchmarks.blocks import clock, training_step
from benchmarks.peers import QWEN, SHAPE, in_turns, pair, rows_of_one_document
from model import Config, Transformer
from rl.batches import pack
from sampler import Sampler

VOCABULARY = 32_768
SIZES = {"120M": dict(layers=12, width=768, heads=12, kv_heads=12, ff=2048),
         "500M": dict(layers=24, width=1280, heads=20, kv_heads=20, ff=3456),
         "1.2B": dict(layers=24, width=2048, heads=16, kv_heads=8, ff=5632)}


# bits

def bench_bits(device, dtype, wanted=1_000_000, toy=False):
    """How many sampled tokens have another log-probability in the trainer's packed forward pass: {"rows": [...]}. Ragged prompts
    that 1 to 4 samples share, rows refilled as others end, prompts prefilled in pieces, a pool too small for all rows, and
    every few steps new weights, with which the keys are computed again. For contrast a tenth as many in fast mode."""
    gpu, wanted = device.type == "cuda", 2000 if toy else wanted
    torch.manual_seed(0)
    model = Transformer(Config(**QWEN if gpu and not toy else SHAPE)).to(device)
    with torch.no_grad():                                 # else all tokens are about as likely
        for w in model.layers.parameters():
            w.mul_(4 if w.ndim == 2 else 1)
        model.norm.weight.mul_(6)
    versions = [{k: w.clone() for k, w in model.state_dict().items()}]
    versions.append({k: w * (1 + 0.02 * torch.randn_like(w)) for k, w in versions[0].items()})
    found = []
    for exact, temperature, share in ((True, 1.0, 0.5), (True, 0.7, 0.5), (False, 1.0, 0.1)):
        size = (256, 1024, 97) if gpu and not toy else (16, 128, 7)
        found.append(_bits(model, versions, dtype, exact, temperature, int(share * wanted), *size))
        print(bits_line(found[-1]), file=sys.stderr, flush=True)
    return {"rows": found, "parameters": sum(w.numel() for w in model.parameters())}


def _bits(model, versions, dtype, exact, temperature, wanted, rows, longest=128, every=7):
    """One row of bench_bits: about `wanted` tokens, sampled with `rows` rows and read by the trainer. A prompt has up to half of
    `longest` tokens, a completion up to all of them; new weights come `every` so many steps."""
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
    done, was, model.exact = [SimpleNamespace(completion=r.completion, reward=0.0) for r in requests], model.exact, exact
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


def bench_shapes(device, dtype, wanted=100_000, toy=False):
    """The same for shapes that no tile divides, in exact mode: every even head size from 2 to 128 with groups of 1 to 8 query
    heads for a key head, odd widths, vocabularies and feed-forwards, the options of all families in turn: {"rows": [...]}, one
    for each head size."""
    found, dice, each = [], random.Random(0), 10 if toy else -(-wanted // (64 * 8))
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
        found.append({"head_size": hd, "groups": [1, 3] if toy else [1, 8], "widths": widths}
                     | {k: sum(r[k] for r in parts) for k in ("tokens", "differ", "updates", "preempted")}
                     | {"greatest": max(r["greatest"] for r in parts), "seconds": round(sum(r["seconds"] for r in parts), 1)})
        print("head size {head_size:>3}: {differ} of {tokens} tokens differ".format(**found[-1]), file=sys.stderr, flush=True)
    return {"rows": found, "tokens": sum(r["tokens"] for r in found), "differ": sum(r["differ"] for r in found)}


# pre-training

def peak(device, dtype):
    """FLOP/s of a plain product of large square matrices."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    F.linear(a, b)
    return 2 * n ** 3 / min(clock(device, lambda: F.linear(a, b)) for _ in range(10))


def bench_pretrain(device, dtype, count, sizes=(), toy=False):
    """Training steps against Hugging Face's model, for each size and length: {"rows": [...], "peak_tflops"}; see _pretrain."""
    found, most = [], peak(device, dtype)
    for name in sizes or SIZES:
        shape = SHAPE if toy else dict(vocab_size=VOCABULARY, **SIZES[name])
        for T in (64,) if toy else (2048, 4096):
            found.append({"size": name} | _pretrain(device, dtype, count, shape, T, 128 if toy else 16_384, most))
            print(pretrain_line(found[-1]), file=sys.stderr, flush=True)
    return {"rows": found, "peak_tflops": round(most / 1e12, 2)}


def _pretrain(device, dtype, count, shape, T, batch, most):
    """Steps on `batch` tokens in `dtype` over float32 weights with AdamW, our layers compiled on a GPU, theirs with SDPA and
    compiled whole: tokens/s; the share of the peak by the usual convention (6 N + 12 L H hd T for a token), and counting of the
    pairs only those that causal attention computes; the share of each group of kernels."""
    ours, theirs = pair(device, torch.float32, shape)
    tokens = torch.randint(0, shape["vocab_size"], (batch // T, T + 1), generator=torch.Generator().manual_seed(1)).to(device)
    mine, other = (torch.optim.AdamW(m.parameters(), lr=1e-5, fused=True) for m in (ours, theirs))
    parameters, compiled = sum(w.numel() for w in ours.parameters()), theirs
    if device.type == "cuda":
        torch._dynamo.reset()
        compiled = torch.compile(theirs)
        for layer in ours.layers:
            layer.compile()

    def step():
        training_step(ours, mine, tokens, rows_of_one_document(tokens), dtype, False)

    def their_step():
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = compiled(input_ids=tokens, labels=tokens).loss
        loss.backward()
        other.step()
        other.zero_grad(set_to_none=True)
    result = in_turns(device, count, {"ours": lambda: [step() for _ in range(5)],
                                      "hugging face": lambda: [their_step() for _ in range(5)]}, 5 * batch)
    rate, c = result["tokens_per_second"]["ours"], ours.config
    usual, unseen = ours.flops_per_token(T), 12 * c.layers * c.heads * c.head_size * (T - 1) / 2
    return {"shape": f"{batch // T} x {T}", "parameters": parameters, "share_of_peak": round(rate * usual / most, 4),
            "true_share": round(rate * (usual - unseen) / most, 4), "groups": by_group(device, step)} | result


def bits_line(r):
    return (f"{r['mode']}, temperature {r['temperature']}: of {r['tokens']:,} tokens (log-probability {r['logprob']:.2f} in "
            f"the mean) {r['differ']:,} differ, by at most {r['greatest']:.2g} and {r['mean']:.2g} in the mean; {r['updates']} "
            f"times new weights, {r['preempted']} rows gave way, {r['prefills']} prompts; {r['seconds']:.0f} s")


def largest_line(r):
    return (f"{r['layers']} layers, {r['parameters'] / 1e9:.2f}B weights: predicted {r['predicted_gb']} GB, "
            + (f"measured {r['measured_gb']} GB" if r["fits"] else "out of memory"))


def pretrain_line(r):
    speeds, ratio = r["tokens_per_second"], r["ratios"].get("hugging face")
    groups = ", ".join(f"{name} {share:.0%}" for name, share in r["groups"].items())
    other = f"{speeds['hugging face']:,.0f}, ours over it {ratio[0]:.2f}" if ratio else speeds["hugging face"]
    return (f"{r['size']} {r['shape']}: {speeds['ours']:,.0f} tokens/s, {r['share_of_peak']:.1%} of the peak "
            f"(true: {r['true_share']:.1%}); Hugging Face {other}; {groups}")


GROUPS = (("products", r"gemm|gemv|cutlass|nvjet|cublas|_linear|aten::(mm|addmm|bmm)|mkldnn|onednn"),
          ("attention", r"attend|attention|flash|fmha|sdpa"), ("log-probability", r"logprob|row_forward|row_backward"),
          ("norms and positions", r"norm|rope|rotat"), ("activation", r"silu|swiglu"),
          ("optimiser", r"adam|multi_tensor|foreach"), ("copies and casts", r"memcpy|memset|copy|cast|_to_"))


def by_group(device, work, steps=3):
    """{group of kernels: share of the device's time in these steps}; GROUPS are tried in order."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as p:
        for _ in range(steps):
            work()
        clock(device, lambda: None)
    total = {}
    for e in p.key_averages():
        if device.type == "cuda" and e.device_type != torch.autograd.DeviceType.CUDA:
            continue
        group = next((name for name, pattern in GROUPS if re.search(pattern, e.key, re.I)), "the rest")
        total[group] = total.get(group, 0) + (e.self_device_time_total if device.type == "cuda" else e.self_cpu_time_total)
    return {name: round(t / sum(total.values()), 4) for name, t in sorted(total.items(), key=lambda x: -x[1])}


# the largest model

WIDE = dict(vocab_size=VOCABULARY, width=4096, heads=32, kv_heads=8, ff=14_336)


def trial(layers, T=4096, shape=WIDE, device="cuda"):
    """Two training steps of one row in bfloat16 over float32 weights, with AdamW and activations recomputed -> peak bytes."""
    device = torch.device(device)
    with device:
        model = Transformer(Config(layers=layers, **shape))
    model.checkpointing = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(0, shape["vocab_size"], (1, T + 1), device=device)
    for _ in range(2):
        training_step(model, optimizer, tokens, rows_of_one_document(tokens), torch.bfloat16, False)
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def bench_largest(device, T=4096):
    """The most layers of width 4096 that train on this one GPU, by bisection, each trial in a process of its own; beside each
    the memory that benchmarks/plan.py predicts: {"rows": [...], "largest", "predicted"}."""
    if device.type != "cuda":
        raise ValueError("largest needs a GPU (--device cuda): it fills the device's memory")
    room = torch.cuda.mem_get_info(device)[0]

    def predicted(layers):
        c = Config(layers=layers, **WIDE)
        load = plan.Load(1, 1, 0, 0, 0, rows=0, micro_tokens=T, shard=False)
        return plan.weights_of(c), plan.memory(c, plan.weights_of(c), load, 1)["learner"]
    guess = max(n for n in range(1, 200) if predicted(n)[1] <= room)
    low, high, found = 0, None, []                        # low trains, high does not
    layers = guess
    while high is None or high - low > 1:
        done = subprocess.run([sys.executable, "-c", f"from benchmarks import large; print(large.trial({layers}, {T}))"],
                              capture_output=True, text=True, cwd=plan.HERE)
        fits = done.returncode == 0
        if not fits and "OutOfMemoryError" not in done.stderr:
            raise ValueError(f"{layers} layers: {done.stderr.strip().splitlines()[-1]}")
        N, bytes_of = predicted(layers)
        found.append({"layers": layers, "parameters": N, "fits": fits, "predicted_gb": round(bytes_of / 1e9, 2),
                      "measured_gb": round(int(done.stdout) / 1e9, 2) if fits else None})
        print(largest_line(found[-1]), file=sys.stderr, flush=True)
        low, high = (layers, high) if fits else (low, layers)
        layers = layers + 1 if high is None else (low + high) // 2 if low else max(1, layers - 1)
        if layers in (low, high):
            break
    return {"rows": found, "room_gb": round(room / 1e9, 2), "T": T,
            "largest": max((r["parameters"] for r in found if r["fits"]), default=0), "predicted": predicted(guess)[0]}

"""Measures large models: pre-training with 120M to 1.2B weights, and the largest model that trains on a GPU.

bench.py pretrain and largest run these. Each takes a few minutes on a large GPU. On a CPU the models are small, only to test
that everything works. Pre-training has its share of the device's peak, and what takes the rest of the time.
"""

import re
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import plan
from benchmarks.peers import SHAPE, pair
from benchmarks.timing import clock, in_turns, rows_of_one_document, training_step
from model import Config, Transformer

VOCABULARY = 32_768
SIZES = {"120M": dict(layers=12, width=768, heads=12, kv_heads=12, ff=2048),
         "500M": dict(layers=24, width=1280, heads=20, kv_heads=20, ff=3456),
         "1.2B": dict(layers=24, width=2048, heads=16, kv_heads=8, ff=5632)}


# pre-training

def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a plain product of large square matrices."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    F.linear(a, b)
    return 2 * n ** 3 / min(clock(device, lambda: F.linear(a, b)) for _ in range(10))


def bench_pretrain(device: torch.device, dtype: torch.dtype, count: int, rows: list,
                   sizes: tuple = (), toy: bool = False) -> dict:
    """Training steps of ours and of Hugging Face's model, for each size and length: {"rows": [...], "peak_tflops"}."""
    most = peak(device, dtype)
    for name in sizes or SIZES:
        shape = SHAPE if toy else dict(vocab_size=VOCABULARY, **SIZES[name])
        for T in (64,) if toy else (2048, 4096):
            rows.append({"size": name} | _pretrain(device, dtype, count, shape, T, 128 if toy else 16_384, most))
            print(pretrain_line(rows[-1]), file=sys.stderr, flush=True)
    return {"rows": rows, "peak_tflops": round(most / 1e12, 2)}


def _pretrain(device, dtype, count, shape, T, batch, most):
    """One row of bench_pretrain. A step is on `batch` tokens in `dtype`, with float32 weights and AdamW. On a GPU our layers are
    compiled one by one, and theirs is compiled as one program, with SDPA. The row has:

    - tokens/s;
    - share_of_peak, by the usual convention of 6 N + 12 L H hd T FLOPs per token;
    - true_share, which counts only the pairs that causal attention computes;
    - groups: the share of time of each group of kernels."""
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


def largest_line(r: dict) -> str:
    return (f"{r['layers']} layers, {r['parameters'] / 1e9:.2f}B weights: predicted {r['predicted_gb']} GB, "
            + (f"measured {r['measured_gb']} GB" if r["fits"] else "out of memory"))


def pretrain_line(r: dict) -> str:
    speeds, ratio = r["tokens_per_second"], r["ratios"].get("hugging face")
    groups = ", ".join(f"{name} {share:.0%}" for name, share in r["groups"].items())
    other = f"{speeds['hugging face']:,.0f}, ours over it {ratio[0]:.2f}" if ratio else speeds["hugging face"]
    return (f"{r['size']} {r['shape']}: {speeds['ours']:,.0f} tokens/s, {r['share_of_peak']:.1%} of the peak "
            f"(true: {r['true_share']:.1%}); Hugging Face {other}; {groups}")


GROUPS = (("products", r"gemm|gemv|cutlass|nvjet|cublas|_linear|aten::(mm|addmm|bmm)|mkldnn|onednn"),
          ("attention", r"attend|attention|flash|fmha|sdpa"), ("log-probability", r"logprob|row_forward|row_backward"),
          ("norms and positions", r"norm|rope|rotat"), ("activation", r"silu|swiglu"),
          ("optimiser", r"adam|multi_tensor|foreach"), ("copies and casts", r"memcpy|memset|copy|cast|_to_"))


def by_group(device: torch.device, work: Callable, steps: int = 3) -> dict:
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


def trial(layers: int, T: int = 4096, shape: dict = WIDE, device: str = "cuda") -> int:
    """Peak memory, bytes, of two training steps of one row: bfloat16, float32 weights, AdamW, activations recomputed."""
    device = torch.device(device)
    with device:
        model = Transformer(Config(layers=layers, **shape))
    model.checkpointing = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(0, shape["vocab_size"], (1, T + 1), device=device)
    for _ in range(2):
        training_step(model, optimizer, tokens, rows_of_one_document(tokens), torch.bfloat16, False)
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def bench_largest(device: torch.device, rows: list, T: int = 4096) -> dict:
    """How many layers of width 4096 can be trained on this GPU, found by bisection: {"rows": [...], "largest", "predicted"}.
    Each trial is a new process. A row also has the memory that benchmarks/plan.py predicts."""
    if device.type != "cuda":
        raise ValueError("largest needs a GPU (--device cuda): it fills the device's memory")
    room = torch.cuda.mem_get_info(device)[0]

    def predicted(layers):
        c = Config(layers=layers, **WIDE)
        load = plan.Load(1, 1, 0, 0, 0, rows=0, micro_tokens=T, shard=False)
        return plan.weights_of(c), plan.memory(c, plan.weights_of(c), load, 1)["learner"]
    guess = max(n for n in range(1, 200) if predicted(n)[1] <= room)
    low, high = 0, None                                   # low trains, high does not
    layers = guess
    while high is None or high - low > 1:
        done = subprocess.run([sys.executable, "-c", f"from benchmarks import large; print(large.trial({layers}, {T}))"],
                              capture_output=True, text=True, cwd=plan.HERE)
        fits = done.returncode == 0
        if not fits and "OutOfMemoryError" not in done.stderr:
            raise ValueError(f"{layers} layers: {done.stderr.strip().splitlines()[-1]}")
        N, bytes_of = predicted(layers)
        rows.append({"layers": layers, "parameters": N, "fits": fits, "predicted_gb": round(bytes_of / 1e9, 2),
                      "measured_gb": round(int(done.stdout) / 1e9, 2) if fits else None})
        print(largest_line(rows[-1]), file=sys.stderr, flush=True)
        low, high = (layers, high) if fits else (low, layers)
        layers = layers + 1 if high is None else (low + high) // 2 if low else max(1, layers - 1)
        if layers in (low, high):
            break
    return {"rows": rows, "room_gb": round(room / 1e9, 2), "T": T,
            "largest": max((r["parameters"] for r in rows if r["fits"]), default=0), "predicted": predicted(guess)[0]}

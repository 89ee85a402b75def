"""Measures speed and memory of the kernels, block by block; bench.py kernels runs this.

Every number is the median of several rounds (timing.py). On a GPU the Triton kernels are compared with torch's attention back
ends, FlexAttention and cuBLAS. On a CPU, where Triton cannot run, torch is compared with the exact mode.
"""

import functools
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F

import kernels
from benchmarks.timing import row, turns
from kernels import Packing

# attention

def sdpa_back_ends(device: torch.device) -> dict:
    from torch.nn.attention import SDPBackend
    names = {"flash": SDPBackend.FLASH_ATTENTION}
    if device.type == "cuda":
        names |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    return names


def attention_flops(lengths: list[int], H: int, hd: int) -> float:
    """FLOPs of the forward pass over causal documents of these lengths: two products of n (n + 1) / 2 pairs each."""
    return sum(4 * n * (n + 1) / 2 * H * hd for n in lengths)


def bench_attention(device: torch.device, dtype: torch.dtype, hd: int, T: int, tokens: int,
                    H: int, K: int, mean: int = 0, count: int = 5) -> list[dict]:
    """Forward and backward over tokens / T rows of T; mean > 0: rows packed with documents of about that length."""
    B, g = max(1, tokens // T), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, T, h, hd, generator=g).to(device, dtype).requires_grad_() for h in (H, K, K))
    grad = torch.randn(B, T, H, hd, generator=g).to(device, dtype)
    starts = torch.rand(B, T, generator=g) < (1 / mean if mean else 0)
    new = torch.ones(B, T, dtype=torch.bool)
    new[:, 1:] = starts[:, 1:]
    ends = torch.cat([new.flatten().nonzero().flatten(), torch.tensor([B * T])])
    lengths = torch.diff(ends).tolist()
    # Always with document numbers, as in every trainer: without them attend calls torch's attention.
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


def flex_of_one_shape() -> Callable:
    """FlexAttention, compiled again: at a second shape the compiler would make one program for all shapes, which is slower."""
    from torch.nn.attention.flex_attention import flex_attention
    torch._dynamo.reset()
    return torch.compile(flex_attention, dynamic=False)


def varlen_of(ends: torch.Tensor, longest: int, grouped: bool) -> Callable | None:
    """torch's attention over packed documents, as a function of q, k and v (N, heads, hd). None if this version of torch does
    not have it, or not for groups of heads. ends (documents + 1,) of int32: where each begins, and where the last one ends."""
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


def rate(flops: float, ms: dict) -> dict:
    """{name: TFLOP/s}."""
    return {n: round(flops / t / 1e9, 2) for n, t in ms.items() if isinstance(t, float) and t > 0}


# products, norms, log-probabilities

def our_kernel(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The row-invariant product by Triton, also for shapes for which the library would be called."""
    from kernels.gpu.linear import _by_triton
    return _by_triton(x, weight, None, x.dtype)


def bench_linear(device: torch.device, dtype: torch.dtype, K: int, N: int, sizes: tuple[int, ...], count: int = 5) -> list[dict]:
    weight, g = torch.randn(N, K, generator=torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2)
    weight, rows = (weight / K ** 0.5).to(device, dtype), []
    for M in sizes:
        x = torch.randn(M, K, generator=g).to(device, dtype)
        with torch.no_grad():
            work = {"invariant": lambda x=x: kernels.project(x, weight, exact=True), "library": lambda x=x: F.linear(x, weight)}
            if device.type == "cuda":                     # "invariant" may have called the library instead
                work["our kernel"] = lambda x=x: our_kernel(x, weight)
            ms = turns(device, work, count)
        rows.append(row("product", f"{M} x {K} by {K} x {N}", ms, "invariant", ["library"], tflops=rate(2 * M * K * N, ms)))
    return rows


def bench_norm(device: torch.device, dtype: torch.dtype, M: int, D: int, count: int = 5) -> list[dict]:
    x, w = torch.randn(M, D).to(device, dtype).requires_grad_(), torch.ones(D, device=device, dtype=dtype, requires_grad=True)
    g = torch.randn(M, D).to(device, dtype)
    work = {"ours": lambda: kernels.rms_norm(x, w, 1e-6).backward(g), "torch": lambda: F.rms_norm(x, (D,), w, 1e-6).backward(g)}
    return [row("RMSNorm, both ways", f"{M} x {D}", turns(device, work, count), "ours", ["torch"])]


def bench_logprob(device: torch.device, dtype: torch.dtype, N: int, D: int, V: int, count: int = 3) -> list[dict]:
    """Forward and backward from hidden states to log-probabilities: time, and memory beyond inputs and gradients."""
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
                # every backward pass has to make one more gradient of each, before it adds it to the first
                extra[name] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)
    return [row("log-probability, both ways", f"{N} x {D}, vocabulary {V}", ms, "ours", ["logits, then cross entropy"],
                extra_gb=extra)]


def bench_kernels(device: torch.device, dtype: torch.dtype, count: int, rows: list, toy: bool = False) -> dict:
    """All blocks: {"rows"}; see timing.row."""
    if device.type == "cuda":
        for hd, H, K in ((64, 16, 16), (128, 8, 8)) if not toy else ((64, 4, 2),):
            for T in (2048, 4096, 16_384) if not toy else (512,):
                rows.extend(bench_attention(device, dtype, hd, T, 16_384 if not toy else 512, H, K, count=count))
            most = 16_384 if not toy else 512
            rows.extend(bench_attention(device, dtype, hd, most, most, H, K, 512, count))
        rows.extend(bench_attention(device, dtype, 128, 4096, 16_384, 16, 4, count=count) if not toy else [])
        for K, N in ((1024, 1024), (1024, 5632), (2048, 2048), (2048, 8192)) if not toy else ((256, 256),):
            rows.extend(bench_linear(device, dtype, K, N, (1, 8, 16, 32, 64, 128, 256, 1024, 2048, 4096, 8192), count))
        rows.extend(bench_norm(device, dtype, 16_384, 2048, count))
        rows.extend(bench_logprob(device, dtype, 16_384, 2048, 128_256) if not toy else [])
        rows.extend(bench_logprob(device, dtype, 16_384 if not toy else 256, 1024, 32_768))
    else:
        size = 4 if not toy else 1
        rows.extend(bench_attention(device, dtype, 64, 256 * size, 1024 * size, 6, 2, count=count))
        rows.extend(bench_attention(device, dtype, 64, 256 * size, 1024 * size, 6, 2, 64 * size, count))
        for K, N in ((384, 384), (384, 1024), (1024, 384)) if not toy else ((64, 64),):
            rows.extend(bench_linear(device, dtype, K, N, (1, 8, 32, 64, 128, 1024, 4096) if not toy else (1, 64), count))
        rows.extend(bench_norm(device, dtype, 1024 * size, 384, count))
        rows.extend(bench_logprob(device, dtype, 512 * size, 384, 4096))
    return {"rows": rows}

"""Log-probability of each target and the entropy, from the last hidden states, without all logits in memory at the same time.

Logits (N, V) are the largest tensor of training: for 16k tokens and 128k words they take 4 GB in bfloat16. Here only a part of
them exists at a time (the idea of Cut Cross-Entropy, arXiv 2411.09009, and of Liger Kernel). The library's matrix product makes
the logits of a part, and a kernel with one program for each row reads them once. The backward pass makes them again.

- In the forward pass a part is some of the rows, because a softmax needs complete rows.
- In the backward pass the log-sum-exp of each row is known, so a part is some of the words of the *vocabulary*. Each part gives
  its rows of the weight's gradient by one product over all tokens, which is rounded once. Only the gradient of the hidden states
  is added up over the parts. It is kept in float32, and is much smaller than that of the weight.

The bits of a row depend only on its logits: there is one program, with a fixed block and fixed warps, and it reads the vocabulary
from the first word to the last. So they depend only on its hidden state if `product` is row-invariant. A sampler that must get
the same bits calls `row_logprobs` with the same temperature. If it divided the logits itself, they could be rounded differently.

Simpler than the best kernels: Cut Cross-Entropy computes product and softmax in one kernel, and skips blocks whose gradient is
negligible.
"""

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fast import exclude
from .norm import aligned

LOGITS = 2 ** 26         # logits of a part: 256 MB of float32, 128 MB of bfloat16
BLOCK, WARPS = 4096, 8   # words of the vocabulary in a step of a program; 16 words for each thread


@triton.jit
def _row_forward(logits, targets, logprobs, entropies, lses, scale, V: tl.constexpr, BLOCK: tl.constexpr):
    """One row of z = logits * scale. With the running maximum m: total = sum e^(z-m), moment = sum (z-m) e^(z-m)."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    i = tl.arange(0, BLOCK)
    m = tl.full((), -1e30, tl.float32)                   # finite: (-inf) - (-inf) would be NaN
    total = tl.zeros((BLOCK,), tl.float32)               # one sum for each place in the block; they are added at the end
    moment = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        z = tl.load(logits + row * V + start + i, mask=start + i < V, other=float("-inf")).to(tl.float32) * scale
        new = tl.maximum(m, tl.max(z, axis=0))
        e = tl.exp(z - new)
        shrink = tl.exp(m - new)
        moment = shrink * (moment + (m - new) * total) + e * tl.where(e == 0.0, 0.0, z - new)    # not 0 * inf
        total = shrink * total + e
        m = new
    sum_e = tl.sum(total, axis=0)
    log_sum = tl.log(sum_e)
    z = tl.load(logits + row * V + target, mask=(target >= 0) & (target < V), other=float("nan")).to(tl.float32) * scale
    ignored = target < 0
    tl.store(logprobs + row, tl.where(ignored, 0.0, (z - m) - log_sum))
    tl.store(entropies + row, tl.where(ignored, 0.0, log_sum - tl.sum(moment, axis=0) / sum_e))
    tl.store(lses + row, m + log_sum)


@triton.jit(do_not_specialize=["first"])
def _row_backward(logits, targets, entropies, lses, g, e, out, scale, first, W, BLOCK: tl.constexpr):
    """A block of one row of logits (N, W), which are those of the words first, ..., first + W - 1. The gradients:
    d logprob = onehot - p, and d entropy = -p (log p + H)."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    z = tl.load(logits + row * W + i, mask=i < W, other=0.0).to(tl.float32) * scale
    target = tl.load(targets + row)
    logp = z - tl.load(lses + row)
    p = tl.exp(logp)
    d = tl.load(g + row) * (tl.where(i == target - first, 1.0, 0.0) - p)
    surprise = p * tl.where(p == 0.0, 0.0, logp + tl.load(entropies + row))
    d = tl.where(target < 0, 0.0, (d - tl.load(e + row) * surprise) * scale)
    tl.store(out + row * W + i, d.to(out.dtype.element_ty), mask=i < W)


@torch.library.custom_op("nanothink::row_logprobs", mutates_args=(),
                         schema="(Tensor logits, Tensor targets, float temperature) -> (Tensor, Tensor, Tensor)")
def _row_logprobs(logits, targets, temperature):
    (N, V), results = logits.shape, tuple(logits.new_empty(len(logits), dtype=torch.float32) for _ in range(3))
    if N:
        _row_forward[(N,)](aligned(logits), targets.contiguous(), *results, 1.0 / temperature, V,
                           min(BLOCK, triton.next_power_of_2(V)), num_warps=WARPS)
    return results


@torch.library.custom_op("nanothink::row_logprobs_backward", mutates_args=(), schema="(Tensor logits, Tensor targets, "
                         "Tensor entropies, Tensor lses, Tensor g, Tensor e, float temperature, int first, "
                         "ScalarType dtype) -> Tensor")
def _row_logprobs_backward(logits, targets, entropies, lses, g, e, temperature, first, dtype):
    (N, W), out = logits.shape, logits.new_empty(logits.shape, dtype=dtype)
    if out.numel():
        block = min(BLOCK, triton.next_power_of_2(W))
        _row_backward[(N, triton.cdiv(W, block))](
            logits.contiguous(), targets.contiguous(), entropies, lses, g.float().contiguous(), e.float().contiguous(),
            out, 1.0 / temperature, first, W, block, num_warps=WARPS)
    return out


_row_logprobs.register_fake(lambda logits, targets, temperature: tuple(
    logits.new_empty(logits.shape[0], dtype=torch.float32) for _ in range(3)))
_row_logprobs_backward.register_fake(lambda logits, targets, entropies, lses, g, e, temperature, first, dtype:
                                     logits.new_empty(logits.shape, dtype=dtype))


def _save(ctx, inputs, output):
    logits, targets, ctx.temperature = inputs
    _, entropies, lses = output
    ctx.mark_non_differentiable(lses)
    ctx.save_for_backward(logits, targets, entropies, lses)


def _backward(ctx, g, e, _):
    logits, *rest = ctx.saved_tensors
    return _row_logprobs_backward(logits, *rest, g, e, ctx.temperature, 0, logits.dtype), None, None


_row_logprobs.register_autograd(_backward, setup_context=_save)


def row_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """logits (N, V), targets (N,) -> log-probabilities of the targets (N,), entropies (N,) and log-sum-exps (N,) of
    softmax(logits / temperature), float32. A negative target is ignored: its log-probability and entropy are 0."""
    return _row_logprobs(logits, targets, temperature)


def _by_library(h, weight):
    return h @ weight.T


def _mm(a, b, dtype):
    """a @ b with a result of type `dtype`. On a GPU a product of bfloat16 or float16 with a float32 result is not rounded to the
    smaller type first."""
    return torch.mm(a, b, out_dtype=dtype) if a.is_cuda and a.dtype != dtype else (a @ b).to(dtype)


class _TokenLogprobs(torch.autograd.Function):
    """Not a custom operator of torch, because `product` is a Python function."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, product, unused_ids):
        V, w = weight.shape[0], weight.to(hidden.dtype)
        rows = max(1, LOGITS // V)
        rows -= rows % 128 if rows > 128 else 0                               # whole tiles
        parts = [_row_logprobs(exclude(product(h, w), unused_ids), t, temperature)
                 for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)]
        logprobs, entropies, lses = (torch.cat(results) for results in zip(*parts, strict=True))
        ctx.temperature, ctx.product, ctx.unused_ids = temperature, product, unused_ids
        ctx.save_for_backward(hidden, weight, targets, entropies, lses)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, g, e):
        hidden, weight, targets, entropies, lses = ctx.saved_tensors
        (N, _), V, w = hidden.shape, weight.shape[0], weight.to(hidden.dtype)
        # Half as many logits as in the forward pass, because there is a gradient for each of them; at least 128 words.
        width = max(128, LOGITS // 2 // max(N, 1) // 128 * 128)
        d_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        d_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for first in range(0, V, width):
            words = w[first:first + width]
            logits = exclude(ctx.product(hidden, words), ctx.unused_ids, first)
            d = _row_logprobs_backward(logits, targets, entropies, lses, g, e, ctx.temperature,
                                       first, hidden.dtype)                   # (N, words)
            del logits                                    # not needed any more, and large
            if d_hidden is not None:
                d_hidden += _mm(d, words, torch.float32)
            if d_weight is not None:
                d_weight[first:first + width] = _mm(d.T, hidden, weight.dtype)
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, None, None, None, None


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, entropy: bool = False,
                   product: Callable | None = None, ignore: int = -100,
                   unused_ids: Sequence[tuple[int, int]] = ()) -> Tensor | tuple[Tensor, Tensor]:
    """Log softmax(hidden @ weight.T / temperature) at the targets: hidden (N, D), weight (V, D), targets (N,) -> (N,) of float32.
    With entropy=True a pair: also the entropy of the distribution at each position (N,), in nats.

    - product(h, weight): makes the logits of some rows or some words. None: the library's product, in the type of hidden
    - ignore: where the target has this value, the results are 0 and have no gradient
    - unused_ids: words that have probability 0 (fast.exclude)

    Under autocast, hidden and weight are converted to its type."""
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    logprobs, entropies = _TokenLogprobs.apply(hidden, weight, targets.masked_fill(targets == ignore, -1), temperature,
                                               product or _by_library, unused_ids)
    return (logprobs, entropies) if entropy else logprobs

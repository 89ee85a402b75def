"""RMSNorm (arXiv 1910.07467), with the residual sum before it, and QK-norm with rotary embedding after it, in Triton.

Each is one pass over memory; plain PyTorch needs several. The bits of a row depend only on this row: one program holds a complete
row (for heads: a complete token), and its block and warps follow only from the size of the row. So the mean of squares is added
up in the same order for any number of rows. Values are rounded where the plain form in fast.py rounds them.

In the backward pass a fixed number of programs share the rows. Each adds up its part of the weight's gradient, and these parts
are then added. So there are no atomic additions, and the result is the same every time. The norm is computed again from its
input, because this costs less than keeping it.

Simpler than the best kernels: a row must fit into the registers of one program, so D can be at most some ten thousand.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 256           # programs that share the rows in the backward pass; about two for each multiprocessor


def aligned(x: Tensor) -> Tensor:
    """x itself if it is contiguous and begins at a multiple of 16 bytes, else a copy that does.

    For another alignment the compiler makes other code, which may add in another order."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _warps(elements):
    """The number of warps of a program with so many elements: about 8 elements for each thread."""
    return min(max(elements // 256, 1), 8)


@triton.jit
def _norm_forward(x, residual, weight, y, s, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    """One row: s = x + residual (or only x), y = norm(s)."""
    i = tl.arange(0, BLOCK)
    inside = i < D
    at = tl.program_id(0).to(tl.int64) * D + i
    v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        v += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        rounded = v.to(s.dtype.element_ty)                                    # the norm sees what the next layer sees
        tl.store(s + at, rounded, mask=inside)
        v = rounded.to(tl.float32)
    r = tl.rsqrt(tl.sum(v * v, axis=0) / D + eps)
    n = (v * r).to(y.dtype.element_ty).to(tl.float32)
    w = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, (n * w).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _norm_backward(x, weight, g, g_sum, d_x, d_weight, rows, eps, D: tl.constexpr, BLOCK: tl.constexpr):
    """A program computes every num_programs-th row. With n = x r: dx = r (g w - n mean(g w n)), dw = sum of g n."""
    i = tl.arange(0, BLOCK)
    inside = i < D
    w = tl.load(weight + i, mask=inside, other=0.0).to(tl.float32)
    dw = tl.zeros((BLOCK,), tl.float32)
    first, step = tl.program_id(0), tl.num_programs(0)
    for turn in range(0, tl.cdiv(rows - first, step)):
        at = (first + turn * step).to(tl.int64) * D + i
        v = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        gy = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        r = tl.rsqrt(tl.sum(v * v, axis=0) / D + eps)
        n = v * r
        dw += gy * n.to(x.dtype.element_ty).to(tl.float32)                    # the forward pass multiplied the rounded n
        gy *= w
        dx = r * (gy - n * (tl.sum(gy * n, axis=0) / D))
        if g_sum is not None:                                                 # the gradient that reaches s directly
            dx += tl.load(g_sum + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(d_x + at, dx.to(d_x.dtype.element_ty), mask=inside)
    tl.store(d_weight + first.to(tl.int64) * D + i, dw, mask=inside)


@torch.library.custom_op("nanothink::rms_norm", mutates_args=(),
                         schema="(Tensor x, Tensor? residual, Tensor weight, float eps) -> (Tensor, Tensor)")
def _rms_norm(x, residual, weight, eps):
    D, x = x.shape[-1], aligned(x)
    y, s = x.new_empty(x.shape), x.new_empty(0 if residual is None else x.shape)
    if x.numel():
        block = triton.next_power_of_2(D)
        _norm_forward[(x.numel() // D,)](x, None if residual is None else aligned(residual), aligned(weight), y, s, eps,
                                         D, block, num_warps=_warps(block))
    return y, s


@torch.library.custom_op("nanothink::rms_norm_backward", mutates_args=(),
                         schema="(Tensor g, Tensor? g_sum, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)")
def _rms_norm_backward(g, g_sum, x, weight, eps):
    D, x = x.shape[-1], aligned(x)
    rows, d_x = x.numel() // D, x.new_empty(x.shape)
    programs = min(rows, PROGRAMS)
    d_weight = x.new_empty(programs, D, dtype=torch.float32)
    if programs:
        block = triton.next_power_of_2(D)
        _norm_backward[(programs,)](x, aligned(weight), aligned(g), None if g_sum is None else aligned(g_sum), d_x,
                                    d_weight, rows, eps, D, block, num_warps=_warps(block))
    return d_x, d_weight.sum(dim=0).to(weight.dtype)


_rms_norm.register_fake(lambda x, residual, weight, eps: (
    x.new_empty(x.shape), x.new_empty(0 if residual is None else x.shape)))
_rms_norm_backward.register_fake(lambda g, g_sum, x, weight, eps: (
    x.new_empty(x.shape), weight.new_empty(weight.shape)))


def _save_norm(ctx, inputs, output):
    x, residual, weight, ctx.eps = inputs
    ctx.residual = None if residual is None else residual.dtype
    ctx.save_for_backward(x if residual is None else output[1], weight)


def _back_norm(ctx, g, g_sum):
    x, weight = ctx.saved_tensors
    d_x, d_weight = _rms_norm_backward(g, None if ctx.residual is None else g_sum, x, weight, ctx.eps)
    return d_x, None if ctx.residual is None else d_x.to(ctx.residual), d_weight, None


_rms_norm.register_autograd(_back_norm, setup_context=_save_norm)


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """x (..., D) / root mean square * weight (D,) -> (..., D), in float32 and rounded before the weight, as in Llama.

    With residual (..., D): the pair norm(s), s of s = x + residual. Results have x's type, whatever the weight's is.
    """
    y, s = _rms_norm(x, residual, weight, eps)
    return y if residual is None else (y, s)


@triton.jit
def _pair(x, at, inside, HALF: tl.constexpr):
    """The two halves of each head, in float32."""
    return (tl.load(x + at, mask=inside, other=0.0).to(tl.float32),
            tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32))


@triton.jit
def _pair_mean(a, b, HALF: tl.constexpr):
    """The mean over each head, whose two halves are a and b: (BLOCK_H, 1)."""
    return ((tl.sum(a, axis=1) + tl.sum(b, axis=1)) / (2 * HALF))[:, None]


@triton.jit
def _rope_forward(x, weight, cos, sin, y, eps, HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr,
                  BLOCK_D: tl.constexpr):
    """All heads of one token: a is the first half of each head, b the second."""
    dtype = y.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    h, i = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)[None, :]
    inside, half = (h < HEADS) & (i < HALF), i < HALF
    at = token * (HEADS * 2 * HALF) + h * (2 * HALF) + i                      # (BLOCK_H, BLOCK_D)
    a, b = _pair(x, at, inside, HALF)
    if weight is not None:
        w_a, w_b = _pair(weight, i, half, HALF)
        r = tl.rsqrt(_pair_mean(a * a, b * b, HALF) + eps)
        a, b = (a * r).to(dtype).to(tl.float32) * w_a, (b * r).to(dtype).to(tl.float32) * w_b
        a, b = a.to(dtype).to(tl.float32), b.to(dtype).to(tl.float32)
    c = tl.load(cos + token * HALF + i, mask=half, other=0.0)                 # (1, BLOCK_D)
    s = tl.load(sin + token * HALF + i, mask=half, other=0.0)
    tl.store(y + at, (a * c - b * s).to(dtype), mask=inside)
    tl.store(y + at + HALF, (b * c + a * s).to(dtype), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def _rope_backward(g, x, weight, cos, sin, d_x, d_weight, tokens, eps, HEADS: tl.constexpr, HALF: tl.constexpr,
                   BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr):
    """A program computes every num_programs-th token: the gradient is rotated back, then it is that of the norm, as in
    _norm_backward."""
    dtype = d_x.dtype.element_ty
    h, i = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)[None, :]
    inside, half = (h < HEADS) & (i < HALF), i < HALF
    dw_a = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    dw_b = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    first, step = tl.program_id(0), tl.num_programs(0)
    for turn in range(0, tl.cdiv(tokens - first, step)):
        token = (first + turn * step).to(tl.int64)
        at = token * (HEADS * 2 * HALF) + h * (2 * HALF) + i
        c = tl.load(cos + token * HALF + i, mask=half, other=0.0)
        s = tl.load(sin + token * HALF + i, mask=half, other=0.0)
        g_a, g_b = _pair(g, at, inside, HALF)
        d_a, d_b = g_a * c + g_b * s, g_b * c - g_a * s
        if weight is not None:
            w_a, w_b = _pair(weight, i, half, HALF)
            a, b = _pair(x, at, inside, HALF)
            r = tl.rsqrt(_pair_mean(a * a, b * b, HALF) + eps)
            a, b = a * r, b * r
            dw_a += d_a * a.to(dtype).to(tl.float32)
            dw_b += d_b * b.to(dtype).to(tl.float32)
            d_a, d_b = d_a * w_a, d_b * w_b
            along = _pair_mean(d_a * a, d_b * b, HALF)
            d_a, d_b = r * (d_a - a * along), r * (d_b - b * along)
        tl.store(d_x + at, d_a.to(dtype), mask=inside)
        tl.store(d_x + at + HALF, d_b.to(dtype), mask=inside)
    if weight is not None:
        j = tl.arange(0, BLOCK_D)
        at = d_weight + first * (2 * HALF) + j
        tl.store(at, tl.sum(dw_a, axis=0), mask=j < HALF)
        tl.store(at + HALF, tl.sum(dw_b, axis=0), mask=j < HALF)


def _blocks(x):
    """The sizes and launch of the two kernels above, for x (N, heads, hd)."""
    heads, half = x.shape[1], x.shape[2] // 2
    block_h, block_d = triton.next_power_of_2(heads), triton.next_power_of_2(half)
    return dict(HEADS=heads, HALF=half, BLOCK_H=block_h, BLOCK_D=block_d, num_warps=_warps(2 * block_h * block_d))


@torch.library.custom_op("nanothink::qk_norm_rope", mutates_args=(),
                         schema="(Tensor x, Tensor? weight, Tensor cos, Tensor sin, float eps) -> Tensor")
def qk_norm_rope(x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """RMSNorm of each head (not where weight is None), then the rotation whose pairs are the two halves of a head:
    x (N, heads, hd), weight (hd,) or None, cos and sin (N, hd/2) of float32 -> like x."""
    y, weight = x.new_empty(x.shape), None if weight is None else aligned(weight)
    if x.numel():
        _rope_forward[(x.shape[0],)](aligned(x), weight, aligned(cos), aligned(sin), y, eps, **_blocks(x))
    return y


@torch.library.custom_op("nanothink::qk_norm_rope_backward", mutates_args=(), schema="(Tensor g, Tensor? x, "
                         "Tensor? weight, Tensor cos, Tensor sin, float eps) -> (Tensor, Tensor)")
def _qk_norm_rope_backward(g, x, weight, cos, sin, eps):
    d_x, programs = g.new_empty(g.shape), min(g.shape[0], PROGRAMS)
    d_weight = g.new_empty(programs, g.shape[2], dtype=torch.float32) if weight is not None else None
    if g.numel():
        x, w = (None, None) if weight is None else (aligned(x), aligned(weight))
        _rope_backward[(programs,)](aligned(g), x, w, aligned(cos), aligned(sin), d_x, d_weight, g.shape[0], eps,
                                    **_blocks(g))
    return d_x, g.new_empty(0) if weight is None else d_weight.sum(dim=0).to(weight.dtype)


qk_norm_rope.register_fake(lambda x, weight, cos, sin, eps: x.new_empty(x.shape))
_qk_norm_rope_backward.register_fake(lambda g, x, weight, cos, sin, eps: (
    g.new_empty(g.shape), g.new_empty(0) if weight is None else weight.new_empty(weight.shape)))


def _save_rope(ctx, inputs, output):
    x, weight, cos, sin, ctx.eps = inputs
    ctx.save_for_backward(None if weight is None else x, weight, cos, sin)    # the gradient of the rotation alone needs no x


def _back_rope(ctx, g):
    x, weight, cos, sin = ctx.saved_tensors
    d_x, d_weight = _qk_norm_rope_backward(g, x, weight, cos, sin, ctx.eps)
    return d_x, None if weight is None else d_weight, None, None, None


qk_norm_rope.register_autograd(_back_rope, setup_context=_save_rope)

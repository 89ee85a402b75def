"""A matrix product whose rows do not depend on each other: x (..., D) @ weight (N, D).T + bias, in Triton.

A library chooses the order of additions by the shape of the complete product (it may split D among programs, or use other tiles).
So the same token gets other bits in a batch of 3 than in a batch of 300, and the policy that is sampled in one batch is not the
policy that is trained in another ("Defeating Nondeterminism in LLM Inference", Thinking Machines, 2025).

Here the bits of a row depend only on this row, the weight and the bias. An element of the result is always computed by the same
chain of multiply-adds: one program goes through D from the first element to the last, in steps of BLOCK_K (one number for each
type), and adds into one float32 accumulator. Which rows and columns share a tile, and how many warps work on it, may follow from
the shape: the tensor cores of a Hopper GPU (both instructions, mma and wgmma) give the same sum for all of them.

A library that does not split D nearly always gives the same sum, and it is faster. So it is used for the shapes for which a trial
has shown that it gives the same bits (`library_agrees`).

Simpler than the best kernels: loads by pointers instead of bulk copies (TMA), one tile for each program, and a table of tiles
instead of autotuning. The backward pass needs no fixed order, so the library computes it.
"""

import functools

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# The step along D. It decides the order of additions, and so the bits. So it may depend only on the type.
BLOCK_K = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 32}

# (most rows, (BLOCK_M, BLOCK_N, warps, stages)): the first entry with enough rows is used. stages: how many blocks are loaded
# ahead. This changes only the speed. With few rows (decoding) the time goes into loading the weight, so many small loads run at
# the same time. With many rows it goes into the tensor cores, so tiles are large.
TILES = {
    "data centre": ((16, (16, 64, 4, 8)), (32, (32, 64, 4, 6)), (64, (64, 64, 4, 6)), (256, (128, 128, 8, 4)),
                    (float("inf"), (256, 128, 8, 3))),                        # Hopper and later: 227 KB of fast memory
    "other": ((16, (16, 64, 4, 5)), (32, (32, 64, 4, 4)), (64, (64, 64, 4, 4)), (float("inf"), (128, 128, 8, 3))),
}
# With some large tiles ptxas 12.8 makes the tensor cores of Hopper wait after each product (its note C7515; `bench.py launches`
# shows it). Which tiles these are depends on the type of the result. {tile of the table above: the tile to use if the result is
# float32}.
FLOAT32_OUT = {(128, 128, 8, 4): (128, 128, 4, 4), (256, 128, 8, 3): (128, 256, 8, 3)}
PROGRAMS = 100           # with fewer programs many multiprocessors are idle; then tiles are made narrower
GROUP_M = 8              # rows of tiles that are computed together, so that they find the weight in the cache
HALF = (torch.bfloat16, torch.float16)


@triton.jit(do_not_specialize=["M"])
def _linear(x, weight, bias, y, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
            GROUP_M: tl.constexpr, EVEN_K: tl.constexpr):
    """One (BLOCK_M, BLOCK_N) tile of y (M, N)."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    group = program // (GROUP_M * tiles_n)                                    # GROUP_M rows of tiles, column by column
    height = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    within = program % (GROUP_M * tiles_n)
    m = (group * GROUP_M + within % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = within // height * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    m_inside, n_inside = m < M, n < N
    a_at = x + m.to(tl.int64)[:, None] * K + k[None, :]                       # (BLOCK_M, BLOCK_K)
    b_at = weight + n.to(tl.int64)[None, :] * K + k[:, None]                  # (BLOCK_K, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        # elements outside of the matrix are read as 0, which changes no bit of the sum
        if EVEN_K:
            a = tl.load(a_at, mask=m_inside[:, None], other=0.0)
            b = tl.load(b_at, mask=n_inside[None, :], other=0.0)
        else:
            a = tl.load(a_at, mask=m_inside[:, None] & (k < K - k0)[None, :], other=0.0)
            b = tl.load(b_at, mask=n_inside[None, :] & (k < K - k0)[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")                       # ieee: float32 is not cut to TF32
        a_at += BLOCK_K
        b_at += BLOCK_K
    if bias is not None:
        acc += tl.load(bias + n, mask=n_inside, other=0.0).to(tl.float32)[None, :]
    at = y + m.to(tl.int64)[:, None] * N + n[None, :]
    tl.store(at, acc.to(y.dtype.element_ty), mask=m_inside[:, None] & n_inside[None, :])


@functools.cache
def device_kind(device: torch.device) -> str:
    """The column of TILES for a device."""
    large = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)
    return "data centre" if large else "other"


def tile(M: int, N: int, dtype: torch.dtype, kind: str, out: torch.dtype | None = None, D: int = 0) -> tuple[int, int, int, int]:
    """(BLOCK_M, BLOCK_N, warps, stages) for M rows, N columns of type `out` (None: dtype) and a width of D."""
    block_m, block_n, warps, stages = next(t for rows, t in TILES[kind] if M <= rows)
    if dtype == torch.float32:                           # no tensor cores: operands and sums are in registers
        block_m, block_n, stages = min(block_m, 64), min(block_n, 64), 3
    elif D % 16:                                         # loads of one number each: more would not fit into the registers
        block_m, block_n, warps, stages = min(block_m, 64), min(block_n, 64), 4, 3
    elif out == torch.float32 and kind == "data centre":
        block_m, block_n, warps, stages = FLOAT32_OUT.get((block_m, block_n, warps, stages), (block_m, block_n, warps, stages))
    while block_n > 16 and triton.cdiv(M, block_m) * triton.cdiv(N, block_n) < PROGRAMS:
        block_n //= 2
    return block_m, block_n, min(warps, block_m * block_n // 128), stages


def _by_triton(x, weight, bias, dtype):
    """x (M, D), weight (N, D) -> (M, N), by the kernel above."""
    (M, K), N = x.shape, weight.shape[0]
    y = x.new_empty(M, N, dtype=dtype)
    if y.numel():
        block_m, block_n, warps, stages = tile(M, N, x.dtype, device_kind(x.device), dtype, K)
        block_k = BLOCK_K[x.dtype]
        _linear[(triton.cdiv(M, block_m) * triton.cdiv(N, block_n),)](
            x.contiguous(), weight.contiguous(), bias, y, M, N, K, block_m, block_n, block_k, GROUP_M,
            EVEN_K=K % block_k == 0, num_warps=warps, num_stages=stages)
    return y


def _by_library(x, weight, bias, dtype):
    """The same by cuBLASLt, once `_forbid_split_k` was called."""
    if dtype == x.dtype:
        return F.linear(x, weight, bias)
    y = torch.mm(x, weight.T, out_dtype=dtype) if x.is_cuda else (x @ weight.T).to(dtype)
    return y if bias is None else y + bias.to(dtype)


@functools.cache
def _forbid_split_k():
    """Tells the library not to split D into parts that are added later; this holds for the complete process. Returns False if
    torch has no such setting."""
    matmul = torch.backends.cuda.matmul
    try:
        torch.backends.cuda.preferred_blas_library("cublaslt")
        matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = (False, False)
    except (TypeError, RuntimeError):                    # before torch 2.10, or without CUDA
        return False
    return True


def library_agrees(M: int, N: int, D: int, dtype: torch.dtype, out: torch.dtype, bias: bool, device: torch.device) -> bool:
    """Whether the library's product of (M, D) and (N, D), with or without a bias, has the same bits as the kernel above. Then it
    may be used instead, and it is faster. This is tried once for each shape, on random numbers, because the library promises
    nothing. On an H100 nearly all shapes agree; the others are in results/tried.jsonl, and have a single row."""
    key = M, N, D, dtype, out, bias, device
    if key not in _tried:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False                                  # nothing can be tried now; what is captured was warmed up before
        random = torch.Generator(device).manual_seed(0)
        x, weight, b = (torch.randn(shape, generator=random, device=device, dtype=dtype) for shape in ((M, D), (N, D), (N,)))
        inputs = x, weight, b if bias else None, out
        try:
            _tried[key] = _forbid_split_k() and torch.equal(_by_library(*inputs), _by_triton(*inputs))
        except (NotImplementedError, torch.OutOfMemoryError):                 # the library has no such product, or no room
            _tried[key] = False
    return _tried[key]


_tried = {}


def _product(x, weight, bias, out):
    """x (M, D), weight (N, D) -> (M, N) of type `out`: by the library where that is known to give the same bits."""
    x, weight, (M, D), N = x.contiguous(), weight.contiguous(), x.shape, weight.shape[0]
    plain = D % 8 == N % 8 == x.data_ptr() % 16 == weight.data_ptr() % 16 == 0            # as in the trial
    if x.dtype in HALF and M and plain and library_agrees(M, N, D, x.dtype, out, bias is not None, x.device):
        return _by_library(x, weight, bias, out)
    return _by_triton(x, weight, bias, out)


@torch.library.custom_op("nanothink::linear", mutates_args=(),
                         schema="(Tensor x, Tensor weight, Tensor? bias, ScalarType out_dtype) -> Tensor")
def _op(x, weight, bias, out_dtype):
    return _product(x.reshape(-1, x.shape[-1]), weight, bias, out_dtype).view(*x.shape[:-1], weight.shape[0])


@_op.register_fake
def _(x, weight, bias, out_dtype):
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=out_dtype)


def _save(ctx, inputs, output):
    x, weight, bias, _ = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias = None if bias is None else bias.dtype


def _backward(ctx, grad):
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias, _ = ctx.needs_input_grad
    flat = grad.reshape(-1, grad.shape[-1])                                   # (M, N)
    d_bias = flat.sum(dim=0, dtype=torch.float32).to(ctx.bias) if need_bias else None
    flat = flat.to(x.dtype)
    d_x = (flat @ weight).view(x.shape) if need_x else None
    d_weight = flat.T @ x.reshape(-1, x.shape[-1]) if need_weight else None
    return d_x, d_weight, d_bias, None


_op.register_autograd(_backward, setup_context=_save)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
    """x (..., D) @ weight (N, D).T + bias (N,) -> (..., N), summed in float32 and rounded once, to out_dtype (or x's).

    Weight and bias are converted to x's type; under autocast all three are converted to its type, as in F.linear."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if x.dtype not in BLOCK_K:
        raise TypeError(f"linear takes {', '.join(map(str, BLOCK_K))}; got {x.dtype}")
    return _op(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), out_dtype or x.dtype)

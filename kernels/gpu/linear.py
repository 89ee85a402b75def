"""A matrix product whose rows do not depend on each other: x (..., D) @ weight (N, D).T + bias, in Triton.

A library picks its way to add up a dot product by the shape of the whole product (split-K, other tiles), so the same
token gets other bits in a batch of 3 than in a batch of 300, and a policy sampled in one batch is not the policy
trained in another ("Defeating Nondeterminism in LLM Inference", Thinking Machines, 2025).

The bit rule: a row's result depends on that row, the weight and the bias only. An output element is always the same
chain of multiply-adds: D is walked from left to right in steps of one BLOCK_K per type, into one float32 accumulator,
by one program. Which rows and columns share a tile, and which warps work on it, is free and follows the shape: the
matrix units of a Hopper GPU (both instructions, mma and wgmma) give the same sum for all of them. A library that does
not split D gives nearly always the same sum, so it takes over where it was tried and agrees (`library_agrees`).

Simpler than the best: pointers and no bulk copies (TMA), one tile per program, a table of tiles instead of tuning. The
backward needs no such rule and is left to the library.
"""

import functools

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

# The step along D. It sets the bits (other operands of one multiply-add chain), so nothing but the type may choose it.
BLOCK_K = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 32}

# Up to so many rows: BLOCK_M, BLOCK_N, warps, stages of loads in flight. These set the speed alone. Few rows (decoding)
# wait for the weight, so many small loads are under way; many rows wait for the tensor cores, so tiles are large.
TILES = {
    "data centre": ((16, (16, 64, 4, 8)), (32, (32, 64, 4, 6)), (64, (64, 64, 4, 6)), (256, (128, 128, 8, 4)),
                    (float("inf"), (256, 128, 8, 3))),                        # Hopper and later: 227 KB of fast memory
    "other": ((16, (16, 64, 4, 5)), (32, (32, 64, 4, 4)), (64, (64, 64, 4, 4)), (float("inf"), (128, 128, 8, 3))),
}
# Of large tiles the shape and the type of the result decide whether ptxas 12.8 lets the tensor cores of Hopper run ahead or makes
# them wait for each product (its note C7515; `bench.py launches` looks for it). These are the ones for results in float32.
FLOAT32_OUT = {(128, 128, 8, 4): (128, 128, 4, 4), (256, 128, 8, 3): (128, 256, 8, 3)}
PROGRAMS = 100           # with fewer, too many multiprocessors stand idle, so tiles get narrower
GROUP_M = 8              # tiles, one below the other, that run at the same time and share the weight in the cache
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
        # what lies outside is read as 0 and adds nothing, exactly
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
    if dtype == torch.float32:                           # no tensor cores: operands and sums live in registers
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
    """The library may no longer cut D into parts that are summed later: a setting of the whole process. False where torch has
    no such setting."""
    matmul = torch.backends.cuda.matmul
    try:
        torch.backends.cuda.preferred_blas_library("cublaslt")
        matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = (False, False)
    except (TypeError, RuntimeError):                    # before torch 2.10, or without CUDA
        return False
    return True


def library_agrees(M: int, N: int, D: int, dtype: torch.dtype, out: torch.dtype, bias: bool, device: torch.device) -> bool:
    """Does the library's product of (M, D) and (N, D), with a bias or without, have the bits of the kernel above? Then it may
    take the kernel's place, and it is faster. Tried on random numbers, once for each shape, since the library promises nothing.
    On an H100 nearly all shapes agree; results/tried.jsonl has those that do not, which are of a single row."""
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
    plain = D % 8 == N % 8 == x.data_ptr() % 16 == weight.data_ptr() % 16 == 0            # what the trial had, too
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

    Weight and bias are taken in x's type; under autocast all of them in autocast's, as F.linear does.
    """
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if x.dtype not in BLOCK_K:
        raise TypeError(f"linear takes {', '.join(map(str, BLOCK_K))}; got {x.dtype}")
    return _op(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), out_dtype or x.dtype)

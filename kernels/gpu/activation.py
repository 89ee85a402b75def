"""silu(gate) * up (arXiv 2002.05202) in Triton: one pass over memory, and a backward pass that keeps only the inputs.

It works element by element, so there is no sum whose order could change. The last elements are computed by the same code as all
others.
"""

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _silu_forward(gate, up, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < n, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=at < n, other=0.0).to(tl.float32)
    s = g / (1.0 + tl.exp(-g))
    tl.store(y + at, (s.to(y.dtype.element_ty).to(tl.float32) * u).to(y.dtype.element_ty), mask=at < n)


@triton.jit
def _silu_backward(gate, up, d, d_gate, d_up, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < n, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=at < n, other=0.0).to(tl.float32)
    dy = tl.load(d + at, mask=at < n, other=0.0).to(tl.float32)
    s = 1.0 / (1.0 + tl.exp(-g))
    tl.store(d_gate + at, (dy * u * s * (1.0 + g * (1.0 - s))).to(d_gate.dtype.element_ty), mask=at < n)
    tl.store(d_up + at, (dy * g * s).to(d_up.dtype.element_ty), mask=at < n)


@torch.library.custom_op("nanothink::swiglu", mutates_args=())
def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """gate and up of one shape -> silu(gate) * up. It is computed in float32, and silu(gate) is rounded to their type as in
    PyTorch."""
    gate, up = gate.contiguous(), up.contiguous()
    y, n = torch.empty_like(gate), gate.numel()
    if n:
        _silu_forward[(triton.cdiv(n, BLOCK),)](gate, up, y, n, BLOCK, num_warps=4)
    return y


@torch.library.custom_op("nanothink::swiglu_backward", mutates_args=())
def _swiglu_backward(gate: torch.Tensor, up: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    gate, up, d = gate.contiguous(), up.contiguous(), d.contiguous()
    d_gate, d_up, n = torch.empty_like(gate), torch.empty_like(up), gate.numel()
    if n:
        _silu_backward[(triton.cdiv(n, BLOCK),)](gate, up, d, d_gate, d_up, n, BLOCK, num_warps=4)
    return d_gate, d_up


swiglu.register_fake(lambda gate, up: gate.new_empty(gate.shape))
_swiglu_backward.register_fake(lambda gate, up, d: (gate.new_empty(gate.shape), up.new_empty(up.shape)))
swiglu.register_autograd(lambda ctx, d: _swiglu_backward(*ctx.saved_tensors, d),
                         setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))

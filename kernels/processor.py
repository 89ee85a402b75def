"""Tests which operators work on this processor with this build of torch.

Some operators are private in torch, and some refuse a dtype if the processor lacks an instruction (oneDNN's bfloat16 without
AVX-512). Each operator is tried once for each dtype, with a few numbers. If it is missing, raises an exception or computes
something else, it is not used, and the caller uses plain code instead.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) @ weight (N, D).T + bias by oneDNN; weight may be reordered."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def reorder(weight: Tensor) -> Tensor:
    """A weight (N, D) in oneDNN's own layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 64)


def softmax_gradient(g: Tensor, p: Tensor) -> Tensor:
    """The gradient of p = softmax: p (g - sum of p g along the last axis), written into the memory of g."""
    return torch._softmax_backward_data(g, p, -1, p.dtype, grad_input=g)


def silu_gradient(g: Tensor, x: Tensor) -> Tensor:
    """g times the derivative of silu at x."""
    return torch.ops.aten.silu_backward(g, x)


def _try(operator, x, y):
    """(the operator's result, the right result) for x (6, 16) and y (6, 16): (6, 6) of products, else (6, 16)."""
    if operator is linear:
        return linear(x, y, x[0, :6]), x.double() @ y.double().T + x[0, :6].double()
    if operator is reorder:
        return linear(x, reorder(y)), x.double() @ y.double().T
    if operator is softmax_gradient:
        p, g = x.double().softmax(-1), y.double()
        return softmax_gradient(y.clone(), p.to(x.dtype)), p * (g - (p * g).sum(-1, keepdim=True))
    s = x.double().sigmoid()
    return silu_gradient(y, x), y * s * (1 + x.double() * (1 - s))


@functools.cache
def able(operator: Callable, dtype: torch.dtype) -> bool:
    """Whether one of the functions above works with tensors of this dtype on a CPU."""
    x, y = torch.arange(2 * 6 * 16, dtype=torch.float64).sin().to(dtype).view(2, 6, 16)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found, wanted = _try(operator, x, y)
    except (RuntimeError, AttributeError, TypeError):     # the dtype, operator or argument is not supported
        return False
    return torch.allclose(found.double(), wanted, rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-4)

"""What this processor and this build of torch can do, found out by trying.

Some operators are torch's private ones, and some refuse a type where the processor lacks an instruction (oneDNN's bfloat16 on
one without AVX-512). Each is tried once for each type, with a few numbers. One that is missing, raises or computes something else
is not used: whoever asks has a plain form instead.
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
    """p (g - sum of p g along the last axis), in the memory of g, the gradient of p = softmax."""
    return torch._softmax_backward_data(g, p, -1, p.dtype, grad_input=g)


def silu_gradient(g: Tensor, x: Tensor) -> Tensor:
    """g times the derivative of silu at x."""
    return torch.ops.aten.silu_backward(g, x)


def _try(operator, x, y):
    """What an operator makes of x (6, 16) and y (6, 16), and what it should: of matrices (6, 6), else (6, 16)."""
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
    """May one of the functions above be used with tensors of this type on a CPU?"""
    x, y = torch.arange(2 * 6 * 16, dtype=torch.float64).sin().to(dtype).view(2, 6, 16)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found, wanted = _try(operator, x, y)
    except (RuntimeError, AttributeError, TypeError):     # a type or a processor, an operator or an argument that is not there
        return False
    return torch.allclose(found.double(), wanted, rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-4)

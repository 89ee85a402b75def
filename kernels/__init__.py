"""The blocks of the transformer that are worth writing by hand, and the choice among their forms.

    fast.py        what PyTorch itself does quickest: on a CPU, and on a GPU where Triton has nothing better; its
                   attention lies in fast_attention.py
    exact.py       one fixed order of additions, in plain PyTorch: the exact mode without Triton
    processor.py   which of torch's private operators this processor has, found out by trying
    gpu/           both on a GPU, in Triton: attention, linear, norm, activation, logprob

Each function here takes `exact`, which the model passes (model.exact), looks at the device, and calls one of them. Exact
means that the bits of a token's result do not depend on how many tokens are computed together, nor on whether its past
comes from a cache: sampler and trainer then agree to the last bit.
"""

import functools
import importlib.util

import torch

from . import exact as exact_form
from . import fast
from .fast import exclude, pack
from .fast_attention import Packing

HAS_TRITON = importlib.util.find_spec("triton") is not None

__all__ = ["HAS_TRITON", "Packing", "attend", "attend_cached", "exclude", "head_logits", "norm_rotate", "pack", "prepare",
           "project", "rms_norm", "row_logprobs", "swiglu", "token_logprobs"]


def _form(x, exact):
    """Which of the forms computes on the device of x: fast, exact_form or "triton"."""
    if x.is_cuda and HAS_TRITON and x.dtype != torch.float64:
        return "triton"
    return exact_form if exact else fast


def _half(x, *others):
    """Under autocast all of them in its type: the Triton kernels are not in torch's list of what autocast casts."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, *others
    dtype = torch.get_autocast_dtype(x.device.type)
    return tuple(None if t is None else t.to(dtype) for t in (x, *others))


def project(x, weight, bias=None, exact=False, packed=None):
    """x (..., D) @ weight (N, D).T + bias -> (..., N). packed: fast.pack of the weight, where there is no gradient."""
    if not exact:
        return fast.linear(x, weight, bias, packed)
    x, weight, bias = _half(x, weight, bias)
    if _form(x, exact) == "triton":
        from .gpu.linear import linear as invariant
        return invariant(x, weight, bias)
    return exact_form.linear(x, weight, bias, packed)


def rms_norm(x, weight, eps, exact=False):
    """x (..., D) / root mean square * weight."""
    if _form(x, exact) == "triton":
        from .gpu.norm import rms_norm as normed
        return normed(x, weight, eps)
    return (exact_form if exact else fast).rms_norm(x, weight, eps)


def norm_rotate(x, weight, cos, sin, eps, exact=False):
    """What happens to queries and keys before attention: x (B, T, heads, hd) -> like x. RMSNorm of each head, unless weight
    (hd,) is None; then rotary position embedding with cos and sin (B, T, 1, hd/2), unless those are None."""
    if cos is not None and _form(x, exact) == "triton":
        from .gpu.norm import qk_norm_rope
        cos, sin = (t.expand(*x.shape[:2], 1, -1).reshape(-1, t.shape[-1]) for t in (cos, sin))            # (B T, hd/2)
        return qk_norm_rope(x.flatten(0, 1), weight, cos, sin, eps).view(x.shape)
    if weight is not None:
        x = rms_norm(x, weight, eps, exact)
    return x if cos is None else (exact_form if exact else fast).rotate(x, cos, sin)


def swiglu(gate, up, exact=False):
    """silu(gate) * up."""
    if _form(gate, exact) == "triton":
        from .gpu.activation import swiglu as fused
        return fused(gate, up)
    return (exact_form if exact else fast).swiglu(gate, up)


def _spans(packing, device):
    """Where the documents lie, as Triton's attention goes by it; made once."""
    from .gpu.attention import Spans
    if packing.spans is None:
        B, T = packing.B, packing.T
        packing.spans = Spans.of_rows(B, T, device) if packing.documents is None else Spans.of_documents(packing.documents)
    return packing.spans


def prepare(packing, x, config, exact=False):
    """Makes what the attention of all layers needs to know of a packing, given the hidden states x (B, T, D) of the first and
    the model's Config: outside of the layers, since its shapes depend on the documents, which torch.compile does not take."""
    if _form(x, exact) == "triton" and (exact or packing.documents is not None):
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        _spans(packing, x.device).lists("exact" if exact else "forward", torch.is_grad_enabled(), config.head_size, dtype,
                                        config.heads // config.kv_heads, x.device)


def attend(q, k, v, packing, window=0, exact=False):
    """Causal attention inside each document: q (B, T, H, hd), k and v (B, T, K, hd) -> (B, T, H, hd)."""
    form = _form(q, exact)
    if form == "triton" and (exact or packing.documents is not None):
        from .gpu.attention import attention
        spans = _spans(packing, q.device)
        return attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), spans, window, exact).view(q.shape)
    return (fast if form == "triton" else form).attend(q, k, v, packing, window)


def attend_cached(q, cache, layer, window=0, exact=False):
    """New tokens of each row against its pages (engine/cache.py), where their keys are written already: q (B, R, H, hd) -> like
    q. Row b held cache.lengths[b] tokens before them."""
    form = _form(q, exact)
    if form == "triton":
        from .gpu.attention import Spans, attention
        spans = Spans.of_cache(cache.lengths[:q.shape[0]], q.shape[1])
        return attention(q.flatten(0, 1), cache.k[layer], cache.v[layer], spans, window, exact, cache.table).view(q.shape)
    return form.attend_cached(q, cache, layer, window)


def head_logits(hidden, weight, exact=False, packed=None):
    """hidden (..., D), weight (V, D) -> logits (..., V), those of token_logprobs. packed: as for `project`."""
    if exact and _form(hidden, exact) == "triton":
        from .gpu.linear import linear as invariant
        return invariant(*_half(hidden, weight), out_dtype=torch.float32)
    return project(hidden, weight, None, exact, packed)


def row_logprobs(logits, targets, temperature=1.0, exact=False):
    """Log softmax(logits / temperature) of each row at its target: logits (N, V) of float32 or better, targets (N,) ->
    (N,). The very code of token_logprobs."""
    if _form(logits, exact) == "triton":
        from .gpu.logprob import row_logprobs as rows
        return rows(logits, targets, temperature)[0]
    return fast.row_logprobs(logits if temperature == 1.0 else logits / temperature, targets)[0]


def token_logprobs(hidden, weight, targets, temperature=1.0, entropy=False, exact=False, absent=()):
    """Log-probability of each target: hidden (..., D), weight (V, D), targets (...) -> (...), float32 or better.
    With entropy=True a pair: also the entropy of the distribution at each place (...), in nats. absent: ranges of words
    that do not exist and have no probability, see fast.exclude."""
    form = _form(hidden, exact)
    if form != "triton":
        return form.token_logprobs(hidden, weight, targets, temperature, entropy, absent)
    from .gpu.linear import linear as invariant
    from .gpu.logprob import token_logprobs as chunked
    hidden, weight = _half(hidden, weight)
    product = functools.partial(invariant, out_dtype=torch.float32) if exact else None
    found = chunked(hidden.flatten(0, -2), weight.to(hidden.dtype), targets.flatten(), temperature, entropy, product,
                    absent=absent)
    return tuple(x.view(targets.shape) for x in found) if entropy else found.view(targets.shape)

"""The blocks of the transformer that are written by hand. Each function chooses an implementation for the device and the mode.

    fast.py        the fastest in plain PyTorch: on a CPU, and on a GPU where Triton is not faster (attention: fast_attention.py)
    exact.py       exact mode in plain PyTorch, with one fixed order of additions
    processor.py   which of torch's private operators work on this processor
    gpu/           both modes on a GPU, in Triton: attention, linear, norm, activation, logprob

The model passes `exact` (model.exact). In exact mode the bits of a token's result do not depend on how many tokens are computed
together, or on whether its past comes from a cache. So sampler and trainer agree to the last bit.

If you change attention, this is what you have to edit, from the smallest change to the largest:

- Something before or after attention, such as a gate (recipes/README.md shows one step by step): model.Attention and a field of
  Config. It works in training, sampling and exact mode if it uses only the functions below, or follows the two rules
  at the top of exact.py.
- The positions, or a window: an entry of model.LAYER_KINDS; for other rotations also model.Transformer.angles.
- One more score in the softmax, such as a sink: after attention, from the log-sum-exp of the other scores (`lse` below).
- Which keys a token sees, or how a score is computed (a soft cap): each function that computes scores. A new setting is an
  argument of attend, attend_cached and the two plans below, as `window` is. The functions are
  - in training: fast_attention.attend, with its forms _sdpa, _Blocks (forward and backward) and _formula;
  - in sampling: fast_attention.attend_cached and _attend_gathered, with the masks of find_pages;
  - in exact mode: exact.attend_tiles and exact._attend_pages; the gradient is that of fast.attend;
  - on a GPU, for all of these: the three kernels of gpu/attention.py.
- What is kept of past tokens: engine/cache.py (KVCache and Pool, their write and fill), and the functions here that read
  cache.k and cache.v.

tests/kernels/test_attention.py and tests/engine/test_exact.py compare all forms with the formula and with each other.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import exact as exact_form
from . import fast
from .exact import PAGE
from .fast import exclude, reorder
from .fast_attention import NOWHERE, Packing

if TYPE_CHECKING:                     # Triton is imported where it computes
    from .gpu.attention import Tiles

HAS_TRITON = importlib.util.find_spec("triton") is not None

__all__ = ["HAS_TRITON", "NOWHERE", "PAGE", "Packing", "attend", "attend_cached", "exclude", "gate", "head_logits", "norm_rotate",
           "plan_attention", "plan_decoding", "project", "rms_norm", "reorder", "row_logprobs", "swiglu", "token_logprobs"]


def _form(x, exact):
    """The implementation for the device of x: fast, exact_form or "triton"."""
    if x.is_cuda and HAS_TRITON and x.dtype != torch.float64:
        return "triton"
    return exact_form if exact else fast


def _half(x, *others):
    """Under autocast, casts all tensors to its dtype: torch does not do this for Triton kernels."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, *others
    dtype = torch.get_autocast_dtype(x.device.type)
    return tuple(None if t is None else t.to(dtype) for t in (x, *others))


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None, exact: bool = False,
            reordered: Tensor | None = None) -> Tensor:
    """x (..., D) @ weight (N, D).T + bias -> (..., N). reordered: fast.reorder of the weight; then there is no gradient."""
    if not exact:
        return fast.linear(x, weight, bias, reordered)
    x, weight, bias = _half(x, weight, bias)
    if _form(x, exact) == "triton":
        from .gpu.linear import linear as invariant
        return invariant(x, weight, bias)
    return exact_form.linear(x, weight, bias, reordered)


def rms_norm(x: Tensor, weight: Tensor, eps: float, exact: bool = False) -> Tensor:
    """x (..., D) / root mean square * weight."""
    if _form(x, exact) == "triton":
        from .gpu.norm import rms_norm as normed
        return normed(x, weight, eps)
    return (exact_form if exact else fast).rms_norm(x, weight, eps)


def norm_rotate(x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, eps: float,
                exact: bool = False) -> Tensor:
    """Norm and rotation of queries and keys before attention: x (B, T, heads, hd) -> like x. RMSNorm of each head, unless weight
    (hd,) is None; then rotary position embedding with cos and sin (B, T, 1, hd/2), unless those are None."""
    if cos is not None and _form(x, exact) == "triton":
        from .gpu.norm import qk_norm_rope
        cos, sin = (t.expand(*x.shape[:2], 1, -1).reshape(-1, t.shape[-1]) for t in (cos, sin))            # (B T, hd/2)
        return qk_norm_rope(x.flatten(0, 1), weight, cos, sin, eps).view(x.shape)
    if weight is not None:
        x = rms_norm(x, weight, eps, exact)
    return x if cos is None else (exact_form if exact else fast).rotate(x, cos, sin)


def swiglu(gate: Tensor, up: Tensor, exact: bool = False) -> Tensor:
    """silu(gate) * up."""
    if _form(gate, exact) == "triton":
        from .gpu.activation import swiglu as fused
        return fused(gate, up)
    return (exact_form if exact else fast).swiglu(gate, up)


def gate(y: Tensor, score: Tensor, exact: bool = False) -> Tensor:
    """sigmoid(score) * y, for a gate of each head: y (B, T, H, hd), score (B, T, H) -> like y.

    With score = lse - sink it is an attention sink, where lse is the log-sum-exp of the scores of a query: then sigmoid(score) is
    the share of the softmax that the keys have, and the sink has the rest."""
    return (exact_form if exact else fast).gate(y, score)


def _spans(packing, device):
    """The positions of the documents, in the form for Triton's attention."""
    from .gpu.attention import Spans
    return Spans.of_rows(packing.B, packing.T, device) if packing.documents is None else Spans.of_documents(packing.documents)


def _type_of_queries(x):
    """The dtype of attention in a model whose hidden states are x."""
    return torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype


def plan_attention(packing: Packing, x: Tensor, config: Any, exact: bool = False) -> Tiles | None:
    """The plan of attention over packed documents, for all layers of a forward pass. x (B, T, D): the hidden states before the
    first layer; config: of the model. On a GPU it is the tiles for Triton's programs, else None (the Packing is enough).

    It is made outside of the layers, because its shapes depend on the documents. A compiled layer gets it as an input, and stays
    one graph."""
    if _form(x, exact) != "triton" or not (exact or config.sinks or packing.documents is not None):
        return None
    from .gpu.attention import make_tiles
    return make_tiles(_spans(packing, x.device), _type_of_queries(x), config.head_size, config.heads // config.kv_heads, exact,
                      torch.is_grad_enabled())


def plan_decoding(cache: Any, x: Tensor, config: Any, exact: bool = False) -> Tiles | dict:
    """The same for R new tokens of each of the first B rows of a cache. x (B, R, D): their hidden states before the first layer.
    On a GPU it is tiles; on a CPU with R = 1 it is {window: the pages in use}."""
    B, R, _ = x.shape
    form = _form(x, exact)
    if form == "triton":
        from .gpu.attention import Spans, make_tiles
        return make_tiles(Spans.of_cache(cache.lengths[:B], R), _type_of_queries(x), config.head_size,
                          config.heads // config.kv_heads, exact)
    windows = set(config.windows) if R == 1 else ()
    return {window: form.find_pages(cache.pools[window], B, x.dtype, window) for window in windows}


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, window: int = 0, exact: bool = False,
           plan: Tiles | None = None, lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention inside each document: q (B, T, H, hd), k and v (B, T, K, hd) -> (B, T, H, hd).

    - plan: from plan_attention; None: it is made here.
    - lse: also returns log(sum(exp(scores))) of each query, (B, T, H) of float32 or better. It has a gradient as well."""
    form = _form(q, exact)
    if form == "triton" and (exact or lse or packing.documents is not None):
        from .gpu.attention import attention
        plan = _spans(packing, q.device) if plan is None else plan
        found = attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), plan, window, exact, lse=lse)
        return _as_rows(found, q)
    return (fast if form == "triton" else form).attend(q, k, v, packing, window, lse)


def attend_cached(q: Tensor, cache: Any, layer: int, window: int = 0, exact: bool = False,
                  plan: Tiles | dict | None = None, lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of new tokens to the pages of their row, in which their keys are written already: q (B, R, H, hd) -> like q.

    - cache, layer: an engine.cache.Pool, and which of its layers. Before the new tokens row b had cache.lengths[b] tokens.
    - plan: from plan_decoding; None: it is made here.
    - lse: as for `attend`, (B, R, H)."""
    form = _form(q, exact)
    if form == "triton":
        from .gpu.attention import Spans, attention
        plan = Spans.of_cache(cache.lengths[:q.shape[0]], q.shape[1]) if plan is None else plan
        return _as_rows(attention(q.flatten(0, 1), cache.k[layer], cache.v[layer], plan, window, exact, cache.table, lse), q)
    return form.attend_cached(q, cache, layer, window, (plan or {}).get(window), lse)


def _as_rows(found, q):
    """Triton's output (B T, H, hd), or the pair with lse (B T, H), in the shape of q (B, T, H, hd)."""
    return found.view(q.shape) if isinstance(found, Tensor) else (found[0].view(q.shape), found[1].view(q.shape[:3]))


def head_logits(hidden: Tensor, weight: Tensor, exact: bool = False, reordered: Tensor | None = None) -> Tensor:
    """hidden (..., D), weight (V, D) -> logits (..., V), the same as in token_logprobs. reordered: as for `project`."""
    if exact and _form(hidden, exact) == "triton":
        from .gpu.linear import linear as invariant
        return invariant(*_half(hidden, weight), out_dtype=torch.float32)
    return project(hidden, weight, None, exact, reordered)


def row_logprobs(logits: Tensor, targets: Tensor, temperature: float = 1.0, exact: bool = False) -> Tensor:
    """Log softmax(logits / temperature) of each row at its target: logits (N, V) of float32 or better, targets (N,) ->
    (N,). It is the same code as in token_logprobs."""
    if _form(logits, exact) == "triton":
        from .gpu.logprob import row_logprobs as rows
        return rows(logits, targets, temperature)[0]
    return fast.row_logprobs(logits if temperature == 1.0 else logits / temperature, targets)[0]


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, entropy: bool = False,
                   exact: bool = False, unused_ids: Sequence[tuple[int, int]] = ()) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability of each target: hidden (..., D), weight (V, D), targets (...) -> (...), float32 or better.
    With entropy=True a pair: also the entropy of the distribution at each position (...), in nats. unused_ids: ranges of ids that
    do not exist and have probability 0, see fast.exclude."""
    form = _form(hidden, exact)
    if form != "triton":
        return form.token_logprobs(hidden, weight, targets, temperature, entropy, unused_ids)
    from .gpu.linear import linear as invariant
    from .gpu.logprob import token_logprobs as chunked
    hidden, weight = _half(hidden, weight)
    product = functools.partial(invariant, out_dtype=torch.float32) if exact else None
    found = chunked(hidden.flatten(0, -2), weight.to(hidden.dtype), targets.flatten(), temperature, entropy, product,
                    unused_ids=unused_ids)
    return tuple(x.view(targets.shape) for x in found) if entropy else found.view(targets.shape)

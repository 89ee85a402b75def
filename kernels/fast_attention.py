"""The fastest attention in plain PyTorch: for packed documents and for a KV cache, on a CPU and on a GPU without Triton.

Letters as in model.py: B rows, T tokens in a row, H query heads, K key/value heads, G = H / K, hd head size.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import processor

NOWHERE = 2 ** 30                    # the position of tokens in a free page: after the end of every row


class Packing:
    """The positions of the documents of a batch, computed once per forward pass and used by every layer.

    documents (B, T) numbers the packed documents of each row, or is None if each row is one document. Consecutive equal numbers
    are one document. (Consecutive negative numbers are padding, which attends to itself and is not used.)

    On a CPU attention works on *buckets*: documents of similar length are put together as (n, longest), for the causal SDPA
    kernel. Causal attention never looks to the right, so a shorter document does not see the padding after it, and no mask is
    needed. The work is then the sum of the squared document lengths, not the square of the row length.
    On a GPU Triton's attention goes by `documents` itself; where there is no Triton, a dense mask says which pairs of a row
    lie in one document.
    """

    def __init__(self, B: int, T: int, device: torch.device, documents: Tensor | None = None):
        self.B, self.T, self.documents, self.buckets, self._new = B, T, documents, None, None
        index = torch.arange(T, device=device).expand(B, T)
        self.positions = index                                                # (B, T), restart at each document
        if documents is None:
            return
        new = torch.ones_like(documents, dtype=torch.bool)                    # does a document start here?
        new[:, 1:] = documents[:, 1:] != documents[:, :-1]
        self.positions = index - torch.where(new, index, 0).cummax(dim=1).values
        if device.type == "cpu":
            self._fill_buckets(new)
        self._new = new

    @functools.cached_property
    def mask(self) -> Tensor | None:
        """(B, 1, T, T) of bool: True where the row may see the column; None when a row is one document."""
        if self._new is None:
            return None
        run = self._new.cumsum(dim=1)
        return (run[:, None, :, None] == run[:, None, None, :]) & _band(self.T, 0, run.device)

    def _fill_buckets(self, new):
        """Sorts the documents by length and cuts the list where the next one is less than three quarters as long."""
        starts = new.flatten().nonzero().flatten()                            # row ends are document ends as well
        lengths = torch.diff(starts, append=torch.tensor([self.B * self.T]))
        order = lengths.argsort(descending=True, stable=True)
        sizes = lengths[order].tolist()
        self.buckets, index, real, first = [], [], [], 0                      # buckets: (documents, longest)
        for i in range(1, len(sizes) + 1):
            if i == len(sizes) or sizes[i] < 0.75 * sizes[first] - 8:
                within = torch.arange(sizes[first])
                chosen = order[first:i]
                index.append(starts[chosen, None] + torch.minimum(within, lengths[chosen, None] - 1))
                real.append(within < lengths[chosen, None])
                self.buckets.append((i - first, sizes[first]))
                first = i
        self.gather = torch.cat([i.flatten() for i in index])                 # bucket slot -> token; fillers repeat one
        self.real = torch.cat([r.flatten() for r in real])[:, None]           # not a filler: (slots, 1)
        slots = self.real.flatten().nonzero().flatten()
        # token -> its bucket slot. Filler slots repeat the last token of a document, so they are left out
        self.scatter = torch.empty(self.B * self.T, dtype=torch.long)
        self.scatter[self.gather[slots]] = slots


class _Rows(torch.autograd.Function):
    """x[index] whose backward is also one plain look-up: g[inverse], then zero where `keep` is False.

    This is right for the gather into slots and for the way back, because fillers have no gradient. An ordinary index would need
    a scatter-add."""

    @staticmethod
    def forward(ctx, x, index, inverse, keep):
        ctx.inverse, ctx.keep = inverse, keep
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, g):
        g = g.index_select(0, ctx.inverse)
        return (g if ctx.keep is None else g * ctx.keep), None, None, None


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, window: int = 0,
           lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention inside each document: q (B, T, H, hd), k and v (B, T, K, hd) -> (B, T, H, hd).

    - window > 0: a token sees itself and the window - 1 tokens before it.
    - lse: also returns the log-sum-exp of the scores of each query, (B, T, H) of float32 or better; it has a gradient too.
    """
    B, T, H, hd = q.shape
    if packing.buckets is None:
        if packing.mask is None:
            return _causal(q, k, v, window, lse)
        mask = packing.mask & _band(T, window, q.device) if window else packing.mask
        return _formula(q, k, v, mask) if lse else _sdpa(q, k, v, mask)
    K = k.shape[2]
    to_slots = (packing.gather, packing.scatter, None)
    q = _Rows.apply(q.reshape(B * T, H * hd), *to_slots)                      # (slots, H*hd)
    k = _Rows.apply(k.reshape(B * T, K * hd), *to_slots)
    v = _Rows.apply(v.reshape(B * T, K * hd), *to_slots)
    parts, first = [], 0
    for n, L in packing.buckets:
        part = slice(first, first + n * L)
        found = _causal(q[part].view(n, L, H, hd), k[part].view(n, L, K, hd), v[part].view(n, L, K, hd), window, lse)
        parts.append([x.reshape(n * L, -1) for x in (found if lse else [found])])              # (n L, H*hd), (n L, H)
        first += n * L
    out, *sums = (_Rows.apply(torch.cat(x), packing.scatter, packing.gather, packing.real) for x in zip(*parts))
    out = out.view(B, T, H, hd)                                               # from (B*T, H*hd)
    return (out, sums[0].view(B, T, H)) if lse else out


def attend_cached(q: Tensor, cache: Any, layer: int, window: int = 0, pages: Pages | None = None,
                  lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of new tokens to the pages of their row (engine/cache.py), in which their keys are written already: q (B, R, H,
    hd) -> (B, R, H, hd). Before them row b had cache.lengths[b] tokens. pages: the result of find_pages, if it is known already.
    lse: also returns the log-sum-exp of the scores of each query (B, R, H).

    With one token per row, all pages in use are multiplied at once, in the order of the pool, so no key is copied. Then the
    maxima, sums and results of the pages of each row are joined.
    """
    B, R, H, hd = q.shape
    K, G = cache.k.shape[2], H // cache.k.shape[2]
    if R > 1:
        found = _attend_gathered(q, cache, layer, window)
        return found if lse else found[0]
    owner, at, mask = pages or find_pages(cache, B, q.dtype, window)
    k, v = cache.k[layer][:len(owner)], cache.v[layer][:len(owner)]           # (P, K, page, hd)
    scores = (q.view(B, K, G, hd) * hd ** -0.5)[owner].to(k.dtype) @ k.transpose(2, 3)        # (P, K, G, page)
    if scores.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    top = scores.add_(mask).amax(dim=-1, keepdim=True)                        # of each page, then of each row
    best = top.new_full((B, K, G, 1), -1e30).scatter_reduce_(0, at.expand_as(top), top, "amax")
    p = scores.sub_(best[owner]).exp_()
    total = torch.zeros_like(best).index_add_(0, owner, p.sum(dim=-1, keepdim=True))
    out = p.new_zeros(B, K, G, hd).index_add_(0, owner, (p.to(v.dtype) @ v).to(p.dtype))
    out = out.div_(total).to(q.dtype).view(B, 1, H, hd)
    return (out, (best + total.log()).view(B, 1, H)) if lse else out


class Pages(NamedTuple):
    """The P pages in use in one decode step, in the order of the pool. They are the same for all layers with the same window."""
    owner: torch.Tensor              # (P,) the row of each page
    index: torch.Tensor              # (P, 1, 1, 1) the same
    mask: torch.Tensor               # (P, 1, 1, page) added to scores: 0 for keys that the row's next token sees, else -inf


def find_pages(cache: Any, B: int, dtype: torch.dtype, window: int) -> Pages:
    """The Pages that the first B rows of a cache read for their next token. dtype: of the model."""
    owner, start = cache.owner[:cache.used], cache.start[:cache.used]
    start, owner = torch.where(owner < B, start, NOWHERE), owner.clamp(max=B - 1)     # pages of other rows are hidden
    behind = cache.lengths[owner, None] - start[:, None] - torch.arange(cache.k.shape[3], device=owner.device)      # (P, page)
    hidden = behind < 0 if not window else (behind < 0) | (behind >= window)
    mask = torch.zeros(hidden.shape, dtype=torch.promote_types(dtype, torch.float32), device=owner.device)
    return Pages(owner, owner[:, None, None, None], mask.masked_fill_(hidden, float("-inf"))[:, None, None])


def _attend_gathered(q, cache, layer, window):
    """The same for several tokens per row, with a copy of the pages in order: always the pair (out, lse)."""
    B, R, H, hd = q.shape
    K = cache.k.shape[2]
    pages = -(-(int(cache.lengths[:B].max()) + R) // cache.k.shape[3])
    k, v = (x[layer][cache.table[:B, :pages]].transpose(1, 2).flatten(2, 3) for x in (cache.k, cache.v))      # (B, K, S, hd)
    q = q.view(B, R, K, H // K, hd).transpose(1, 2).reshape(B, K, R * (H // K), hd)   # the heads that share a key head
    last = cache.lengths[:B, None] + torch.arange(R, device=q.device)         # (B, R)
    behind = last.repeat_interleave(H // K, dim=1)[..., None] - torch.arange(k.shape[2], device=q.device)     # (B, R G, S)
    hidden = behind < 0 if not window else (behind < 0) | (behind >= window)
    scores = (q.to(k.dtype) @ k.transpose(2, 3)).mul_(hd ** -0.5).masked_fill_(hidden[:, None], float("-inf"))
    scores = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    lse = scores.logsumexp(dim=-1, keepdim=True)                              # (B, K, R G, 1)
    out = (scores.softmax(dim=-1).to(v.dtype) @ v).to(q.dtype)                # (B, K, R G, hd)
    out, lse = (x.view(B, K, R, H // K, -1).transpose(1, 2) for x in (out, lse))
    return out.reshape(B, R, H, hd), lse.reshape(B, R, H)


BLOCK = 64                                               # queries in one block
LONGEST, LEAST = 512, 2 ** 18                            # faster up to this length of a sequence, and from this size of q on


class _Blocks(torch.autograd.Function):
    """Causal attention of q (n, L, H, hd) to k and v (n, L, K, hd): BLOCK queries at a time, with all keys that they see.

    torch's fused kernel works on small tiles of the probabilities. On a CPU the probabilities of a block fit into a processor
    cache, and plain operations on the complete block are faster for sequences of moderate length (results/tried.jsonl). The query
    heads that share a key head are rows of one matrix (row t * G + g), so keys are not repeated.

    lse=True: the second result is the log-sum-exp (n, L, H), else it is None. Its gradient with respect to a score is that
    score's probability.
    """

    @staticmethod
    def forward(ctx, q, k, v, window, lse):
        ctx.n, ctx.L, H, hd = q.shape
        ctx.K, ctx.G, ctx.window, ctx.scale = k.shape[2], H // k.shape[2], window, hd ** -0.5
        q, k, v = (_Blocks.heads_first(ctx, x) for x in (q * ctx.scale, k, v))
        out, sums, probabilities = torch.empty_like(q), q.new_empty(*q.shape[:2], 1) if lse else None, []
        # Probabilities (about n H L L/2 numbers) are kept for the backward pass if they are not larger than q, k, v and out.
        keep = any(ctx.needs_input_grad) and ctx.L * H <= 4 * (H + ctx.K) * hd
        for rows, first, at, end in _Blocks.parts(ctx):
            p = _Blocks.probabilities(ctx, q[:, rows], k[:, first:end], first, at, sums[:, rows] if lse else None)
            out[:, rows] = torch.bmm(p, v[:, first:end])
            if keep:
                probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        return _Blocks.tokens_first(ctx, out), _Blocks.tokens_first(ctx, sums).squeeze(-1) if lse else None

    @staticmethod
    def backward(ctx, g, g_lse):
        q, k, v, *probabilities = ctx.saved_tensors
        g, g_lse = _Blocks.heads_first(ctx, g), None if g_lse is None else _Blocks.heads_first(ctx, g_lse[..., None])
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        for i, (rows, first, at, end) in enumerate(_Blocks.parts(ctx)):
            p = probabilities[i] if probabilities else _Blocks.probabilities(ctx, q[:, rows], k[:, first:end], first, at)
            dp = torch.bmm(g[:, rows], v[:, first:end].transpose(1, 2))
            ds = _softmax_gradient(dp, p)
            if g_lse is not None:
                ds.addcmul_(p, g_lse[:, rows])
            dq[:, rows] = torch.bmm(ds, k[:, first:end])
            for total, share in ((dk, torch.bmm(ds.transpose(1, 2), q[:, rows])), (dv, torch.bmm(p.transpose(1, 2), g[:, rows]))):
                total[:, first:at] += share[:, :at - first]
                total[:, at:end] = share[:, at - first:]                      # no block before this one saw these keys
        return *(_Blocks.tokens_first(ctx, x) for x in (dq.mul_(ctx.scale), dk, dv)), None, None

    @staticmethod
    def parts(ctx):
        """For each block: its rows, the first key that it sees, its first token, and the end of both."""
        for at in range(0, ctx.L, BLOCK):
            end = min(at + BLOCK, ctx.L)
            yield slice(at * ctx.G, end * ctx.G), max(0, at - ctx.window + 1) if ctx.window else 0, at, end

    @staticmethod
    def probabilities(ctx, q, k, first, at, sums=None):
        """q (n K, rows, hd) from token `at` on, k (n K, keys, hd) from token `first` on -> (n K, rows, keys). sums (n K, rows,
        1): where to write the log-sum-exp."""
        scores = torch.bmm(q, k.transpose(1, 2))
        late = first if ctx.window else at                                    # all queries see the keys before this one
        end = first + k.shape[1]
        behind = torch.arange(at, end)[:, None, None] - torch.arange(late, end)                  # (tokens, 1, late keys)
        hidden = (behind < 0) | (behind >= ctx.window) if ctx.window else behind < 0
        scores.view(-1, end - at, ctx.G, end - first)[..., late - first:].masked_fill_(hidden, float("-inf"))
        if sums is not None:
            sums.copy_(scores.logsumexp(dim=-1, keepdim=True))
        return torch.softmax(scores, dim=-1, out=scores)

    @staticmethod
    def heads_first(ctx, x):
        """(n, L, heads, hd) -> (n K, L heads/K, hd)"""
        return x.reshape(ctx.n, ctx.L, ctx.K, -1).transpose(1, 2).reshape(ctx.n * ctx.K, -1, x.shape[-1])

    @staticmethod
    def tokens_first(ctx, x):
        """The inverse of heads_first."""
        return x.view(ctx.n, ctx.K, ctx.L, -1).transpose(1, 2).reshape(ctx.n, ctx.L, -1, x.shape[-1])


def _softmax_gradient(g, p):
    """p (g - sum of p g along the last axis); the result may use the memory of g."""
    if processor.able(processor.softmax_gradient, p.dtype):
        return processor.softmax_gradient(g, p)
    return p * (g - (p * g).sum(dim=-1, keepdim=True))


def _causal(q, k, v, window, lse=False):
    """Causal attention of complete sequences, q (n, L, H, hd), k and v (n, L, K, hd), by the method for their length.
    lse: also returns the log-sum-exp (n, L, H), for which torch's attention has no gradient."""
    L = q.shape[1]
    window = window if window < L else 0
    able = q.device.type == "cpu" and q.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
    if able and (lse or L >= BLOCK and (window or L <= LONGEST and q.numel() >= LEAST)):
        out, sums = _Blocks.apply(q, k, v, window, lse)
        return (out, sums) if lse else out
    if lse:
        return _formula(q, k, v, _band(L, window, q.device))
    return _sdpa(q, k, v, _band(L, window, q.device) if window else None)


def _formula(q, k, v, mask):
    """Attention and its log-sum-exp with all scores in memory: for rare types and devices."""
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], dim=2).transpose(1, 2) for x in (k, v))         # (B, H, T, hd)
    scores = (q.transpose(1, 2) * q.shape[3] ** -0.5) @ k.transpose(2, 3)     # (B, H, T, T)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~mask, float("-inf"))
    out = scores.softmax(dim=-1).to(v.dtype) @ v
    return out.transpose(1, 2), scores.logsumexp(dim=-1).transpose(1, 2)      # (B, T, H, hd), (B, T, H)


def _sdpa(q, k, v, mask):
    """torch's fused attention on (B, T, heads, hd) tensors; causal if there is no mask."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask,
                                         is_causal=mask is None, enable_gqa=q.shape[2] != k.shape[2])
    return out.transpose(1, 2)                                                # (B, T, H, hd)


def _band(T, window, device):
    """(T, T) of bool: True if the row sees the column."""
    i = torch.arange(T, device=device)
    distance = i[:, None] - i[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0

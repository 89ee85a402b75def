"""The blocks with one fixed order of additions, in plain PyTorch: exact mode on a CPU, and the algorithms in readable form.

The bits of a token's result depend only on this token and on what it attends to. They do not depend on how many rows are computed
together, on the position of its row, or on whether its past comes from a cache. Two rules ensure this.

1. A matrix product always has the same shape, or one of a few shapes that give the same bits.
   - Why: a library chooses its order of additions by the shape. A row alone gets other bits than the same row among 100.
   - Linear layers: rows are cut into tiles of a fixed number of rows; the last tile is padded with zeros.
   - Attention: blocks of PAGE keys from the start of the document, with an online softmax (arXiv 2205.14135). A block that a row
     does not see changes nothing for it: its maximum stays, exp(0) = 1, and 0 is added.
   - In some shapes the order also depends on the position of the row in the tile (for example the product of 64 probabilities
     with values of head size 6 or 10). So each shape is tested once. If it fails, the operands are padded to multiples of ROUND.
     If this fails too, the products are added one after the other.
2. Outside of matrix products there are only
   - additions, multiplications, divisions, square roots and maxima, for which IEEE 754 defines one result;
   - exp, log and rsqrt;
   - sums, also of squares, along the last axis of a contiguous tensor.
   There is no sigmoid or silu (torch's vector code and its code for the last elements of a tensor differ in the last bit), and no
   fused multiply-add.

torch does not promise its order of additions, so it is tested: by tests/engine/test_exact.py, and in every step of a GRPO run in
exact mode. Only the forward pass must be invariant: gradients come from the fast blocks.

Letters as in model.py: B rows, T tokens in a row, H query heads, K key/value heads, hd head size, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fast, fast_attention, processor
from .fast_attention import NOWHERE, Packing

TILE = 32                                 # rows of a matrix product
SIZES = 16, 32, 48, 64, 128, 256, 512     # the same for oneDNN, if it gives a row the same bits in all of them
QUERIES = 8, 4, 32, 64                    # query rows of a tile of attention (tokens times heads that share a key head); others
                                          # than the first are used only if a row has the same bits in them
PAGE = 64                                 # keys in a block of attention, and tokens in a page of the cache
ALIGNED = 64                              # bytes; tensors that torch allocates start at a multiple of it
ROUND = 16                                # numbers in a vector register; multiples of it have one order of additions


def product(x: Tensor, weight: Tensor, reordered: Tensor | None = None) -> Tensor:
    """x (M, D) @ weight (N, D).T, by the first of several methods that gives a row the same bits at any position in any batch.
    reordered: fast.reorder of the weight."""
    N, D = weight.shape
    x = x if x.data_ptr() % ALIGNED == 0 else x.clone()   # in some libraries the order depends on the address
    if fast.has_onednn(x, weight) and _onednn_agrees(N, D, torch.get_num_threads()):
        return fast.in_parts(fast.onednn, x, weight if reordered is None else reordered, SIZES)
    return fast.in_parts(_tile_product(N, D, weight.dtype, weight.device, torch.get_num_threads()), x, weight, (TILE,))


@functools.cache
def _onednn_agrees(N, D, threads):
    """Whether oneDNN gives a row the same bits at any position among any of SIZES rows, with a weight (N, D), reordered or
    not."""
    return _agrees(fast.onednn, N, D, torch.float32, "cpu", SIZES, fast.reorder)


@functools.cache
def _tile_product(N, D, dtype, device, threads):
    """The method for the product of TILE rows with a weight (N, D): that of torch if a row has the same bits at every position;
    else that of padded operands; else the slow one."""
    ways = F.linear, _rounded_linear, _linear_in_order
    return next(way for way in ways if way is ways[-1] or _agrees(way, N, D, dtype, device, (TILE,)))


def _rounded_linear(x, weight):
    N, D = weight.shape
    return F.linear(F.pad(x, (0, -D % ROUND)), F.pad(weight, (0, -D % ROUND, 0, -N % ROUND)))[:, :N].contiguous()


def _linear_in_order(x, weight):
    return _bmm_in_order(x[None], weight.T[None])[0]


def _agrees(multiply, N, D, dtype, device, sizes, reorder=torch.clone):
    """Whether a row gets the same bits at any position among any of `sizes` rows, and with the weight at any address, reordered
    or not. It is tested with tiles whose rows are all equal. A few numbers may agree by chance, so more rows are tested for a
    narrow weight."""
    # The numbers are drawn in float64. Products of float32 numbers would be exact in float64: without rounding, fewer differences
    # between two orders of additions would show.
    g = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, D, generator=g, dtype=torch.float64).to(device, dtype) for n in (1 + 64 // N, N))
    elsewhere, reordered = torch.empty(1 + N * D, device=device, dtype=dtype)[1:].view(N, D).copy_(weight), reorder(weight)
    reordered = weight if reordered is None else reordered
    cases = [(size, w) for size in sizes for w in (weight, reordered)] + [(size, elsewhere) for size in {sizes[0], sizes[-1]}]
    for row in x:
        found = [multiply(row.expand(size, D).contiguous(), w) for size, w in cases]
        if not all(torch.equal(y, found[0][:1].expand_as(y)) for y in found):
            return False
    return True


class _Linear(torch.autograd.Function):
    """The product above; its gradient needs no fixed order."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        d_x = fast.input_gradient(g.contiguous(), weight) if ctx.needs_input_grad[0] else None
        return d_x, g.T @ x if ctx.needs_input_grad[1] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, reordered: Tensor | None = None) -> Tensor:
    """x (..., D) @ weight (N, D).T + bias -> (..., N). reordered: as for `product`; then there is no gradient."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = _Linear.apply(rows, weight) if torch.is_grad_enabled() else product(rows, weight, reordered)
    y = y.view(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) / root mean square * weight. The fast version is exact already: it is a sum along each row."""
    return fast.rms_norm(x, weight, eps)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        out = torch.empty_like(x)
        (a, b), (to_a, to_b) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
        torch.mul(a, cos, out=to_a).sub_(b * sin)
        torch.mul(b, cos, out=to_b).add_(a * sin)
        return out

    @staticmethod
    def backward(ctx, g):
        cos, sin = ctx.saved_tensors
        return fast.rotate(g, cos, -sin), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: x (B, T, heads, hd), cos and sin (B, T, 1, hd/2) -> like x."""
    return _Rotate.apply(x.to(cos.dtype), cos, sin).to(x.dtype)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        below = (-gate).exp_().add_(1)
        return torch.div(gate, below, out=below).mul_(up)

    @staticmethod
    def backward(ctx, g):
        gate, up = ctx.saved_tensors
        if processor.able(processor.silu_gradient, gate.dtype):
            return processor.silu_gradient(g * up, gate), F.silu(gate).mul_(g)
        s = gate.sigmoid()
        return g * up * s * (1 + gate * (1 - s)), gate * s * g


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, arXiv 2002.05202."""
    return _Swiglu.apply(gate, up)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, score):
        ctx.save_for_backward(y, score)
        below = (-score.to(torch.promote_types(score.dtype, torch.float32))).exp().add_(1)
        return (y / below[..., None]).to(y.dtype)

    @staticmethod
    def backward(ctx, g):
        y, score = ctx.saved_tensors
        s = score.sigmoid()
        return (g * s[..., None]).to(y.dtype), ((g * y).sum(dim=-1) * s * (1 - s)).to(score.dtype)


def gate(y: Tensor, score: Tensor) -> Tensor:
    """sigmoid(score) * y, a factor for each head: y (B, T, H, hd), score (B, T, H) -> like y."""
    return _Gate.apply(y, score)


@functools.cache
def _query_tiles(hd, dtype, threads):
    """How attention multiplies at this head size: (padded head size, tile sizes, multiply).

    tile sizes: those of QUERIES in which a row has the same bits as in a tile of QUERIES[0], at every position and in any number
    of tiles; the smallest first."""
    for padded, multiply in ((hd, torch.bmm), (hd + -hd % ROUND, torch.bmm), (hd, _bmm_in_order)):
        wanted = [x[:, :1] for x in _tiles_of_one_row(multiply, padded, dtype, QUERIES[0], 8)]
        sizes = [size for size in sorted(QUERIES) if all(
            torch.equal(ours, theirs[torch.arange(count) % 8].expand_as(ours)) for count in (1, 3, 8, 20)
            for ours, theirs in zip(_tiles_of_one_row(multiply, padded, dtype, size, count), wanted, strict=True))]
        if QUERIES[0] in sizes:                                               # always true for the last method
            return padded, sizes, multiply


def _tiles_of_one_row(multiply, hd, dtype, size, count):
    """The two products of attention in `count` tiles; each tile repeats one of eight random rows."""
    g, which = torch.Generator().manual_seed(0), torch.arange(count) % 8
    q, p, k = (torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((8, hd), (8, PAGE), (1, PAGE, hd)))
    q, p, k = *(x[which, None].repeat(1, size, 1) for x in (q, p)), k.repeat(count, 1, 1)
    return multiply(q, k.transpose(1, 2)), multiply(p, k)


def _bmm_in_order(x, y):
    """x (n, M, D) @ y (n, D, N), added from the first product to the last: slow, but in one order. Half precision in float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    out = x.new_zeros(x.shape[0], x.shape[1], y.shape[2], dtype=wide)
    for i in range(x.shape[2]):
        out += x[:, :, i:i + 1].to(wide) * y[:, i:i + 1].to(wide)
    return out.to(x.dtype)


def attend_tiles(q: Tensor, K: int, blocks: Callable, first: Tensor, window: int = 0) -> tuple[Tensor, Tensor]:
    """q (n, R, H, hd) against blocks of PAGE keys: blocks(j) -> k and v of block j, each (n, K, PAGE, hd) -> (n, R, H, hd), and
    the log-sum-exp of the scores of each query (n, R, H).

    Query r of row i is at position first[i] + r of its document (first (n,) of int) and sees the keys up to its own position;
    window > 0: the last `window` of them. Slots that no query sees may hold any finite numbers.
    """
    n, R, H, hd = q.shape
    G = H // K                                                                # query heads that share a key head
    padded, sizes, multiply = _query_tiles(hd, q.dtype, torch.get_num_threads())
    size = max((size for size in sizes if size <= R * G), default=QUERIES[0])
    tiles = -(-R * G // size)
    q = q.reshape(n, R, K, G, hd).transpose(1, 2).reshape(n * K, R * G, hd) * hd ** -0.5           # row r G + g: token r, head g
    q = F.pad(q, (0, padded - hd, 0, tiles * size - R * G)).view(n * K, tiles, size, padded)            # filled up with zeros
    earliest, latest = int(first.min()), int(first.max())
    token = torch.arange(tiles * size).div(G, rounding_mode="floor")          # of each row of the tiles
    positions = (first[:1] if earliest == latest else first)[:, None] + token # (n or 1, rows)
    positions = positions.view(-1, 1, tiles, size, 1)                         # (n or 1, 1, tiles, size, 1)
    best = q.new_full((n * K, tiles, size, 1), -1e30)                         # not -inf, whose difference with itself is nan
    total, out = torch.zeros_like(best), torch.zeros_like(q)                  # (n K, tiles, size, 1), (n K, tiles, size, padded)
    for j in range(0, latest + R, PAGE):
        # tiles from `start` on reach position j, and tiles before `end` still have the block in their window
        start = max(0, j - latest) * G // size
        end = tiles if not window else min(tiles, -(-max(0, j + PAGE + window - 1 - earliest) * G // size))
        if start >= end:
            continue
        part, some = slice(start, end), end - start
        kb, vb = (_pad_heads(x, padded).reshape(n * K, 1, PAGE, padded).expand(-1, some, -1, -1).flatten(0, 1)
                  for x in blocks(j // PAGE))                                 # (n K some, PAGE, padded)
        scores = multiply(q[:, part].flatten(0, 1), kb.transpose(1, 2))       # (n K some, size, PAGE)
        # distance from the key to the query: (n or 1, 1, some, size, PAGE)
        behind = positions[:, :, part] - torch.arange(j, j + PAGE)
        hidden = behind < 0 if not window else (behind < 0) | (behind >= window)
        mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, float("-inf"))
        scores = scores.view(n, K, some, size, PAGE).add_(mask).view(n * K, some, size, PAGE)
        higher = torch.maximum(best[:, part], scores.amax(dim=-1, keepdim=True))               # (n K, some, size, 1)
        shrink = (best[:, part] - higher).exp_()                              # (n K, some, size, 1): 1 where the maximum stays
        p = scores.sub_(higher).exp_()                                        # (n K, some, size, PAGE)
        total[:, part] = total[:, part].mul(shrink).add_(p.sum(dim=-1, keepdim=True))
        more = multiply(p.flatten(0, 1), vb).view(n * K, some, size, padded)  # (n K, some, size, padded)
        out[:, part] = out[:, part].mul(shrink).add_(more)
        best[:, part] = higher
    out, lse = (x.flatten(1, 2)[:, :R * G, :hd].reshape(n, K, R, G, -1).transpose(1, 2)           # (n, R, K, G, hd or 1)
                for x in (out / total, best + total.log()))
    return out.reshape(n, R, H, hd), lse.reshape(n, R, H)


def _pad_heads(x, padded):
    """x (..., hd), padded with zeros: (..., padded)."""
    return x if x.shape[-1] == padded else F.pad(x, (0, padded - x.shape[-1]))


def _attend_rows(q, k, v, window):
    """Rows of one document each: q (n, L, H, hd), k and v (n, L, K, hd) -> (n, L, H, hd), and the log-sum-exp (n, L, H)."""
    k, v = (F.pad(x.transpose(1, 2), (0, 0, 0, -x.shape[1] % PAGE)).contiguous() for x in (k, v))       # (n, K, S, hd)

    def blocks(j):
        return (x[:, :, j * PAGE:(j + 1) * PAGE] for x in (k, v))
    return attend_tiles(q, k.shape[1], blocks, torch.zeros(q.shape[0], dtype=torch.long), window)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, packing, window, lse):
        ctx.save_for_backward(q, k, v)
        ctx.packing, ctx.window, ctx.lse = packing, window, lse
        if packing.buckets is None:
            found = _attend_rows(q, k, v, window)
        else:
            B, T = q.shape[:2]
            q, k, v = (x.flatten(0, 1)[packing.gather] for x in (q, k, v))    # (slots, heads, hd), see Packing
            parts, at = [], 0
            for n, L in packing.buckets:
                part = slice(at, at + n * L)
                parts.append(_attend_rows(*(x[part].view(n, L, *x.shape[1:]) for x in (q, k, v)), window))
                at += n * L
            found = (torch.cat([x.flatten(0, 1) for x in xs])[packing.scatter].unflatten(0, (B, T)) for xs in zip(*parts))
        out, sums = found
        return out, sums if lse else None

    @staticmethod
    def backward(ctx, *g):
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            out = fast.attend(*inputs, ctx.packing, ctx.window, ctx.lse)
        return (*torch.autograd.grad(out, inputs, g if ctx.lse else g[0]), None, None, None)


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, window: int = 0,
           lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention inside each document: q (B, T, H, hd), k and v (B, T, K, hd) -> (B, T, H, hd). lse: also returns the
    log-sum-exp of the scores of each query (B, T, H)."""
    found = _Attend.apply(q, k, v, packing, window, lse)
    return found if lse else found[0]


def attend_cached(q: Tensor, cache: Any, layer: int, window: int = 0, pages: Pages | None = None,
                  lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of new tokens to the pages of their row (engine/cache.py); a page is a block of keys: q (B, R, H, hd) -> like q.
    pages: the result of find_pages, if it is known already. lse: also returns the log-sum-exp (B, R, H)."""
    B, R, H, hd = q.shape
    K = cache.k.shape[2]
    padded, sizes, multiply = _query_tiles(hd, q.dtype, torch.get_num_threads())
    tile = next((size for size in sizes if size >= H // K), None)
    def blocks(j):
        return (x[layer][cache.table[:B, j]] for x in (cache.k, cache.v))
    if R == 1 and tile:
        found = _attend_pages(q, cache, layer, pages or find_pages(cache, B, q.dtype, window), tile, padded, multiply)
    else:
        found = attend_tiles(q, K, blocks, cache.lengths[:B], window)
    return found if lse else found[0]


def _attend_pages(q, cache, layer, pages, tile, padded, multiply):
    """attend_tiles for one token of each row, with the same additions in the same order. All pages in use are multiplied at once,
    in the order of the pool, so no key is copied. Only rows that have a block j read it: with the longest rows first, these are
    the first n rows."""
    (B, _, H, hd), (P, K) = q.shape, (cache.used, cache.k.shape[2])
    G = H // K
    owner, mask, order, rank, parts = pages
    k, v = (_pad_heads(x[layer][:P].flatten(0, 1), padded) for x in (cache.k, cache.v))                    # (P K, PAGE, padded)
    q = F.pad(q.view(B, K, G, hd) * hd ** -0.5, (0, padded - hd, 0, tile - G))[owner].flatten(0, 1)      # (P K, tile, padded)
    scores = multiply(q, k.transpose(1, 2)).view(P, K, tile, PAGE)[order, :, :G].add_(mask)           # block after block
    top, best, highest, shrink = scores.amax(dim=-1, keepdim=True), q.new_full((B, K, G, 1), -1e30), [], []
    for part, n in parts:
        highest.append(torch.maximum(best[:n], top[part]))
        shrink.append(best[:n] - highest[-1])
        best = highest[-1]
    shrink = torch.cat(shrink).exp_()
    p = scores.sub_(torch.cat(highest)).exp_()                                # (P, K, G, PAGE)
    sums, rows = p.sum(dim=-1, keepdim=True), p.new_zeros(P, K, tile, PAGE)
    rows[order, :, :G] = p
    more = multiply(rows.flatten(0, 1), v).view(P, K, tile, padded)[order, :, :G, :hd]
    total, out, best = q.new_zeros(B, K, G, 1), q.new_zeros(B, K, G, hd), q.new_empty(B, K, G, 1)
    for (part, n), higher in zip(parts, highest):
        total[:n].mul_(shrink[part]).add_(sums[part])
        out[:n].mul_(shrink[part]).add_(more[part])
        best[:n] = higher
    return (out / total)[rank].view(B, 1, H, hd), (best + total.log())[rank].view(B, 1, H)


class Pages(NamedTuple):
    """The P pages in use in one step of decoding. All layers with the same window need the same."""
    owner: torch.Tensor                   # (P,) the row of each, in the order of the pool
    mask: torch.Tensor                    # (P, 1, 1, PAGE) added to scores, in the order below
    order: torch.Tensor                   # (P,) the pages' numbers: block 0 of all rows, block 1 of those that have one, ...
    rank: torch.Tensor                    # (B,) the place of each row, the longest first
    parts: list[tuple[slice, int]]        # of each block: where its pages stand in `order`, and how many they are


def find_pages(cache: Any, B: int, dtype: torch.dtype, window: int) -> Pages:
    """The Pages that B rows of a cache read for their next token, in a model of this type."""
    owner, _, mask = fast_attention.find_pages(cache, B, dtype, window)
    mine = ((cache.owner[:cache.used] < B) & (cache.start[:cache.used] < NOWHERE)).nonzero().flatten()
    block = cache.start[mine] // PAGE                     # counted from the first page that the row still holds
    block -= torch.full((B,), NOWHERE).scatter_reduce_(0, owner[mine], block, "amin")[owner[mine]]
    rank = torch.bincount(owner[mine], minlength=B).argsort(descending=True, stable=True).argsort()
    order = mine[(block * B + rank[owner[mine]]).argsort()]
    counts = torch.bincount(block).tolist()
    parts = [(slice(sum(counts[:j]), sum(counts[:j + 1])), n) for j, n in enumerate(counts)]
    return Pages(owner, mask[order], order, rank, parts)


def token_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, entropy: bool = False,
                   unused_ids: Sequence[tuple[int, int]] = ()) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability of each target, and on request the entropy: as fast.token_logprobs, from this file's product."""
    return fast.token_logprobs(hidden, weight, targets, temperature, entropy, unused_ids, product=_Linear.apply)

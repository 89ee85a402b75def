"""FlashAttention in Triton: causal, grouped heads, packed documents, sliding window, training and KV cache.

The algorithm is FlashAttention-2 (arXiv 2307.08691). A program computes one tile of queries. A loop takes the keys in blocks,
from the first block to the last. For the softmax it keeps the maximum `top` and the sum `total` over the blocks so far. Whenever
the maximum grows, it rescales the sum and the output. So the (T, T) scores never exist at the same time.

The backward pass computes the probabilities again, from the log-sum-exp of each row. One kernel loops over the keys and computes
dq; another loops over the queries and computes dk and dv. Each result is written by one program only. So there are no atomic
additions, and two runs give the same bits.

Query heads that share a key head are in one tile: row r of a tile is token r // G and head r % G of the group. A decoding step is
then a tile with one token. So the same kernel is used in training, prefill and decoding.

Simpler than the best kernels:
- The keys of one query are not split among programs. So multiprocessors are idle when few rows with a long context are decoded.
- There is no warp specialisation, no TMA and no autotuning: the tables below are chosen by hand.
- Every block is masked, also those that do not need it. With a second loop, without a mask, ptxas would run the tensor cores of a
  Hopper GPU one after the other.

The bits of a row must depend only on its query and on the keys that it sees. These rules ensure it:
- Blocks of keys begin at the start of the document, and are computed from first to last. A window leaves out blocks, but never
  moves them.
- Every block is computed by the same instructions. Fused multiply-add is written out, and the compiler may not add others.
- A masked key has p = 0. A block without visible keys changes nothing, because the maximum starts at a finite number.
- The tile has the same size in training, prefill and decoding, because the layout of a tile decides in which order a row is added
  up. On an H100 the order is the same with 64 or 128 rows and 4 warps, and with 16 rows and 1 warp, but not with 16 rows and 4.
The last rule makes decoding slower, so it holds only in exact mode. This is the only thing that `exact` changes here.

Letters: B rows, T tokens in a row, N tokens in all, H query heads, K key/value heads, G = H / K, hd head size. A key cache is
(P, K, PAGE, hd): P pages of PAGE tokens. `table` (B, most) holds the pages of each row; without a table each row is one page. A
block of keys is never on two pages.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .linear import device_kind

LN2 = tl.constexpr(math.log(2))                           # scores are in base 2, gradients are not

# {largest head size, rounded up to a power of two: (BLOCK_M query rows, BLOCK_N keys, warps, pipeline stages)}. With these sizes
# a program fits into the registers of a Hopper GPU, and a page of the cache is a whole number of blocks. Those for heads of 64
# and 128 come from a sweep on an H100 (results/tried.jsonl): the fastest, or one as fast that spills no registers in a loop.
# Several small programs on a multiprocessor are better than one large program: while one waits for memory, another computes.
TILES = {
    "exact": {64: (64, 64, 4, 3), 128: (64, 64, 4, 3), 256: (64, 32, 4, 2)},
    "forward": {64: (64, 64, 4, 3), 128: (64, 64, 4, 3), 256: (128, 32, 8, 3)},
    "decode": {64: (16, 64, 4, 3), 128: (16, 64, 4, 4), 256: (16, 64, 4, 3)},
    "backward_q": {64: (128, 64, 8, 3), 128: (128, 64, 8, 3), 256: (128, 32, 8, 2)},
    "backward_kv": {64: (32, 64, 4, 1), 128: (32, 64, 4, 3), 256: (32, 64, 8, 2)},
}
# Other GPUs give a program 99 KB of fast memory (Ada, consumer Ampere and Blackwell) where Hopper gives 227.
TILES_OTHER = TILES | {
    "forward": {64: (128, 64, 4, 3), 128: (128, 64, 8, 2), 256: (64, 32, 8, 2)},
    "decode": {64: (16, 64, 4, 3), 128: (16, 64, 4, 3), 256: (16, 32, 4, 2)},
    "backward_q": {64: (128, 64, 8, 3), 128: (64, 32, 4, 2), 256: (32, 32, 4, 2)},
    "backward_kv": {64: (64, 128, 8, 3), 128: (32, 64, 8, 2), 256: (32, 32, 4, 2)},
}
# float32 has no tensor cores that keep its precision: small tiles.
TILES_FLOAT32 = {kind: {64: (32, 32, 4, 2), 256: (16, 16, 4, 1)} for kind in TILES}
TILES_FLOAT32 |= {kind: {64: (16, 32, 4, 2), 256: (16, 16, 4, 1)} for kind in ("forward", "decode", "backward_kv")}


def _config(kind, head_size, dtype, G, device):
    """BLOCK_M, BLOCK_N, BLOCK_D, warps, stages."""
    tables = TILES_FLOAT32 if dtype == torch.float32 else TILES if device_kind(device) == "data centre" else TILES_OTHER
    table, block_d = tables[kind], max(16, triton.next_power_of_2(head_size))
    fitting = [size for size in table if block_d <= size]
    if not fitting:
        raise ValueError(f"head size {head_size} is above {max(table)}: use kernels.fast")
    block_m, block_n, warps, stages = table[min(fitting)]
    return max(block_m, triton.next_power_of_2(G)), block_n, block_d, warps, stages


class Spans:
    """The positions of the query tokens. A span is the query tokens of one document, or of one row of the cache.

    Int tensors (n,) on the device:
    - first: the index of the first query token of a span among all N query tokens
    - length: the number of its query tokens; it may be 0
    - offset: the position of its first query token in the document: 0 in training; in decoding, and in prefill in pieces, the
      number of tokens in the cache
    - base: where its keys begin. With packed keys (N, K, hd) it is the index of the first token of the document; with a cache,
      the row of the page table

    tokens: N, a Python int."""

    def __init__(self, first: Tensor, length: Tensor, offset: Tensor, base: Tensor, tokens: int):
        self.first, self.length, self.offset, self.base, self.tokens = first, length, offset, base, tokens
        self.whole = False                        # known to cover all the tokens?
        self.decode = False                       # one token each?

    @staticmethod
    def of_documents(documents: Tensor, device: torch.device | None = None) -> "Spans":
        """documents (B, T): the document number of each token, as in Packing; neighbours with the same number are one document.
        It may also be only the shape (B, T): then every row is one document. Waits for the device once, for the number of
        documents."""
        if not isinstance(documents, torch.Tensor):
            return Spans.of_rows(*documents, device)
        new = torch.ones_like(documents, dtype=torch.bool)                    # does a document start here?
        new[:, 1:] = documents[:, 1:] != documents[:, :-1]
        first = new.flatten().nonzero().flatten()                             # row ends are document ends as well
        length = torch.diff(first, append=first.new_full((1,), documents.numel()))
        return Spans._of_whole(first, length, documents.numel())

    @staticmethod
    def of_rows(B: int, T: int, device: torch.device) -> "Spans":
        """Every row of (B, T) is one document."""
        first = torch.arange(B, device=device) * T
        return Spans._of_whole(first, torch.full_like(first, T), B * T)

    @staticmethod
    def _of_whole(first, length, tokens):
        spans = Spans(first, length, torch.zeros_like(first), first, tokens)
        spans.whole = True
        return spans

    @staticmethod
    def of_cache(lengths: Tensor, tokens: int = 1, rows: Tensor | None = None) -> "Spans":
        """The next `tokens` tokens of each of B rows of a cache. lengths (B,): the tokens that each row held before them. The
        keys of the new tokens must be in the cache already. rows (B,): which rows; None: 0, ..., B - 1. Never waits for the
        device."""
        row = torch.arange(lengths.shape[0], device=lengths.device)
        spans = Spans(row * tokens, torch.full_like(row, tokens), lengths, row if rows is None else rows,
                      lengths.shape[0] * tokens)
        spans.whole, spans.decode = True, tokens == 1
        return spans

    def tiles(self, per_tile: int) -> Tensor:
        """Cuts the spans into tiles of at most per_tile query tokens -> int32 (n_tiles, 4): the index of the first query, the
        number of queries, the position of the first in its document, base. The tiles with the most keys come first (long
        documents, and in them the late tiles), so that no long one starts at the end."""
        if self.decode:
            return self._table((self.first, self.length, self.offset, self.base))
        span, within, count = self._cut(per_tile, late_first=True)
        return self._table((self.first[span] + within, count, self.offset[span] + within, self.base[span]))

    def key_tiles(self, per_tile: int) -> Tensor:
        """The same for the keys of complete documents (offset 0) -> int32 (n_tiles, 5): the index of the first key, the number of
        keys, the position of the first in its document, the index of the first query of the document, and its length. Here early
        tiles come first: early keys are seen by the most queries."""
        span, within, count = self._cut(per_tile, late_first=False)
        return self._table((self.base[span] + within, count, within, self.first[span], self.length[span]))

    @staticmethod
    def _table(columns):
        table = torch.stack([column.to(torch.int32) for column in columns], dim=1)
        return table * (table[:, 1:2] > 0)                                    # an unused tile is a row of zeros

    def _cut(self, per_tile, late_first):
        """The span of each tile, its first token in the span, and the number of its tokens: (n_tiles,) each.

        n_tiles is the largest number that the spans may need, because the CPU knows it without waiting for the GPU. Tiles that
        are not needed have 0 tokens."""
        n = self.length.shape[0]
        n_tiles = (self.tokens + n * (per_tile - 1)) // per_tile if n else 0
        order = self.length.argsort(descending=True, stable=True)
        pieces = (self.length[order] + per_tile - 1) // per_tile              # (n,) tiles of each span
        ends = pieces.cumsum(0)
        tile = torch.arange(n_tiles, device=self.length.device)
        at = torch.searchsorted(ends, tile, right=True).clamp(max=max(n - 1, 0))
        nth = tile - (ends - pieces)[at]                                      # (n_tiles,) which tile of its span
        used = nth < pieces[at]
        within = (pieces[at] - 1 - nth if late_first else nth) * per_tile
        span = order[at]
        return span, within, (self.length[span] - within).clamp(max=per_tile) * used


@dataclass
class Tiles:
    """Spans, cut into what one program computes. They fit one type of the queries, one head size and one G."""
    kind: str                         # of the forward pass, a key of TILES: "exact", "forward" or "decode"
    dtype: torch.dtype                # of the queries
    forward: torch.Tensor             # Spans.tiles, int32 (n_tiles, 4)
    backward_q: torch.Tensor | None   # the same for the backward pass: tiles of queries; None without a gradient
    backward_kv: torch.Tensor | None  # and tiles of keys, Spans.key_tiles, int32 (n_tiles, 5)
    whole: bool                       # do the spans cover all the tokens?


def make_tiles(spans: Spans, dtype: torch.dtype, hd: int, G: int, exact: bool = False, gradient: bool = False) -> Tiles:
    """Cuts spans into Tiles for queries of a type, of head size hd, with G query heads for each key head. All layers of a pass
    need the same ones. gradient: those of the backward pass as well."""
    kind = "exact" if exact else "decode" if spans.decode else "forward"

    def size(kind, part):
        return _config(kind, hd, dtype, G, spans.first.device)[part]
    return Tiles(kind, dtype, spans.tiles(size(kind, 0) // G), spans.tiles(size("backward_q", 0) // G) if gradient else None,
                 spans.key_tiles(size("backward_kv", 1)) if gradient else None, spans.whole)


@triton.jit
def _attend_forward(q, k, v, out, lse, tiles, table, q_token, q_head, k_row, k_head, k_key, v_row, v_head, v_key, table_row,
             window, scale, K: tl.constexpr, G: tl.constexpr, HD: tl.constexpr, BLOCK_M: tl.constexpr,
             BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WINDOWED: tl.constexpr, PAGE: tl.constexpr):
    """One tile of queries of one key head. PAGE > 0: the keys are in the pages of a cache. Scores are in base 2: scale =
    hd^-0.5 log2(e), lse = log2 sum 2^score."""
    tile, kv_head = tl.program_id(0) // K, (tl.program_id(0) % K).to(tl.int64)
    first, count = tl.load(tiles + tile * 4).to(tl.int64), tl.load(tiles + tile * 4 + 1)
    start, base = tl.load(tiles + tile * 4 + 2), tl.load(tiles + tile * 4 + 3).to(tl.int64)
    row, key, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    token, group = row // G, row % G                      # rows after the last complete token have token >= count
    row_there = token < count
    there = row_there[:, None] & (dim < HD)[None, :]
    q += first * q_token + kv_head * G * q_head
    q_tile = tl.load(q + (token * q_token + group * q_head)[:, None] + dim[None, :], mask=there, other=0.0)
    k += kv_head * k_head
    v += kv_head * v_head
    if PAGE == 0:
        k += base * k_row
        v += base * v_row

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    top = tl.full((BLOCK_M,), -1e30, tl.float32)          # finite: -inf - -inf is NaN
    position, end = start + token, start + count          # the tile sees the keys up to its own last token
    begin = start * 0
    if WINDOWED:
        begin = tl.maximum(start - window + 1, 0) // BLOCK_N * BLOCK_N
    if PAGE > 0:                                          # read one block ahead; else the loads of keys would wait for it
        table += base * table_row
        next_page = tl.load(table + begin // PAGE).to(tl.int32)
    for at in range(begin, end, BLOCK_N):
        # Slots after the end of a cache are read as zero, so that 0 * v cannot be NaN there.
        block_there = (at + key < end)[:, None] & (dim < HD)[None, :]
        k_at, v_at = tl.cast(at, tl.int64) * k_key, tl.cast(at, tl.int64) * v_key
        if PAGE > 0:
            page = next_page.to(tl.int64)
            next_page = tl.load(table + (at + BLOCK_N) // PAGE, mask=at + BLOCK_N < end, other=0).to(tl.int32)
            k_at, v_at = page * k_row + (at % PAGE) * k_key, page * v_row + (at % PAGE) * v_key
        k_block = tl.load(k + k_at + key[:, None] * k_key + dim[None, :], mask=block_there, other=0.0)
        score = tl.dot(q_tile, k_block.T, input_precision="ieee")             # (BLOCK_M, BLOCK_N)
        seen = (at + key)[None, :] <= position[:, None]
        if WINDOWED:
            seen = seen & ((at + key)[None, :] > position[:, None] - window)
        score = tl.where(seen, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1) * scale)
        p = tl.exp2(tl.fma(score, scale, -new_top[:, None]))
        decay = tl.exp2(top - new_top)
        total = total * decay + tl.sum(p, 1)
        v_block = tl.load(v + v_at + key[:, None] * v_key + dim[None, :], mask=block_there, other=0.0)
        acc = tl.dot(p.to(v_block.dtype), v_block, acc * decay[:, None], input_precision="ieee")
        top = new_top

    total = tl.maximum(total, 1e-30)                      # an unused tile has 0
    out_row = (first * K + kv_head) * G + token * (K * G) + group             # out and lse are contiguous
    tl.store(lse + out_row, top + tl.log2(total), mask=row_there)
    tl.store(out + out_row[:, None] * HD + dim[None, :], (acc / total[:, None]).to(out.dtype.element_ty), mask=there)


@triton.jit
def _attend_backward_q(q, k, v, out, do, lse, d_lse, delta, dq, tiles, q_token, q_head, k_token, k_head, v_token, v_head, window,
                scale, K: tl.constexpr, G: tl.constexpr, HD: tl.constexpr, BLOCK_M: tl.constexpr,
                BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WINDOWED: tl.constexpr):
    """dq = sum of p * (do v' - delta) k for one tile of queries of one key head, with the same loop over the keys as the forward
    pass. It runs before the other kernel, and writes delta = sum(out * do), which the other one reads. d_lse: the gradient of
    the log-sum-exp, or None. The log-sum-exp changes with a score by p, so d_lse is subtracted from delta."""
    tile, kv_head = tl.program_id(0) // K, (tl.program_id(0) % K).to(tl.int64)
    first, count = tl.load(tiles + tile * 4).to(tl.int64), tl.load(tiles + tile * 4 + 1)
    start, base = tl.load(tiles + tile * 4 + 2), tl.load(tiles + tile * 4 + 3).to(tl.int64)
    row, key, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    token, group = row // G, row % G
    row_there = token < count
    there = row_there[:, None] & (dim < HD)[None, :]
    q += first * q_token + kv_head * G * q_head
    q_tile = tl.load(q + (token * q_token + group * q_head)[:, None] + dim[None, :], mask=there, other=0.0)
    k += base * k_token + kv_head * k_head
    v += base * v_token + kv_head * v_head
    out_row = (first * K + kv_head) * G + token * (K * G) + group
    out_at = out_row[:, None] * HD + dim[None, :]         # out, do and dq are contiguous
    do_tile = tl.load(do + out_at, mask=there, other=0.0)
    out_tile = tl.load(out + out_at, mask=there, other=0.0)
    delta_row = tl.sum(out_tile.to(tl.float32) * do_tile.to(tl.float32), 1)
    if d_lse is not None:
        delta_row -= tl.load(d_lse + out_row, mask=row_there, other=0.0)
    tl.store(delta + out_row, delta_row, mask=row_there)
    lse_row = tl.load(lse + out_row, mask=row_there, other=float("inf"))      # p = 0 in rows that are not there

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    position, end = start + token, start + count
    begin = start * 0
    if WINDOWED:
        begin = tl.maximum(start - window + 1, 0) // BLOCK_N * BLOCK_N
    for at in range(begin, end, BLOCK_N):
        block_there = (at + key < end)[:, None] & (dim < HD)[None, :]
        far = tl.cast(at, tl.int64)
        k_block = tl.load(k + far * k_token + key[:, None] * k_token + dim[None, :], mask=block_there, other=0.0)
        v_block = tl.load(v + far * v_token + key[:, None] * v_token + dim[None, :], mask=block_there, other=0.0)
        p = tl.exp2(tl.fma(tl.dot(q_tile, k_block.T, input_precision="ieee"), scale, -lse_row[:, None]))
        seen = (at + key)[None, :] <= position[:, None]
        if WINDOWED:
            seen = seen & ((at + key)[None, :] > position[:, None] - window)
        dp = tl.dot(do_tile, v_block.T, input_precision="ieee")
        ds = tl.where(seen, p * (dp - delta_row[:, None]), 0.0)
        acc = tl.dot(ds.to(k_block.dtype), k_block, acc, input_precision="ieee")
    tl.store(dq + out_at, (acc * (scale * LN2)).to(dq.dtype.element_ty), mask=there)


@triton.jit
def _attend_backward_kv(q, k, v, do, lse, delta, dk, dv, tiles, q_token, q_head, k_token, k_head, v_token, v_head, window,
                 scale, K: tl.constexpr, G: tl.constexpr, HD: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WINDOWED: tl.constexpr):
    """dv = sum of p' do and dk = sum of (p * (do v' - delta))' q for one tile of keys of one key head. The loop goes over the
    query rows that see these keys: row r of a document is token r // G and head r % G of the group."""
    tile, kv_head = tl.program_id(0) // K, (tl.program_id(0) % K).to(tl.int64)
    first, count = tl.load(tiles + tile * 5).to(tl.int64), tl.load(tiles + tile * 5 + 1)
    start, query = tl.load(tiles + tile * 5 + 2), tl.load(tiles + tile * 5 + 3).to(tl.int64)
    length = tl.load(tiles + tile * 5 + 4)
    row, key, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    token, group = row // G, row % G                      # a block is BLOCK_M // G complete tokens; rows after them are not used
    out_row = token * (K * G) + group
    there = (key < count)[:, None] & (dim < HD)[None, :]
    k += first * k_token + kv_head * k_head
    v += first * v_token + kv_head * v_head
    k_tile = tl.load(k + key[:, None] * k_token + dim[None, :], mask=there, other=0.0)
    v_tile = tl.load(v + key[:, None] * v_token + dim[None, :], mask=there, other=0.0)
    q += query * q_token + kv_head * G * q_head
    query_row = (query * K + kv_head) * G                 # out, do, lse and delta are contiguous
    do, lse, delta = do + query_row * HD, lse + query_row, delta + query_row

    dk_acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    dv_acc = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    position, end = start + key, length
    if WINDOWED:
        end = tl.minimum(length, start + count - 1 + window)
    for at in range(start, end, BLOCK_M // G):
        row_there = row < tl.minimum(end - at, BLOCK_M // G) * G
        block_there = row_there[:, None] & (dim < HD)[None, :]
        far = tl.cast(at, tl.int64)
        q_at = (token * q_token + group * q_head)[:, None] + dim[None, :]
        q_block = tl.load(q + far * q_token + q_at, mask=block_there, other=0.0)
        do_block = tl.load(do + far * (K * G * HD) + out_row[:, None] * HD + dim[None, :], mask=block_there, other=0.0)
        lse_row = tl.load(lse + far * (K * G) + out_row, mask=row_there, other=float("inf"))   # p = 0 where no row is
        delta_row = tl.load(delta + far * (K * G) + out_row, mask=row_there, other=0.0)
        # Transposed, (BLOCK_N, BLOCK_M), so that p and ds are the left factors of their products.
        p = tl.exp2(tl.fma(tl.dot(k_tile, q_block.T, input_precision="ieee"), scale, -lse_row[None, :]))
        seen = row[None, :] >= ((position - at) * G)[:, None]
        if WINDOWED:
            seen = seen & (row[None, :] < ((position + window - at) * G)[:, None])
        p = tl.where(seen, p, 0.0)
        dv_acc = tl.dot(p.to(do_block.dtype), do_block, dv_acc, input_precision="ieee")
        dp = tl.dot(v_tile, do_block.T, input_precision="ieee")
        ds = p * (dp - delta_row[None, :])
        dk_acc = tl.dot(ds.to(q_block.dtype), q_block, dk_acc, input_precision="ieee")
    dkv_at = (first * K + kv_head) * HD + key[:, None] * (K * HD) + dim[None, :]   # dk and dv are contiguous
    tl.store(dk + dkv_at, (dk_acc * (scale * LN2)).to(dk.dtype.element_ty), mask=there)
    tl.store(dv + dkv_at, dv_acc.to(dv.dtype.element_ty), mask=there)


def _sizes(q, k, window, config):
    """The arguments that are constants for the compiler, the same in all kernels. enable_fp_fusion=False: the compiler must not
    fuse a multiplication and an addition by itself."""
    block_m, block_n, block_d, warps, stages = config
    return dict(K=k.shape[1], G=q.shape[1] // k.shape[1], HD=q.shape[2], BLOCK_M=block_m, BLOCK_N=block_n,
                BLOCK_D=block_d, WINDOWED=window > 0, num_warps=warps, num_stages=stages, enable_fp_fusion=False)


def _scale(q):
    return q.shape[2] ** -0.5 * math.log2(math.e)


@torch.library.custom_op("nanothink::attention", mutates_args=())
def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: torch.Tensor,
               query_tiles: torch.Tensor | None, key_tiles: torch.Tensor | None, window: int, kind: str,
               whole: bool, table: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """-> out like q, and lse (N, H) of float32, in base 2. query_tiles and key_tiles are only kept for the backward pass."""
    K, G = k.shape[1], q.shape[1] // k.shape[1]
    out = (q.new_empty if whole else q.new_zeros)(q.shape)
    lse = (q.new_empty if whole else q.new_zeros)(q.shape[:2], dtype=torch.float32)
    key_axis = 0 if k.ndim == 3 else 2                    # packed keys lie one after the other: base counts keys
    if tiles.shape[0]:
        page, table = (0, tiles) if table is None else (k.shape[2], table)    # without pages the table is not read
        _attend_forward[(tiles.shape[0] * K,)](
            q, k, v, out, lse, tiles, table, q.stride(0), q.stride(1), k.stride(0), k.stride(1), k.stride(key_axis),
            v.stride(0), v.stride(1), v.stride(key_axis), table.stride(0), window, _scale(q), PAGE=page,
            **_sizes(q, k, window, _config(kind, q.shape[2], q.dtype, G, q.device)))
    return out, lse


@_attention.register_fake
def _(q, k, v, tiles, query_tiles, key_tiles, window, kind, whole, table):
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("nanothink::attention_backward", mutates_args=())
def _attention_backward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, do: torch.Tensor,
                        lse: torch.Tensor, d_lse: torch.Tensor | None, query_tiles: torch.Tensor, key_tiles: torch.Tensor,
                        window: int, whole: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> dq, dk, dv. d_lse (N, H): the gradient of the log-sum-exp in base e."""
    K, G = k.shape[1], q.shape[1] // k.shape[1]
    dq, dk, dv = ((x.new_empty if whole else x.new_zeros)(x.shape) for x in (q, k, v))
    do, delta = do.contiguous(), torch.empty_like(lse)
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)
    if query_tiles.shape[0]:
        _attend_backward_q[(query_tiles.shape[0] * K,)](
            q, k, v, out, do, lse, d_lse, delta, dq, query_tiles, *strides, window, _scale(q),
            **_sizes(q, k, window, _config("backward_q", q.shape[2], q.dtype, G, q.device)))
        _attend_backward_kv[(key_tiles.shape[0] * K,)](
            q, k, v, do, lse, delta, dk, dv, key_tiles, *strides, window, _scale(q),
            **_sizes(q, k, window, _config("backward_kv", q.shape[2], q.dtype, G, q.device)))
    return dq, dk, dv


@_attention_backward.register_fake
def _(q, k, v, out, do, lse, d_lse, query_tiles, key_tiles, window, whole):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx, inputs, output):
    q, k, v, _, query_tiles, key_tiles, ctx.window, _, ctx.whole, _ = inputs
    ctx.save_for_backward(q, k, v, *output, query_tiles, key_tiles)
    ctx.set_materialize_grads(False)                      # d_lse is None if lse is not used


def _gradients(ctx, do, d_lse):
    q, k, v, out, lse, query_tiles, key_tiles = ctx.saved_tensors
    do = torch.zeros_like(out) if do is None else do
    d_lse = None if d_lse is None else (d_lse / math.log(2)).contiguous()     # from base 2 to base e
    return *_attention_backward(q, k, v, out, do, lse, d_lse, query_tiles, key_tiles, ctx.window, ctx.whole), *[None] * 7


_attention.register_autograd(_gradients, setup_context=_keep)


def attention(q: Tensor, k: Tensor, v: Tensor, spans: Spans | Tiles, window: int = 0, exact: bool = False,
              table: Tensor | None = None, lse: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Causal attention inside each document -> (N, H, hd), with zeros for query tokens that are in no span.

    - q (N, H, hd); k and v: packed (N, K, hd), or pages (P, K, PAGE, hd). The last dimension must be contiguous.
    - spans: Spans, or the Tiles that make_tiles made of them; `exact` is then decided already
    - window > 0: a token sees itself and the window - 1 tokens before it
    - exact: the bits of a row do not depend on whether it is computed in training, prefill or decoding
    - table (B, most): the pages of each row, where k and v are pages
    - lse: also returns the log-sum-exp of the scores of each query, (N, H) of float32; it has a gradient too

    There is a gradient only with packed keys, and with spans that start at the start of their documents."""
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v must have one type; got {q.dtype}, {k.dtype}, {v.dtype}")
    if not q.stride(-1) == k.stride(-1) == v.stride(-1) == 1:
        raise ValueError("the last dim of q, k and v must be contiguous; call .contiguous() on them")
    H, K, hd = q.shape[1], k.shape[1], q.shape[2]
    if H % K:
        raise ValueError(f"heads={H} must be a multiple of kv_heads={K}")
    gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if gradient and k.ndim == 4:
        raise ValueError("attention over a cache has no gradient: run it under torch.no_grad()")
    tiles = make_tiles(spans, q.dtype, hd, H // K, exact, gradient) if isinstance(spans, Spans) else spans
    if tiles.dtype != q.dtype or gradient and tiles.backward_q is None:
        raise ValueError(f"these tiles are for {tiles.dtype} with{'out' * (tiles.backward_q is None)} a gradient, not for "
                         f"{q.dtype} with{'out' * (not gradient)} one")
    out, sums = _attention(q, k, v, tiles.forward, tiles.backward_q, tiles.backward_kv, window, tiles.kind, tiles.whole, table)
    return (out, sums * math.log(2)) if lse else out

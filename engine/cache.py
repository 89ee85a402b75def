"""Keys and values of past tokens, in pages: sequences of very different lengths share one pool of memory.

A page holds PAGE tokens of one sequence. A row (a sequence that decodes) owns as many pages as it needs. When its last page is
full it gets another one, so no memory is reserved for a length that is never reached (PagedAttention, arXiv 2309.06180). The
owners of pages are stored twice: as lists on the host, which makes the decisions, and as tensors on the device, for attention.

Layers with a sliding window have a pool of their own. There a row gives back the pages that lie behind its window, so it never
holds more than `row_pages` of them, however long it becomes.

Simpler than vLLM: rows do not share pages. The keys of a prompt are computed once and copied to each of its samples.
"""

import heapq
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import NOWHERE, PAGE


class Pool:
    """The pages of the `layers` layers that have one window (0: they see everything). Letters as in model.py.

    k, v      (layers, pages + 1, K, PAGE, hd)
    lengths   (rows,): how many tokens each row holds, a tensor that all pools of a cache share
    table     (rows, most pages): the pages of each row, in order; `spare` for those that it has given back
    owner     (pages + 1,): the row of each page
    start     (pages + 1,): the position in its row of the first token of each page; NOWHERE for a free page
    pages     for each row, on the host: the pages that it holds, in order
    begun     for each row, on the host: how many pages come before these, given back or never taken

    The last page, `spare`, belongs to no row. The table of a free row points to it, so a row that is computed only to pad a batch
    writes there. config: a model.Config.
    """

    def __init__(self, config: Any, layers: int, window: int, pages: int, longest: int, lengths: Tensor, dtype: torch.dtype):
        rows, device = len(lengths), lengths.device
        shape = (layers, pages + 1, config.kv_heads, PAGE, config.head_size)
        self.window, self.size, self.spare, self.lengths = window, pages, pages, lengths
        self.k, self.v = torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)
        self.table = torch.full((rows, pages_of(longest)), self.spare, dtype=torch.long, device=device)
        self.owner = torch.zeros(pages + 1, dtype=torch.long, device=device)
        self.start = torch.full((pages + 1,), NOWHERE, dtype=torch.long, device=device)
        self.pages, self.begun, self.free = [[] for _ in range(rows)], [0] * rows, list(range(pages))
        self.used = 0                # pages in use lie below this number; low ones are given out first

    def widen(self, more: int) -> None:
        self.table = torch.nn.functional.pad(self.table, (0, more), value=self.spare)

    def first(self, position: int) -> int:
        """The first page that a token at this position sees."""
        return max(0, position - self.window + 1) // PAGE if self.window else 0

    def settled(self, row: int, tokens: int, since: int) -> bool:
        """Whether `reserve` has nothing to do. A row needs another page only once in PAGE tokens."""
        return self.first(since) <= self.begun[row] and pages_of(tokens) <= self.begun[row] + len(self.pages[row])

    def fits(self, row: int, tokens: int, since: int) -> bool:
        """Whether `reserve` finds enough free pages."""
        held, first = self.begun[row] + len(self.pages[row]), self.first(since)
        given_back = min(len(self.pages[row]), max(0, first - self.begun[row]))
        return pages_of(tokens) - max(held, first) <= len(self.free) + given_back

    def reserve(self, row: int, tokens: int, since: int) -> None:
        """See KVCache.reserve; there must be enough free pages."""
        first = max(self.begun[row], self.first(since))
        behind, self.pages[row] = self.pages[row][:first - self.begun[row]], self.pages[row][first - self.begun[row]:]
        if behind:
            self._give_back(behind)
            self.table[row, self.begun[row]:first] = self.spare
        self.begun[row] = first
        have, need = first + len(self.pages[row]), pages_of(tokens)
        if need > have:
            new = [heapq.heappop(self.free) for _ in range(need - have)]
            self.pages[row] += new
            ids = upload(new, self.k.device)
            self.table[row, have:need] = ids
            self.owner[ids] = row
            self.start[ids] = torch.arange(have, need, device=self.k.device) * PAGE
            self.used = max(self.used, new[-1] + 1)

    def _give_back(self, pages):
        for page in pages:
            heapq.heappush(self.free, page)
        self.start[upload(pages, self.k.device)] = NOWHERE

    def release(self, rows: Sequence[int]) -> None:
        """Frees the pages of rows. On a CPU the pages in use are then moved together, because attention there computes over the
        pool up to the last used page."""
        self._give_back([page for row in rows for page in self.pages[row]])
        for row in rows:
            self.pages[row], self.begun[row] = [], 0
        self.table[upload(rows, self.k.device)] = self.spare
        if not self.k.is_cuda:
            self._close_gaps()

    def _close_gaps(self):
        held = sorted(((page, row, j) for row, pages in enumerate(self.pages) for j, page in enumerate(pages)), reverse=True)
        for page, row, j in held:
            if not self.free or self.free[0] > page:
                break
            hole = heapq.heapreplace(self.free, page)
            for pool in (self.k, self.v):
                pool[:, hole] = pool[:, page]
            self.pages[row][j] = self.table[row, self.begun[row] + j] = hole
            self.owner[hole], self.start[hole], self.start[page] = row, self.start[page].clone(), NOWHERE
        self.used = len(held)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """See KVCache.move."""
        for source, target in zip(sources, targets):
            self.pages[target], self.pages[source] = self.pages[source], []
            self.begun[target], self.begun[source] = self.begun[source], 0
        device = self.k.device
        at, to = upload(sources, device), upload(targets, device)
        self.table[to] = self.table[at]
        self.table[at] = self.spare
        owned = [(page, row) for row in targets for page in self.pages[row]]
        self.owner[upload([page for page, _ in owned], device)] = upload([row for _, row in owned], device)

    def fill(self, row: int, k: Tensor, v: Tensor) -> None:
        """Puts k and v (layers, T, K, hd) of a row's tokens into the pages that it holds."""
        (layers, T, K, hd), first = k.shape, self.begun[row]
        held = self.pages[row][:pages_of(T) - first]
        ids = upload(held, self.k.device)
        for pool, x in ((self.k, k), (self.v, v)):
            x = torch.nn.functional.pad(x[:, first * PAGE:], (0, 0, 0, 0, 0, -T % PAGE))     # (layers, pages * PAGE, K, hd)
            pool[:, ids] = x.view(layers, len(held), PAGE, K, hd).transpose(2, 3).to(pool.dtype)

    def read(self, row: int, T: int) -> tuple[Tensor, Tensor]:
        """k and v (layers, T, K, hd) of the first T tokens of a row; zeros for tokens whose page it does not hold."""
        first, ids = self.begun[row], upload(self.pages[row][:pages_of(T) - self.begun[row]], self.k.device)
        held = (x[:, ids].transpose(2, 3).flatten(1, 2) for x in (self.k, self.v))            # (layers, pages * PAGE, K, hd)
        return tuple(torch.nn.functional.pad(x, (0, 0, 0, 0, first * PAGE, 0))[:, :T] for x in held)


class KVCache:
    """The keys and values of up to `rows` rows of at most `longest` tokens each, in one Pool for each window of the layers.

    - pages: of a pool
    - bounded: windowed layers get no more pages than `rows` rows can hold. Then a row must give back the pages behind its window,
      by telling `reserve` since which position it goes on.

    pools      {window: Pool}
    of_layer   (pool, its index in the pool) of each layer
    lengths    (rows,): how many tokens each row holds
    """

    def __init__(self, config: Any, rows: int, pages: int, longest: int, device: str | torch.device = "cpu",
                 dtype: torch.dtype = torch.float32, bounded: bool = False):
        self.size, self.longest = pages, longest
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.layers = {w: [i for i, window in enumerate(config.windows) if window == w] for w in dict.fromkeys(config.windows)}
        self.pools = {w: Pool(config, len(layers), w, min(pages, rows * row_pages(w)) if bounded and w else pages, longest,
                              self.lengths, dtype) for w, layers in self.layers.items()}
        self.of_layer = [(self.pools[w], self.layers[w].index(i)) for i, w in enumerate(config.windows)]

    def holds(self, rows: int, pages: int, longest: int) -> bool:
        """Whether this cache is large enough for these numbers, and at most twice as large."""
        return len(self.lengths) == rows and pages <= self.size <= 2 * pages and pages_of(longest) <= pages_of(self.longest)

    def in_use(self) -> int:
        """How many pages rows hold, of all pools."""
        return sum(pool.size - len(pool.free) for pool in self.pools.values())

    def nbytes(self) -> int:
        return sum(pool.k.nbytes + pool.v.nbytes for pool in self.pools.values())

    @staticmethod
    def page_bytes(config: Any, dtype: torch.dtype) -> int:
        """Bytes of a page of every layer."""
        return 2 * config.layers * config.kv_heads * PAGE * config.head_size * torch.finfo(dtype).bits // 8

    @staticmethod
    def pages_within(config: Any, rows: int, size: int, dtype: torch.dtype) -> int:
        """How many pages a bounded cache may have if it is to take at most `size` bytes."""
        layer, windowed = KVCache.page_bytes(config, dtype) // config.layers, sum(w > 0 for w in config.windows)
        pages, most = size // (layer * config.layers), rows * row_pages(config.window)
        if not windowed or pages <= most:
            return pages
        full = config.layers - windowed                   # the windowed layers need no more than `most`
        return (size - layer * windowed * most) // (layer * full) if full else sys.maxsize

    def clear(self) -> None:
        self.release(range(len(self.lengths)))

    def widen(self, longest: int) -> bool:
        """Allows longer rows than before; returns whether new tables were made."""
        more = pages_of(longest) - pages_of(self.longest)
        for pool in self.pools.values() if more > 0 else ():
            pool.widen(more)
        self.longest = max(longest, self.longest)
        return more > 0

    def reserve(self, row: int, tokens: int, since: int = 0) -> bool:
        """Gives a row the pages that it needs for this number of tokens, and takes back those that no token from position `since`
        on sees. If too few are free: False, and nothing changes."""
        if all(pool.settled(row, tokens, since) for pool in self.pools.values()):
            return True
        if not all(pool.fits(row, tokens, since) for pool in self.pools.values()):
            return False
        for pool in self.pools.values():
            pool.reserve(row, tokens, since)
        return True

    def release(self, rows: Sequence[int]) -> None:
        """Frees the pages of rows."""
        if rows:
            for pool in self.pools.values():
                pool.release(rows)
            self.lengths[upload(rows, self.lengths.device)] = 0

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Gives the pages of the rows `sources` to the rows `targets`, one to one. The targets hold no pages before."""
        for pool in self.pools.values():
            pool.move(sources, targets)
        at, to = (upload(rows, self.lengths.device) for rows in (sources, targets))
        self.lengths[to] = self.lengths[at]
        self.lengths[at] = 0

    def fill(self, row: int, k: Tensor, v: Tensor) -> None:
        """Starts a row, whose pages are reserved, with k and v (L, T, K, hd)."""
        for window, pool in self.pools.items():
            pool.fill(row, *(x if len(self.pools) == 1 else x[self.layers[window]] for x in (k, v)))
        self.lengths[row] = k.shape[1]

    def read(self, row: int, T: int) -> tuple[Tensor, Tensor]:
        """k and v (L, T, K, hd) of the first T tokens of a row. What was given back, behind the window of a layer, is zero."""
        found = {window: pool.read(row, T) for window, pool in self.pools.items()}
        return tuple(torch.stack([found[pool.window][part][at] for pool, at in self.of_layer]) for part in (0, 1))

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Appends k and v (B, R, K, hd) of R tokens to each of the first B rows, whose pages are reserved."""
        (B, R), (pool, index) = k.shape[:2], self.of_layer[layer]
        slots = self.lengths[:B, None] + torch.arange(R, device=k.device)     # (B, R)
        at = pool.table[:B].gather(1, slots // PAGE), slice(None), slots % PAGE
        pool.k[index][at], pool.v[index][at] = k.to(pool.k.dtype), v.to(pool.v.dtype)


def row_pages(window: int) -> int:
    """The most pages that the last `window` tokens of a row lie on."""
    return (window + PAGE - 2) // PAGE + 1


def pages_of(tokens: int) -> int:
    return -(-tokens // PAGE)


def free_bytes(device: torch.device) -> int | None:
    """Free memory, bytes; None if the system does not say. On a GPU this includes memory that torch keeps for later use: after
    training that is most of the memory."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def upload(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Copies a list of integers to a device, without waiting for the work that the device still has to do."""
    made = torch.tensor(numbers, dtype=torch.long)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made


def download(*tensors: Tensor) -> tuple:
    """Copies tensors to the host; returns them and an event that marks their arrival. From a CPU: the same tensors, and None."""
    if not tensors[0].is_cuda:
        return *tensors, None
    event, there = torch.cuda.Event(), [t.to("cpu", non_blocking=True) for t in tensors]
    event.record()
    return *there, event

"""Keys and values of past tokens, in pages: sequences of very different lengths share one pool of memory.

A page holds PAGE tokens of one sequence. A row (a sequence that decodes) owns as many pages as it needs. When its last page is
full it gets another one, so no memory is reserved for a length that is never reached (PagedAttention, arXiv 2309.06180). The
owners of pages are stored twice: as lists on the host, which makes the decisions, and as tensors on the device, for attention.

Simpler than vLLM: rows do not share pages. The keys of a prompt are computed once and copied to each of its samples.
"""

import heapq
import os
from typing import Any

import torch
from torch import Tensor

from kernels import NOWHERE, PAGE


class KVCache:
    """A pool of `pages` pages for up to `rows` rows of at most `longest` tokens each. Letters as in model.py.

    k, v      (L, pages + 1, K, PAGE, hd)
    lengths   (rows,): how many tokens each row holds
    table     (rows, most pages): the pages of each row, in order
    owner     (pages + 1,): the row of each page
    start     (pages + 1,): the position in its row of the first token of each page

    The last page, `spare`, belongs to no row. The table of a free row points to it, so a row that is computed only to pad a batch
    writes there. config: a model.Config.
    """

    def __init__(self, config: Any, rows: int, pages: int, longest: int, device: str | torch.device = "cpu",
                 dtype: torch.dtype = torch.float32):
        shape = (config.layers, pages + 1, config.kv_heads, PAGE, config.head_size)
        self.size = self.spare = pages
        self.k, self.v = torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.table = torch.full((rows, pages_of(longest)), self.spare, dtype=torch.long, device=device)
        self.owner = torch.zeros(pages + 1, dtype=torch.long, device=device)
        self.start = torch.full((pages + 1,), NOWHERE, dtype=torch.long, device=device)
        self.pages, self.free = [[] for _ in range(rows)], list(range(pages))
        self.used = 0                # pages in use lie below this number; low ones are given out first

    def holds(self, rows: int, pages: int, longest: int) -> bool:
        """Whether this cache is large enough for these numbers, and at most twice as large."""
        return (self.lengths.shape[0] == rows and pages <= self.size <= 2 * pages
                and pages_of(longest) <= self.table.shape[1])

    def clear(self) -> None:
        for row in range(len(self.pages)):
            self.release(row)

    @staticmethod
    def page_bytes(config: Any, dtype: torch.dtype) -> int:
        return 2 * config.layers * config.kv_heads * PAGE * config.head_size * torch.finfo(dtype).bits // 8

    def widen(self, longest: int) -> bool:
        """Allows longer rows than before; returns whether a new table was made."""
        more = pages_of(longest) - self.table.shape[1]
        if more > 0:
            self.table = torch.nn.functional.pad(self.table, (0, more), value=self.spare)
        return more > 0

    def reserve(self, row: int, tokens: int) -> bool:
        """Gives a row the pages that it needs for this number of tokens. If too few are free: False, and nothing changes."""
        have, need = len(self.pages[row]), pages_of(tokens)
        if need - have > len(self.free):
            return False
        if need > have:
            new = [heapq.heappop(self.free) for _ in range(need - have)]
            self.pages[row] += new
            ids = upload(new, self.k.device)
            self.table[row, have:need] = ids
            self.owner[ids] = row
            self.start[ids] = torch.arange(have, need, device=self.k.device) * PAGE
            self.used = max(self.used, new[-1] + 1)
        return True

    def release(self, row: int) -> None:
        """Frees the pages of a row. On a CPU the pages in use are then moved together, because attention there computes over the
        pool up to the last used page."""
        for page in self.pages[row]:
            heapq.heappush(self.free, page)
        self.start[self._ids(row)] = NOWHERE
        self.pages[row] = []
        self.lengths[row], self.table[row] = 0, self.spare
        if not self.k.is_cuda:
            self._close_gaps()

    def _ids(self, row):
        return upload(self.pages[row], self.k.device)

    def _close_gaps(self):
        held = sorted(((page, row, j) for row, pages in enumerate(self.pages) for j, page in enumerate(pages)), reverse=True)
        for page, row, j in held:
            if not self.free or self.free[0] > page:
                break
            hole = heapq.heapreplace(self.free, page)
            for pool in (self.k, self.v):
                pool[:, hole] = pool[:, page]
            self.pages[row][j] = self.table[row, j] = hole
            self.owner[hole], self.start[hole], self.start[page] = row, self.start[page].clone(), NOWHERE
        self.used = len(held)

    def move(self, source: int, target: int) -> None:
        """Gives the pages of one row to another row, which has none."""
        self.pages[target], self.pages[source] = self.pages[source], []
        self.table[target], self.lengths[target] = self.table[source], self.lengths[source]
        self.owner[self._ids(target)] = target
        self.lengths[source], self.table[source] = 0, self.spare

    def fill(self, row: int, k: Tensor, v: Tensor) -> None:
        """Starts a row, whose pages are reserved, with k and v (L, T, K, hd)."""
        L, T, K, hd = k.shape
        ids = self._ids(row)[:pages_of(T)]
        for pool, x in ((self.k, k), (self.v, v)):
            x = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, -T % PAGE))   # (L, pages * PAGE, K, hd)
            pool[:, ids] = x.view(L, -1, PAGE, K, hd).transpose(2, 3).to(pool.dtype)
        self.lengths[row] = T

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Appends k and v (B, R, K, hd) of R tokens to each of the first B rows, whose pages are reserved."""
        B, R = k.shape[:2]
        slots = self.lengths[:B, None] + torch.arange(R, device=k.device)     # (B, R)
        at = self.table[:B].gather(1, slots // PAGE), slice(None), slots % PAGE
        self.k[layer][at], self.v[layer][at] = k.to(self.k.dtype), v.to(self.v.dtype)


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


def upload(numbers: list[int], device: torch.device) -> Tensor:
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

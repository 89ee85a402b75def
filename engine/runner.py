"""Runs the model for the sampler: it computes prompts, decodes the next token of every row, and samples.

On a GPU decoding and sampling are CUDA graphs, one for each of a few numbers of rows. The graphs read and write fixed tensors:
the cache, the tensors of Rows, and the weights of the sampling copy. So these stay in place.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from engine.cache import PAGE, KVCache, free_bytes, pages_of, upload
from engine.draws import SamplingParams, draw, uniform
from engine.graphs import Graphs
from engine.requests import Prefill
from engine.rows import Rows
from engine.weights import SamplingCopy
from kernels import HAS_TRITON, exclude
from model import Transformer
from training.weights import is_sharded

PREFILL_TOKENS = 8192                 # the most tokens in a row of packed prompts; a longer prompt gets its own row


class Runner:
    """Runs a model.

    - dtype: of the cache. With float32 weights and a half-precision dtype the matrix products have it too (autocast). None: the
      dtype of the weights.
    - exact: whether it computes in exact mode. None: as model.exact.
    - graphs: whether batches are padded to one of few sizes, and CUDA graphs are used on a GPU. None: only on a GPU."""

    def __init__(self, model: Transformer, dtype: torch.dtype | None, exact: bool | None, graphs: bool | None):
        self.model, self.exact, self.device, self.dtype = model, exact, model.head.device, dtype or model.head.dtype
        self.half = self.dtype != model.head.dtype
        self.copy, self.copies = None, SamplingCopy(model, self.dtype if self.half else None)
        able = self.device.type == "cuda" and HAS_TRITON and self.dtype != torch.float64    # else each step has its own size
        self.fixed_sizes = able if graphs is None else graphs
        self.graphs = Graphs(self.fixed_sizes and self.device.type == "cuda")
        self.cache = self.rows = self.seed = self.logits = self.addresses = None

    def take_weights(self) -> None:
        """Takes the current weights of the model; later changes have an effect after the next call."""
        self.copy = self.copies.refresh()
        self._choose_form()
        addresses = [w.data_ptr() for w in self.copy.parameters() if not is_sharded(w)]
        if addresses != self.addresses:                   # the graphs read tensors at other addresses
            self.graphs.clear()
        self.addresses = addresses

    def allocate(self, rows: int, longest: int, seed: int, pool_tokens: int = 0) -> None:
        """Makes an empty cache for `rows` rows of at most `longest` tokens each, and their tensors. If graphs read the old ones
        and these are large enough, they are used again. pool_tokens: size of the cache; 0: enough for all rows at their longest,
        but at most four fifths of the free memory. ValueError if one row does not fit."""
        pages, free, held = rows * pages_of(longest), free_bytes(self.device), self.cache.nbytes() if self.cache else 0
        if pool_tokens:
            pages = min(pages, pages_of(pool_tokens))
        elif free is not None:
            pages = min(pages, KVCache.pages_within(self.model.config, rows, int(0.8 * (free + held)), self.dtype))
        if pages < pages_of(longest):
            raise ValueError(f"the cache has room for {pages * PAGE} tokens and one completion with its prompt may take "
                             f"{longest}; lower the number of new tokens, or raise pool_tokens")
        if self.fixed_sizes and self.cache and self.cache.holds(rows, pages, longest):
            self.seed.fill_(seed)
            self.cache.clear()
            return
        self.graphs.clear()
        self.cache = self.rows = self.logits = None       # first frees the old ones
        self.seed = torch.tensor(seed, device=self.device)
        self.cache = KVCache(self.model.config, rows, pages, longest, self.device, self.dtype, bounded=True)
        self.rows = Rows(rows, self.model.config.width, self.device, self.model.head.dtype)

    def widen(self, longest: int) -> None:
        """Allows longer rows than before."""
        if self.cache.widen(longest):
            self.graphs.clear()                           # they would read the old table

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """The context in which the model samples: no gradients, exact or fast mode, the sampler's dtype."""
        self._choose_form()
        # autocast's copies of weights exist only in this block, so a graph must not read them
        with (torch.no_grad(), self.model.uncompiled(),
              torch.autocast(self.device.type, self.dtype, enabled=self.half, cache_enabled=not self.fixed_sizes)):
            yield

    def _choose_form(self):
        self.copy.exact = self.model.exact if self.exact is None else self.exact

    # decoding and drawing

    def decode(self, B: int) -> None:
        """Decodes the pending token of each of the first B rows; the hidden states go to rows.hidden."""
        rows = self._bucket(B)

        def work():
            self.rows.hidden[:rows] = self.copy.decode(self.rows.pending[:rows, None], self.cache)[:, 0]
        self.graphs.replay(("decode", rows, self.copy.exact), work, self.cache.lengths)
        self.cache.lengths[B:rows] = 0                    # rows that only padded the batch

    def draw(self, B: int, params: SamplingParams, watched: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Samples a token for each of the first B rows: logits (B, V) (with watched=False: (0, V)), tokens (B,), and
        log-probabilities (B,)."""
        rows = self._bucket(B) if self.fixed_sizes else B

        def work():
            logits = exclude(self.copy.logits(self.rows.hidden[:rows]), self.model.unused_ids)                # (rows, V)
            drawn = draw(logits, self.uniform(rows), params)
            if self.fixed_sizes and watched:              # one tensor for the graphs of all sizes; else each would have one
                if self.logits is None:
                    self.logits = logits.new_empty(self.rows.count, logits.shape[1])
                logits = self.logits[:rows].copy_(logits)
            return logits if watched else logits.new_empty(0, logits.shape[1]), *drawn
        if params.top_p == 1.0:
            made = self.graphs.replay(("draw", rows, watched, params), work, self.cache.lengths)
        else:                                             # top-p reads values on the host, which a graph cannot do
            made = work()
        return tuple(x[:B] for x in made)

    def uniform(self, B: int, later: int = 0) -> torch.Tensor:
        """The random number of each of the first B rows for its next token, (B,); later: for the token that many positions
        after."""
        return uniform(self.seed, self.rows.keys[:B], self.rows.positions[:B] + later)

    def _bucket(self, B):
        """How many rows to compute if B run: 1, or a multiple of 16. So there are few graphs, and on a CPU few shapes of
        products."""
        return 1 if B == 1 else min(self.rows.count, -(-B // 16) * 16)

    # prompts

    def prefill(self, prompts: list[Prefill], version: int) -> None:
        """Computes prompts, packed into rows of documents; those whose first tokens are kept go on from there."""
        if continued := [p for p in prompts if p.kept(version)]:
            self._continue(continued, version)
            prompts = [p for p in prompts if not p.ready(version)]
        at = 0
        while at < len(prompts):
            end, total = at + 1, len(prompts[at].ids)
            while end < len(prompts) and total + len(prompts[end].ids) <= PREFILL_TOKENS:
                total += len(prompts[end].ids)
                end += 1
            self._prefill_row(prompts[at:end], version)
            at = end

    def _prefill_row(self, prompts, version):
        tokens = upload([t for p in prompts for t in p.ids], self.device)[None]                               # (1, T)
        documents = upload([d for d, p in enumerate(prompts) for _ in p.ids], self.device)[None]              # (1, T)
        hidden, kv = self.copy.prefill(tokens, documents)
        first = 0
        for p in prompts:
            here = slice(first, first + len(p.ids))
            p.k, p.v = (torch.stack([layer[i][0, here] for layer in kv]) for i in (0, 1))                     # (L, T, K, hd)
            p.hidden, p.version, p.scratch, first = hidden[0, here.stop - 1], version, None, here.stop

    def keep(self, row: int, ids: list[int], version: int) -> Prefill | None:
        """The keys and values of a row that will go on later, for these first ids of it. None if memory is short: then they are
        computed again. What is left must do for prompts (the pool takes four fifths at most)."""
        free, copy = free_bytes(self.device), KVCache.page_bytes(self.model.config, self.dtype) * pages_of(len(ids))
        if free is not None and free - copy < 0.15 * self.cache.nbytes():
            return None
        k, v = self.cache.read(row, len(ids))
        return Prefill(ids, version, k=k, v=v)

    def _continue(self, prompts, version):
        """Computes the ids behind those that are kept, all prompts together, with a small separate cache."""
        new = [p.ids[p.kept(version):] for p in prompts]
        R = max(map(len, new))                            # shorter ones are padded at the end, which no token before it sees
        ends = [p.kept(version) + R for p in prompts]
        cache = KVCache(self.model.config, len(prompts), sum(map(pages_of, ends)), max(ends), self.device, self.dtype)
        for row, (p, end) in enumerate(zip(prompts, ends, strict=True)):
            cache.reserve(row, end)
            cache.fill(row, p.k, p.v)
        hidden = self.copy.decode(upload([i for ids in new for i in ids + [0] * (R - len(ids))], self.device).view(-1, R), cache)
        for row, (p, ids) in enumerate(zip(prompts, new, strict=True)):
            p.k, p.v = cache.read(row, len(p.ids))
            p.hidden = hidden[row, len(ids) - 1]          # p.version is that of what was kept

    def prefill_piece(self, p: Prefill, version: int, tokens: int) -> int:
        """Computes the next piece of a long prompt, with a small separate cache for the pieces before it. Returns the number of
        tokens."""
        if p.scratch is None or p.version != version:
            p.version, p.hidden, p.begun, p.k, p.v = version, None, p.begun + 1, None, None
            p.scratch = KVCache(self.model.config, 1, pages_of(len(p.ids)), len(p.ids), self.device, self.dtype)
            p.scratch.reserve(0, len(p.ids))
        done = int(p.scratch.lengths[0])
        piece = torch.tensor(p.ids[done:done + tokens], device=self.device)[None]                             # (1, R)
        hidden = self.copy.decode(piece, p.scratch)
        if done + piece.shape[1] == len(p.ids):
            p.k, p.v = p.scratch.read(0, len(p.ids))
            p.hidden, p.scratch = hidden[0, -1], None
        return piece.shape[1]

    def enter(self, row: int, p: Prefill) -> None:
        """Starts a row, whose pages are reserved, with this prompt."""
        self.cache.fill(row, p.k, p.v)
        self.rows.hidden[row] = p.hidden

    def recompute(self, sequences: list[list[int]], version: int) -> None:
        """Computes the keys and values of the running rows again, with new weights. sequences: the ids of each row."""
        again = [Prefill(ids) for ids in sequences]
        self.prefill(again, version)
        for row, p in enumerate(again):
            self.cache.fill(row, p.k, p.v)

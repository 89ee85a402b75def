"""The cache of layers with a window stays as large as the window, and what it gives back changes no bit."""

import random

import pytest
import torch

from engine.cache import PAGE, KVCache, Pool, row_pages
from kernels import exact, fast
from model import Config, Transformer
from sampler import Sampler

V, WINDOW = 50, 70


@pytest.fixture(scope="module")
def model():
    """Three layers with a window, then a complete one without positions."""
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=V, layers=4, width=16, heads=2, kv_heads=1, ff=24,
                               attention="window+window+window+nope", window=WINDOW))
    for w in model.parameters():
        w.data.mul_(6) if w.ndim == 2 else w.data.add_(0.3 * torch.randn_like(w))
    model.exact = True
    return model


def run(engine, prompts, limit, look=lambda cache: None):
    engine.start(max(map(len, prompts)) + limit, stop=set(), seed=3)
    requests = [engine.submit(p, limit)[0] for p in prompts]
    while engine.running or engine.waiting:
        engine.step()
        look(engine.cache)
    assert not engine.cache.in_use() and not any(map(any, (pool.begun for pool in engine.cache.pools.values())))
    return [(r.completion.tokens, r.completion.logprobs) for r in requests]


def test_far_beyond_the_window_the_pages_stay_few_and_the_bits_the_same(model, monkeypatch):
    dice = random.Random(0)
    prompts = [[dice.randrange(V) for _ in range(n)] for n in (63, 130)]
    most = {0: 0, WINDOW: 0}

    def look(cache):
        for window, pool in cache.pools.items():
            held = [len(pages) for pages in pool.pages]
            assert sum(held) == pool.size - len(pool.free) and max(held) * PAGE - PAGE <= max(cache.lengths)
            most[window] = max(most[window], *held)
    found = run(Sampler(model, rows=2), prompts, 140, look)
    assert most[WINDOW] <= row_pages(WINDOW) == 3 and most[0] == 5
    for how in (dict(rows=3, prefill_chunk=50, graphs=True), dict(rows=3, pool_tokens=6 * PAGE)):
        engine = Sampler(model, **how)
        assert run(engine, prompts, 140) == found, how
        assert (engine.preempted > 0) == ("pool_tokens" in how)
    monkeypatch.setattr(Pool, "first", lambda self, position: 0)              # every page is kept
    monkeypatch.setattr("engine.cache.row_pages", lambda window: 1000)
    most[WINDOW] = 0
    assert run(Sampler(model, rows=2), prompts, 140, look) == found and most[WINDOW] == 5


@pytest.mark.parametrize("form", [fast, exact])
@pytest.mark.parametrize("window", [1, 65, 100])
def test_rows_that_grow_move_and_end_see_their_window(form, window):
    """Against softmax over the last keys of each row, from a list; free pages hold large numbers."""
    dice, g = random.Random(window), torch.Generator().manual_seed(window)
    config = Config(layers=1, heads=2, kv_heads=1, head_size=4, attention="window", window=window)
    cache = KVCache(config, 3, 100, 1000, dtype=torch.float64, bounded=True)
    pool, rows = cache.pools[window], []
    assert pool.size == 3 * row_pages(window)
    pool.k.fill_(1e3), pool.v.fill_(1e3)

    def random_kv(T):
        return [torch.randn(1, T, 1, 4, generator=g, dtype=torch.float64) for _ in range(2)]
    for _ in range(200):
        if len(rows) < 3 and dice.random() < 0.3:
            k, v = random_kv(dice.choice([1, 63, 64, 150]))
            assert cache.reserve(len(rows), k.shape[1] + 1, since=k.shape[1])
            cache.fill(len(rows), k, v)
            rows.append([k, v])
        if not rows:
            continue
        for row, (k, _) in enumerate(rows):
            assert cache.reserve(row, k.shape[1] + 1, since=k.shape[1])
        B, q = len(rows), torch.randn(len(rows), 1, 2, 4, generator=g, dtype=torch.float64)
        new = [random_kv(1) for _ in rows]
        cache.write(0, *(torch.cat([kv[i][0] for kv in new])[:, None] for i in (0, 1)))
        rows = [[torch.cat(pair, dim=1) for pair in zip(old, kv)] for old, kv in zip(rows, new)]
        found = form.attend_cached(q, pool, 0, window)
        for row, (k, v) in enumerate(rows):
            weights = (k[0, -window:, 0] @ q[row, 0].T / 2).softmax(dim=0)   # (keys, H)
            torch.testing.assert_close(found[row, 0], weights.T @ v[0, -window:, 0], rtol=1e-10, atol=1e-11)
        cache.lengths[:B] += 1
        assert pool.used <= pool.size
        if dice.random() < 0.08:
            gone = sorted(dice.sample(range(B), min(B, dice.randrange(1, 3))))       # one or two rows leave at once
            left = B - len(gone)
            targets, sources = [row for row in gone if row < left], [row for row in range(left, B) if row not in gone]
            cache.release(gone)
            cache.move(sources, targets)
            for source, target in zip(sources, targets, strict=True):
                rows[target] = rows[source]
            del rows[left:]
    for row, (k, v) in enumerate(rows):                                       # what is read back is the end, zeros before it
        T = k.shape[1]
        for whole, read in zip((k, v), cache.read(row, T), strict=True):
            assert torch.equal(read[:, -window:], whole[:, -window:]) and read.shape == whole.shape
            assert not read[:, :pool.begun[row] * PAGE].any()


def test_how_many_pages_fit_into_memory():
    shape = dict(layers=4, width=16, heads=2, kv_heads=1)
    layer = 2 * PAGE * 8 * 4                              # bytes of a page of one layer
    plain, hybrid = Config(**shape), Config(**shape, attention="window+window+window+nope", window=70)
    assert KVCache.pages_within(plain, 10, 400 * layer, torch.float32) == 100
    pages = KVCache.pages_within(hybrid, 10, 400 * layer, torch.float32)
    assert pages == 400 - 3 * 10 * 3                      # ten rows need three pages each in three layers
    cache = KVCache(hybrid, 10, pages, 64 * pages, bounded=True)
    assert cache.nbytes() == (pages + 1 + 3 * (10 * 3 + 1)) * layer           # with the spare page of each pool
    assert KVCache.pages_within(hybrid, 10, 40 * layer, torch.float32) == 10  # little memory: none has what its window takes
    assert KVCache.pages_within(Config(**shape, attention="window", window=70), 10, 400 * layer, torch.float32) > 10 ** 9

"""Measures what grouped-query attention saves in rollouts: memory and time by length, at equal parameters.

A decoding step reads the keys and values of every token so far. With fewer key/value heads (arXiv 2305.13245) these are fewer
bytes, and the weights that are saved go into the feed-forward layer. bench.py groups runs this.
"""

import functools

import torch

from benchmarks.timing import turns
from engine.cache import KVCache, pages_of
from engine.graphs import Graphs
from engine.weights import SamplingCopy
from kernels import PAGE
from model import Config, Transformer

GROUPS = 1, 2, 4, 8                                       # key/value heads; with 8 each query head has its own
TOY = dict(vocab_size=64, layers=1, width=64, heads=8, ff=48)
SMALL = dict(vocab_size=2048, layers=4, width=256, heads=8, ff=640)           # for a CPU
LARGE = dict(vocab_size=32_768, layers=24, width=1024, heads=8, ff=2816)      # for a GPU


def config_of(kv_heads: int, shape: dict) -> Config:
    """The Config with this number of key/value heads, and about as many parameters as with one for each query head. The width of
    its feed-forward layer stays a multiple of 8: a GPU's products are slow where rows do not begin at 16 bytes."""
    saved = 2 * (shape["heads"] - kv_heads) * (shape["width"] // shape["heads"])              # columns of k_proj and v_proj
    return Config(**shape | {"kv_heads": kv_heads, "ff": shape["ff"] + 8 * round(saved / 24)})    # three matrices of ff columns


def load_of(device: torch.device, dtype: torch.dtype, toy: bool = False) -> tuple[dict, tuple[int, ...], int]:
    """The shape of the models, the lengths, and the number of sequences. The caches of all models are there at the same time: at
    the largest length they take 49 GB on a GPU."""
    if toy:
        return TOY, (64, 128), 2
    if device.type == "cuda":
        return LARGE, (128, 512, 2048, 8192), 64 // dtype.itemsize
    return SMALL, (128, 512, 2048), 16


def a_step(model: Transformer, cache: KVCache, length: int) -> None:
    """Decodes one token of each row, whose cache holds `length` tokens; the next call does the same."""
    cache.lengths.fill_(length)
    with torch.no_grad():
        model.decode(torch.zeros(len(cache.lengths), 1, dtype=torch.long, device=cache.lengths.device), cache)


def bench_groups(device: torch.device, dtype: torch.dtype, count: int, rows: list, toy: bool = False) -> dict:
    """Milliseconds of a decoding step and megabytes of the cache, for each length: {"rows", "parameters", "sequences"}. A ratio
    is how many times as fast one key/value head is as 8."""
    shape, lengths, sequences = load_of(device, dtype, toy)
    models = {K: Transformer(config_of(K, shape)).to(device, dtype) for K in GROUPS}
    copies = {K: SamplingCopy(model).refresh() for K, model in models.items()}
    graphs = Graphs(device.type == "cuda")                # as the sampler decodes; without them a GPU waits for its launches
    for length in lengths:
        work, megabytes = {}, {}
        for K, model in models.items():
            cache = KVCache(model.config, sequences, sequences * pages_of(length + 1), length + 1, device, dtype)
            for row in range(sequences):
                cache.reserve(row, length + 1)
            for pool in cache.pools.values():
                pool.k.normal_(), pool.v.normal_()
            step = functools.partial(a_step, copies[K], cache, length)
            work[str(K)] = functools.partial(graphs.replay, (K, length), step, cache.lengths)
            megabytes[str(K)] = round(KVCache.page_bytes(model.config, dtype) / PAGE * length * sequences / 2 ** 20, 3)
        ms = turns(device, work, count)
        graphs.clear()                                    # and the caches that they hold
        able = all(isinstance(ms[str(K)], float) for K in (GROUPS[0], GROUPS[-1]))
        ratio = round(ms[str(GROUPS[-1])] / ms[str(GROUPS[0])], 3) if able else None
        rows.append({"length": length, "ms": ms, "cache_mb": megabytes, "ratio": ratio})
    return {"rows": rows, "sequences": sequences, "parameters": {
        str(K): sum(w.numel() for w in model.parameters()) for K, model in models.items()}}


def lines(result: dict) -> list[str]:
    """A line of text for each length."""
    found = []
    for r in result["rows"]:
        each = ", ".join(f"{K}: {ms:.2f} ms, {r['cache_mb'][K]:.1f} MB" if isinstance(ms, float) else f"{K}: {ms}"
                         for K, ms in r["ms"].items())
        found.append(f"{result['sequences']} rows of {r['length']} tokens, by key/value heads: {each}")
    return found

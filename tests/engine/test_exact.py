"""Exact mode on a CPU: what the sampler reported while it generated is what the trainer computes, bit for bit."""

import pytest
import torch

from engine.cache import KVCache
from kernels import Packing
from kernels import exact as reference
from model import Config, Transformer
from sampler import Sampler

V = 4099                                                                      # no multiple of any tile
KINDS = {
    "rope": dict(qkv_bias=True),
    "qk-norm": dict(qk_norm="head"),
    "olmo": dict(qk_norm="full", norm_after=True, untied=True),
    "nope": dict(attention="nope"),
    "hybrid": dict(attention="window+window+rope+nope", window=20, qk_norm="head"),
}


def a_model(kind, width=64, heads=4, kv_heads=2):
    torch.manual_seed(0)
    options = dict(KINDS[kind])
    model = Transformer(Config(vocab_size=V, layers=4, width=width, heads=heads, kv_heads=kv_heads, ff=96,
                               tied=not options.pop("untied", False), **options))
    with torch.no_grad():                                                     # weights as large as a trained model's
        for w in model.parameters():
            w.mul_(4) if w.ndim == 2 else w.add_(0.3 * torch.randn_like(w))
    model.exact = True
    return model


def some_prompts(count, seed=0, longest=90):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=g).tolist()
    return [torch.randint(0, V, (n,), generator=g).tolist() for n in lengths]


def sampled(model, prompts, rows=16, limits=40, n=1, **how):
    """Completions, as (prompt + tokens, how many of them are tokens, reported log-probabilities)."""
    chunk = how.pop("prefill_chunk", 0)
    done = Sampler(model, rows=rows, prefill_chunk=chunk).generate(prompts, n=n, max_new_tokens=limits, stop={5, 6, 7}, **how)
    return [(c.prompt + c.tokens, len(c.tokens), torch.tensor(c.logprobs)) for group in done for c in group]


def packed(found, T, seed=0):
    """The sequences, shuffled, in rows of T: tokens and documents (B, T), and where each came: (row, start)."""
    order, rows, places = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist(), [[]], {}
    for i in order:
        if sum(len(found[j][0]) for j in rows[-1]) + len(found[i][0]) > T:
            rows.append([])
        places[i] = (len(rows) - 1, sum(len(found[j][0]) for j in rows[-1]))
        rows[-1].append(i)
    tokens, documents = torch.zeros(len(rows), T, dtype=torch.long), torch.full((len(rows), T), -1)
    for i, (row, at) in places.items():
        sequence = torch.tensor(found[i][0])
        tokens[row, at:at + len(sequence)], documents[row, at:at + len(sequence)] = sequence, i
    return tokens, documents, places


def trained(model, found, temperature=1.0, T=400, grad=False):
    """The trainer's log-probabilities of the sampled tokens of each sequence, from packed rows."""
    tokens, documents, places = packed(found, T)
    with torch.set_grad_enabled(grad):
        logprobs = model.logprobs(tokens, documents, temperature)
    return [logprobs[row, at + len(sequence) - n - 1:at + len(sequence) - 1].detach()
            for (row, at), (sequence, n, _) in ((places[i], f) for i, f in enumerate(found))]


def assert_same_bits(model, found, **how):
    for (_, _, reported), computed in zip(found, trained(model, found, **how), strict=True):
        assert torch.equal(reported, computed)


@pytest.mark.parametrize("kind, temperature", [*zip(KINDS, (1.0, 0.7, 1.0, 0.7, 1.0), strict=True)])
def test_sampler_and_trainer_agree_to_the_last_bit(kind, temperature):
    model = a_model(kind)
    how = dict(temperature=temperature, n=2, seed=1)
    found = sampled(model, some_prompts(16), limits=[10 + 5 * (i % 9) for i in range(16)], **how)
    assert sum(n for _, n, _ in found) > 700 and len({n for _, n, _ in found}) > 5
    assert_same_bits(model, found, temperature=temperature)
    assert_same_bits(model, found, temperature=temperature, T=200, grad=True)
    model.exact = False                                                       # and the fast form does not
    fast = sampled(model, some_prompts(8), **how)
    assert any(not torch.equal(reported, computed) for (_, _, reported), computed
               in zip(fast, trained(model, fast, temperature=temperature), strict=True))


def test_twenty_thousand_tokens():
    """Ragged prompts, each prefilled once for its samples, in slots that are filled again while others decode."""
    model, count = a_model("hybrid"), 0
    for temperature, chunk in ((0.7, 0), (1.0, 50)):
        prompts = some_prompts(60, seed=int(10 * temperature))
        found = sampled(model, prompts, rows=96, n=3, limits=[30 + 11 * (i % 7) for i in range(60)], seed=2,
                        temperature=temperature, prefill_chunk=chunk)
        assert_same_bits(model, found, temperature=temperature, T=1024)
        count += sum(n for _, n, _ in found)
    assert count >= 20_000


def test_any_chunk_of_prefill_and_any_number_of_rows():
    model, prompts = a_model("hybrid"), some_prompts(6, seed=3)
    wanted = sampled(model, prompts, rows=4, limits=12)
    for chunk in (1, 7, 33, 64, 200):
        for one, other in zip(sampled(model, prompts, rows=4, limits=12, prefill_chunk=chunk), wanted, strict=True):
            assert one[0] == other[0] and torch.equal(one[2], other[2])
    many = [p for p in prompts[:5] for _ in range(26)]                        # the same five among 130 rows
    for rows in (1, 2, 31, 130):
        chosen = many if rows > 2 else many[::26]
        found = sampled(model, chosen, rows=rows, limits=6, temperature=0.0)
        for prompt in prompts[:5]:
            same = [f for f in found if f[0][:len(prompt)] == prompt]
            assert all(f[0] == same[0][0] and torch.equal(f[2], same[0][2]) for f in same)
            assert torch.equal(same[0][2], trained(model, [same[0]])[0])


@pytest.mark.parametrize("way", [0, 1, 2])
def test_every_batch_size_gives_a_row_the_same_bits(monkeypatch, way):
    """With oneDNN's products of several shapes, where these agree, with a tile of torch's, and with those added up in order."""
    if way:
        monkeypatch.setattr(reference, "_onednn_agrees", lambda *_: False)
        monkeypatch.setattr(reference, "_query_tiles", lambda hd, *_: (hd, [8], (torch.bmm, reference._bmm_in_order)[way - 1]))
    if way == 2:
        monkeypatch.setattr(reference, "_tile_product", lambda *_: reference._linear_in_order)
    model = a_model("olmo")
    tokens = torch.randint(0, V, (130, 5), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = model.logprobs(tokens)
        for B in (*range(1, 20), 31, 33, 47, 49, 63, 65, 127, 129) if way < 2 else (1, 3, 31, 33, 129):
            assert torch.equal(model.logprobs(tokens[:B]), wanted[:B]), B


def cached(q, k, v, lengths, window=0, dtype=torch.float32):
    """The attention of query lengths[i] - 1 of a document, (T, H, hd), as row i of a cache decodes it: (rows, H, hd)."""
    (_, H, hd), K = q.shape, k.shape[1]
    cache = KVCache(Config(layers=1, heads=H, kv_heads=K, head_size=hd), len(lengths), 100, 200, dtype=dtype)
    for row, n in enumerate(lengths):
        cache.reserve(row, n)
        cache.fill(row, k[None, :n], v[None, :n])
        cache.lengths[row] = n - 1
    return reference.attend_cached(torch.stack([q[n - 1] for n in lengths])[:, None], cache.pools[0], 0, window)[:, 0]


HEAD_SIZES = range(2, 129, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_of_every_head_size(dtype):
    """Decoded, a position has the bits of the full pass, whatever its place in a tile there; and both are right."""
    g = torch.Generator().manual_seed(0)
    for i, hd in enumerate(HEAD_SIZES):
        K, G, T, window = 1 + i % 3, 1 + i % 8, 75, (0, 20)[i % 2]
        q, k, v = (torch.randn(1, T, heads, hd, generator=g, dtype=dtype) for heads in (K * G, K, K))
        whole = reference.attend(q, k, v, Packing(1, T, q.device), window)[0]
        lengths = [*range(1, 18), 63, 64, 65, 70, 75]
        alone = cached(q[0], k[0], v[0], lengths, window, dtype)
        for n, row in zip(lengths, alone, strict=True):
            assert torch.equal(row, whole[n - 1]), (hd, G, n)
        behind = torch.arange(T)[:, None] - torch.arange(T)
        mask = (behind >= 0) & (behind < window) if window else behind >= 0
        slow = torch.nn.functional.scaled_dot_product_attention(*(x.double().transpose(1, 2) for x in (q, k, v)), attn_mask=mask,
                                                                enable_gqa=True).transpose(1, 2)[0]
        torch.testing.assert_close(whole.double(), slow, rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("onednn", [True, False])
def test_products_and_norms_of_odd_shapes(monkeypatch, dtype, onednn):
    if not onednn:
        monkeypatch.setattr(reference.fast, "has_onednn", lambda *_: False)
    g, sizes = torch.Generator().manual_seed(0), [1, 2, 3, 5, 6, 7, 10, 13, 17, 33, 63, 66, 99]
    for i, D in enumerate(sizes):
        for N in sizes[i % 3::3]:
            x, weight = torch.randn(45, D, generator=g, dtype=dtype), torch.randn(N, D, generator=g, dtype=dtype)
            whole = reference.product(x, weight)
            torch.testing.assert_close(whole.double(), x.double() @ weight.double().T, rtol=1e-4, atol=1e-5)
            for part in (slice(0, 1), slice(3, 4), slice(1, 3), slice(5, 40), slice(44, 45)):
                assert torch.equal(reference.product(x[part], weight), whole[part]), (N, D, part)
        x, w = torch.randn(40, D, generator=g, dtype=dtype), torch.randn(D, generator=g, dtype=dtype)
        for part in (slice(0, 1), slice(7, 8), slice(1, 30)):
            assert torch.equal(reference.rms_norm(x[part], w, 1e-6), reference.rms_norm(x, w, 1e-6)[part]), D
            assert torch.equal(reference.swiglu(x[part], x[part]), reference.swiglu(x, x)[part]), D


ODD = [dict(width=64, heads=3, kv_heads=3, head_size=6, ff=96), dict(width=33, heads=5, kv_heads=1, head_size=10, ff=7),
       dict(width=1, heads=7, kv_heads=1, head_size=2, ff=1, vocab_size=3),
       dict(width=45, heads=16, kv_heads=2, head_size=22, ff=51),
       dict(width=63, heads=71, kv_heads=1, head_size=4, ff=65, qk_norm="full", attention="window+rope", window=9)]


@pytest.mark.parametrize("shape", ODD)
def test_models_of_odd_shapes(shape):
    """Head sizes, widths, vocabularies and feed-forwards that no tile divides; more query heads for a key head than any tile has
    rows."""
    torch.manual_seed(0)
    model = Transformer(Config(**dict(vocab_size=V, layers=2) | shape))
    for w in model.parameters():
        w.data.mul_(4) if w.ndim == 2 else w.data.add_(0.3 * torch.randn_like(w))
    model.exact = True
    prompts = [[t % model.config.vocab_size for t in p] for p in some_prompts(8)]
    for chunk in (0, 20):
        assert_same_bits(model, sampled(model, prompts, limits=[5, 9, 13, 20, 3, 7, 11, 30], prefill_chunk=chunk))


def test_a_product_that_goes_by_the_number_of_rows_or_by_their_place_is_found_out(monkeypatch):
    """One that adds up in another order for 64 rows, for odd rows, or for packed weights; one that rounds its result away from
    all orders is not."""
    def steady(x, weight):
        return (x.double() @ weight.double().T).round(decimals=3).float()

    def by_number(x, weight):
        return steady(x, weight) + (len(x) == 64)

    def by_place(x, weight):
        return steady(x, weight) + 1e-3 * (torch.arange(len(x)) % 2)[:, None]

    def by_remainder(x, weight):
        return by_place(x, weight) if weight.shape[0] % 16 or weight.shape[1] % 16 else steady(x, weight)
    monkeypatch.setattr(reference.fast, "reorder", torch.clone)
    for product, agrees in ((steady, True), (by_number, False), (by_place, False)):
        monkeypatch.setattr(reference.fast, "onednn", product)
        assert reference._onednn_agrees.__wrapped__(100, 96, 1) == agrees, product
    monkeypatch.setattr(reference.fast, "onednn", steady)
    monkeypatch.setattr(reference.fast, "reorder", lambda weight: weight * 1.01)
    assert not reference._onednn_agrees.__wrapped__(100, 96, 1)
    x, weight = torch.randn(32, 95), torch.randn(101, 95)
    for product, way in ((steady, steady), (by_place, reference._linear_in_order), (by_remainder, reference._rounded_linear)):
        monkeypatch.setattr(torch.nn.functional, "linear", product)
        chosen = reference._tile_product.__wrapped__(101, 95, torch.float32, torch.device("cpu"), 1)
        assert chosen is way
        torch.testing.assert_close(chosen(x, weight), x @ weight.T, rtol=1e-3, atol=1e-3)


def test_an_attention_product_that_goes_by_the_tile_is_found_out(monkeypatch):
    usual, all_sizes, slow = torch.bmm, [4, 8, 32, 64], reference._bmm_in_order

    def steady(x, y):
        return usual(x, y).round(decimals=6)

    def by_size(x, y):
        return steady(x, y) + 1e-3 * (x.shape[1] in (4, 64))

    def by_count(x, y):
        return steady(x, y) + 1e-3 * (len(x) == 1)

    def by_place(x, y):
        return steady(x, y) + 1e-3 * (torch.arange(x.shape[1]) % 2)[:, None]

    def by_remainder(x, y):
        return by_place(x, y) if 46 in (x.shape[2], y.shape[2]) else steady(x, y)
    for product, found in ((steady, (46, all_sizes, steady)), (by_size, (46, [8, 32], by_size)),
                           (by_count, (46, all_sizes, slow)), (by_place, (46, all_sizes, slow)),
                           (by_remainder, (48, all_sizes, by_remainder))):
        monkeypatch.setattr(torch, "bmm", product)
        assert reference._query_tiles.__wrapped__(46, torch.float64, 1) == found
    monkeypatch.setattr(torch, "bmm", usual)
    g = torch.Generator().manual_seed(0)                                      # and each way is attention
    q, k, v = (torch.randn(1, 70, heads, 6, generator=g) for heads in (4, 2, 2))
    wanted = reference.attend(*(x.double() for x in (q, k, v)), Packing(1, 70, q.device))
    for way in ((6, [8], usual), (16, [4, 8], usual), (6, [4, 8, 32, 64], reference._bmm_in_order)):
        monkeypatch.setattr(reference, "_query_tiles", lambda *_, way=way: way)
        whole = reference.attend(q, k, v, Packing(1, 70, q.device))
        torch.testing.assert_close(whole.double(), wanted, rtol=1e-4, atol=1e-5)
        alone = cached(q[0], k[0], v[0], [1, 5, 64, 70])
        torch.testing.assert_close(alone.double(), wanted[0, [0, 4, 63, 69]], rtol=1e-4, atol=1e-5)


def test_threads_change_no_bit():
    model, threads = a_model("qk-norm", width=128), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found = sampled(model, some_prompts(6), limits=12)
        wanted = trained(model, found)
        torch.set_num_threads(2)
        assert_same_bits(model, found)
        for one, other in zip(sampled(model, some_prompts(6), limits=12), found, strict=True):
            assert one[0] == other[0] and torch.equal(one[2], other[2])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(wanted, (f[2] for f in found)))


@pytest.mark.parametrize("kv_heads", [1, 3, 6])
def test_groups_of_query_heads(kv_heads):
    model = a_model("rope", width=48, heads=6, kv_heads=kv_heads)
    assert_same_bits(model, sampled(model, some_prompts(8), limits=10))


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_form_computes_the_same_function_and_gradient(kind):
    model = a_model(kind).double()
    tokens = torch.randint(0, V, (2, 70), generator=torch.Generator().manual_seed(5))
    documents = torch.tensor([[0] * 33 + [1] + [2] * 36, [0] * 65 + [-1] * 5])
    found = {}
    for model.exact in (True, False):
        model.zero_grad()
        logprobs, entropies = model(tokens[:, :-1], documents[:, :-1], tokens[:, 1:], 0.7, True)
        (logprobs.sin() + 0.1 * entropies).sum().backward()
        found[model.exact] = [logprobs.detach(), entropies.detach()] + [w.grad.clone() for w in model.parameters()]
    for a, b in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * float(b.abs().max()))


def test_the_choice_is_the_models_own_and_the_sampler_leaves_it_alone():
    model = a_model("rope")
    model.exact = False
    prompts = some_prompts(3)
    found = Sampler(model, exact=True).generate(prompts, max_new_tokens=5, stop=set())
    assert not model.exact
    model.exact = True
    again = [(c.prompt + c.tokens, 5, torch.tensor(c.logprobs)) for [c] in found]
    assert_same_bits(model, again)

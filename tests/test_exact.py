"""Exact mode on a CPU: what the sampler reported while it generated is what the trainer computes, bit for bit."""

import pytest
import torch

from kernels import reference
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
    model, prompts = a_model("hybrid"), some_prompts(9, seed=3)
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


@pytest.mark.parametrize("agrees", [True, False])
def test_every_batch_size_gives_a_row_the_same_bits(monkeypatch, agrees):
    """With products of several shapes, where these agree, and with those of a fixed tile."""
    if not agrees:
        monkeypatch.setattr(reference, "_onednn_agrees", lambda N, D, threads: False)
        monkeypatch.setattr(reference, "_query_tiles", lambda hd, dtype, threads: [])
    model = a_model("olmo")
    tokens = torch.randint(0, V, (130, 5), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted = model.logprobs(tokens)
        for B in range(1, 130):
            assert torch.equal(model.logprobs(tokens[:B]), wanted[:B]), B


def test_a_product_that_goes_by_the_number_of_rows_is_found_out(monkeypatch):
    """One that adds up in another order for 64 rows, or for packed weights; one that rounds its result away from all orders
    is not."""
    monkeypatch.setattr(reference.fast, "pack", torch.clone)
    def steady(x, weight):
        return (x.double() @ weight.double().T).round(decimals=3).float()

    def fickle(x, weight):
        return x @ weight.T if len(x) != 64 else x[:, :48] @ weight[:, :48].T + x[:, 48:] @ weight[:, 48:].T
    for product, agrees in ((steady, True), (fickle, False)):
        monkeypatch.setattr(reference.fast, "onednn", product)
        assert reference._onednn_agrees.__wrapped__(100, 96, 1) == agrees
    monkeypatch.setattr(reference.fast, "onednn", steady)
    monkeypatch.setattr(reference.fast, "pack", lambda weight: weight * 1.01)
    assert not reference._onednn_agrees.__wrapped__(100, 96, 1)
    usual = torch.bmm
    for product, sizes in ((lambda x, y: usual(x, y).round(decimals=6), [4, 8, 32, 64]),
                           (lambda x, y: (usual(x, y) + 1e-3 * (x.shape[1] in (4, 64))).round(decimals=6), [8, 32])):
        monkeypatch.setattr(torch, "bmm", product)
        assert reference._query_tiles.__wrapped__(48, torch.float64, 1) == sizes


def test_threads_change_no_bit():
    model, threads = a_model("qk-norm", width=128), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found = sampled(model, some_prompts(12), limits=20)
        wanted = trained(model, found)
        torch.set_num_threads(2)
        assert_same_bits(model, found)
        for one, other in zip(sampled(model, some_prompts(12), limits=20), found, strict=True):
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


def test_the_choice_is_the_models_own_and_the_sampler_puts_it_back():
    model = a_model("rope")
    assert all(m.exact for m in model.modules() if hasattr(type(m), "exact"))
    model.exact = False
    assert not any(m.exact for m in model.modules() if hasattr(type(m), "exact"))
    prompts = some_prompts(3)
    found = Sampler(model, exact=True).generate(prompts, max_new_tokens=5, stop=set())
    assert not model.exact
    model.exact = True
    again = [(c.prompt + c.tokens, 5, torch.tensor(c.logprobs)) for [c] in found]
    assert_same_bits(model, again)

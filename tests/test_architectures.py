"""The options of attention, each against a float64 reference of its own, and their bits in exact mode.

QK-norm with a factor for each head, a gate for each head, attention sinks, and patterns of layer kinds.
"""

import math

import pytest
import torch

from engine.cache import KVCache
from kernels import Packing, exact, fast, fast_attention
from model import Config, Transformer
from sampler import Sampler

ARCHITECTURES = {
    "qk scale, head": dict(qk_norm="head", qk_scale=True),
    "qk scale, full": dict(qk_norm="full", qk_scale=True, attention="rope+nope"),
    "gate": dict(head_gate=True, attention="nope"),
    "sinks": dict(sinks=True, qkv_bias=True),
    "sinks, one key head": dict(sinks=True, kv_heads=1, attention="rope+rope+rope+nope"),
    "three windows and one nope": dict(attention="window+window+window+nope", window=20),
    "windows and sinks": dict(attention="window+nope+rope", window=20, sinks=True, qk_norm="head"),
    "everything": dict(attention="window+nope", window=70, qk_norm="full", qk_scale=True, head_gate=True, sinks=True,
                       norm_after=True),
}


def a_model(**options):
    """With weights as large as a trained model's, and sinks and factors away from their first values."""
    torch.manual_seed(0)
    model = Transformer(Config(**dict(vocab_size=211, layers=4, width=48, heads=4, kv_heads=2, ff=64) | options))
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(6) if w.ndim == 2 else w.add_(0.5 * torch.randn_like(w))
    return model


def documents_of(*lengths):
    return torch.tensor([[i for i, n in enumerate(lengths) for _ in range(n)]])


# the log-sum-exp and its gradient

def slowly(q, k, v, documents, window):
    """One query at a time: q (T, H, hd), k and v (T, K, hd) -> (T, H, hd), and the log-sum-exp (T, H)."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    outs, sums = [], []
    for t in range(len(q)):
        seen = [j for j in range(t + 1) if documents[j] == documents[t] and (not window or t - j < window)]
        weights = torch.exp((k[seen] * q[t]).sum(-1) / math.sqrt(q.shape[2]))                 # (keys, H)
        outs.append((weights[:, :, None] * v[seen]).sum(0) / weights.sum(0)[:, None])
        sums.append(weights.sum(0).log())
    return torch.stack(outs), torch.stack(sums)


@pytest.mark.parametrize("form, plain", [(fast, False), (exact, False), (fast, True)])
@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("packed", [True, False])
def test_the_log_sum_exp_and_its_gradient(form, plain, window, packed, monkeypatch):
    monkeypatch.setattr(fast_attention, "BLOCK", 16)
    documents = documents_of(23, 1, 40, 6) if packed else documents_of(70)
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 70, h, 6, generator=g, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2))
    if plain:                                                                 # as on a GPU without Triton: a dense mask
        monkeypatch.setattr(Packing, "_fill_buckets", lambda self, new: None)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = form.attend(q, k, v, Packing(1, 70, q.device, documents if packed else None), window, lse=True)
    wanted = slowly(q[0], k[0], v[0], documents[0], window)
    weights = [torch.randn(x.shape, generator=g, dtype=torch.float64) for x in wanted]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a[0], b, rtol=1e-10, atol=1e-11)
    ours, theirs = (torch.autograd.grad(sum((x.view_as(w) * w).sum() for x, w in zip(pair, weights)), (q, k, v))
                    for pair in (found, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", [fast, exact])
@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("window", [0, 70])
def test_a_cache_gives_the_log_sum_exp(form, new, window):
    g, lengths = torch.Generator().manual_seed(0), [150, 3, 65]
    cache = KVCache(Config(layers=1, heads=4, kv_heads=2, head_size=6), 3, 12, 200, dtype=torch.float64)
    q, k, v = (torch.randn(3, 150, heads, 6, generator=g, dtype=torch.float64) for heads in (4, 2, 2))
    for row, n in enumerate(lengths):
        cache.reserve(row, n)
        cache.fill(row, k[row, None, :n], v[row, None, :n])
        cache.lengths[row] = n - new
    last = torch.stack([q[row, n - new:n] for row, n in enumerate(lengths)])
    found = form.attend_cached(last, cache.pools[0], 0, window, lse=True)
    for row, n in enumerate(lengths):
        for a, b in zip(found, slowly(q[row, :n], k[row, :n], v[row, :n], [0] * n, window), strict=True):
            torch.testing.assert_close(a[row], b[n - new:], rtol=1e-10, atol=1e-11)


def test_both_forms_of_the_gate_and_its_gradient():
    y, score = torch.randn(2, 3, 4, 6, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    with torch.no_grad():
        score[0, 0] = torch.tensor([0.0, -200.0, 200.0, -90.0])               # where exp(-score) is infinite
    wide = [x.detach().double().requires_grad_() for x in (y, score)]
    wanted, g = wide[0] / (1 + torch.exp(-wide[1]))[..., None], torch.randn(2, 3, 4, 6)
    for form in (fast, exact):
        found = form.gate(y, score)
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)
        theirs = torch.autograd.grad(wanted, wide, g.double(), retain_graph=True)
        for a, b in zip(torch.autograd.grad(found, (y, score), g), theirs, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
        half = form.gate(y.detach().bfloat16(), score.detach())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.double(), wanted.detach(), rtol=2e-2, atol=1e-2)


# a layer of attention, written a second time

def norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x, theta):
    """RoPE by complex numbers: x (T, heads, hd), a pair has one number from each half."""
    T, hd = x.shape[0], x.shape[2]
    angle = torch.arange(T, dtype=torch.float64)[:, None] / theta ** (torch.arange(0, hd, 2, dtype=torch.float64) / hd)
    z = torch.complex(x[..., :hd // 2], x[..., hd // 2:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([z.real, z.imag], dim=-1)


def attention(layer, c, kind, x):
    """x (T, D) -> (T, D) in float64, with the sink as one more column of the softmax, as gpt-oss has it."""
    T, (H, K, hd) = len(x), (c.heads, c.kv_heads, c.head_size)
    q, k, v = (m(x, False) for m in (layer.q_proj, layer.k_proj, layer.v_proj))
    if c.qk_norm == "full":
        q, k = norm(q, layer.q_norm.weight, c.eps), norm(k, layer.k_norm.weight, c.eps)
    q, k, v = q.view(T, H, hd), k.view(T, K, hd), v.view(T, K, hd)
    if c.qk_norm == "head":
        q, k = norm(q, layer.q_norm.weight, c.eps), norm(k, layer.k_norm.weight, c.eps)
    if kind != "nope":
        q, k = turned(q, c.rope_theta), turned(k, c.rope_theta)
    out = []
    for h in range(H):
        scores = q[:, h] @ k[:, h // (H // K)].T / math.sqrt(hd)              # (T, T)
        if c.qk_scale:
            scores = scores * layer.qk_scale[h]
        behind = torch.arange(T)[:, None] - torch.arange(T)
        hidden = (behind < 0) | (behind >= (c.window if kind == "window" else T))
        scores = scores.masked_fill(hidden, -torch.inf)
        if c.sinks:
            scores = torch.cat([scores, layer.sinks[h].expand(T, 1)], dim=1)
        y = scores.softmax(dim=1)[:, :T] @ v[:, h // (H // K)]
        if c.head_gate:
            y = y * torch.sigmoid(x @ layer.gate_proj.weight[h])[:, None]
        out.append(y)
    return torch.cat(out, dim=1) @ layer.o_proj.weight.T


def reference(model, tokens):
    """Logits (T, V) of one document (T,)."""
    c, x = model.config, model.embed_tokens(tokens)
    for block, kind in zip(model.layers, c.attention):
        def mlp(x, m=block.mlp):
            return m.down_proj(torch.nn.functional.silu(m.gate_proj(x, False)) * m.up_proj(x, False), False)
        if c.norm_after:
            x = x + norm(attention(block.self_attn, c, kind, x), block.post_attention_layernorm.weight, c.eps)
            x = x + norm(mlp(x), block.post_feedforward_layernorm.weight, c.eps)
        else:
            x = x + attention(block.self_attn, c, kind, norm(x, block.input_layernorm.weight, c.eps))
            x = x + mlp(norm(x, block.post_attention_layernorm.weight, c.eps))
    return norm(x, model.norm.weight, c.eps) @ model.head.T


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_the_formula_with_its_gradient(name):
    model = a_model(**ARCHITECTURES[name], layers=2).double()
    tokens = torch.randint(0, 211, (90,), generator=torch.Generator().manual_seed(1))
    wanted = reference(model, tokens)
    logprobs = wanted[:-1].log_softmax(-1).gather(1, tokens[1:, None])[:, 0]
    theirs = torch.autograd.grad(logprobs.sin().sum(), model.parameters())
    for model.exact in (False, True):
        torch.testing.assert_close(model(tokens[None])[0], wanted, rtol=1e-5, atol=1e-5)      # the angles are of float32
        ours = torch.autograd.grad(model.logprobs(tokens[None]).sin().sum(), model.parameters())
        for (where, _), a, b in zip(model.named_parameters(), ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()), msg=lambda m, w=where: f"{w}: {m}")


# bits

@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sampler_and_trainer_agree_to_the_last_bit(name):
    """Prompts that are prefilled at once and in pieces, rows that leave and enter, and the trainer with packed documents."""
    model = a_model(**ARCHITECTURES[name])
    model.exact = True
    g = torch.Generator().manual_seed(2)
    prompts = [torch.randint(0, 211, (n,), generator=g).tolist() for n in (60, 150, 3)]
    limits, found = [12, 5, 9], []
    for chunk in (0, 41):
        groups = Sampler(model, rows=2, prefill_chunk=chunk).generate(prompts, max_new_tokens=limits, stop=set(), temperature=0.8)
        found.append([(c.tokens, c.logprobs) for [c] in groups])
    assert found[0] == found[1]
    sequences = [p + t for p, (t, _) in zip(prompts, found[0])]
    tokens = torch.tensor([i for s in sequences for i in s])[None]
    logprobs = model.logprobs(tokens, documents_of(*map(len, sequences)), 0.8)[0].detach()
    end = 0
    for s, (drawn, reported) in zip(sequences, found[0]):
        end += len(s)
        assert torch.equal(logprobs[end - len(drawn) - 1:end - 1], torch.tensor(reported))


def test_a_factor_needs_the_norm():
    with pytest.raises(ValueError, match="qk_scale .* needs qk_norm"):
        Config(qk_scale=True)


def test_the_factors_start_at_one_and_the_sinks_at_zero():
    """So a new model with a factor is the model without it; a sink of 0 takes the share of one key with the score 0."""
    torch.manual_seed(0)
    layer = Transformer(Config(layers=1, qk_norm="head", qk_scale=True, sinks=True)).layers[0].self_attn
    assert torch.equal(layer.qk_scale, torch.ones(4)) and torch.equal(layer.sinks, torch.zeros(4))

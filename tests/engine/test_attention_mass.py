"""The shares of attention, against a direct computation in float64: one query at a time, from the weights."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine import attention_mass as measured
from engine.attention_mass import attention_mass, by_kind, by_layer
from model import LAYER_KINDS, Config, Transformer

KINDS = {
    "rope": dict(heads=4, kv_heads=4),
    "grouped, qk-norm": dict(qk_norm="head"),
    "one key head, biases": dict(kv_heads=1, qkv_bias=True, rope_theta=100.0),
    "olmo": dict(qk_norm="full", norm_after=True),
    "windowed hybrid": dict(attention="window+nope+rope", window=5, qk_norm="head"),
    "scaled qk-norm": dict(qk_norm="head", qk_scale=True, head_gate=True),
    "sinks": dict(attention="window+rope", window=5, sinks=True),
    "yarn": dict(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
}


def a_model(layers=3, **options):
    torch.manual_seed(0)
    model = Transformer(Config(**dict(vocab_size=97, layers=layers, width=32, heads=4, kv_heads=2) | options)).double()
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.3)
    return model


def normed(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x, model, kind, position):
    """One head (hd,) at a position: pairs (i, i + hd/2) as complex numbers, each turned by its own angle."""
    if not LAYER_KINDS[kind].rope:
        return x
    cos, sin = (a[0, 0, 0] for a in model.angles(torch.tensor([[position]]))[kind])
    half = len(x) // 2
    z = torch.complex(x[:half], x[half:]) * torch.complex(cos, sin)
    return torch.cat([z.real, z.imag])


def directly(model, tokens, documents, rows):
    """{layer: (H, T, T + 1) of weights, 0 where a row sees nothing}, from the inputs of each layer's attention; tokens (T,)."""
    inputs, c, T = {}, model.config, len(tokens)
    hooks = [layer.self_attn.register_forward_pre_hook(lambda _, args, i=i: inputs.update({i: args[0][0]}))
             for i, layer in enumerate(model.layers)]
    with torch.no_grad():
        model(tokens[None], documents[None])
    for hook in hooks:
        hook.remove()
    start = [max(i for i in range(t + 1) if i == 0 or documents[i] != documents[i - 1]) for t in range(T)]
    found = {}
    for i, layer in enumerate(model.layers):
        a, kind = layer.self_attn, c.attention[i]

        def heads(projection, norm, n, a=a, kind=kind, i=i):
            x = inputs[i] @ projection.weight.T + (projection.bias if projection.bias is not None else 0)
            if c.qk_norm == "full":
                x = normed(x, norm.weight, c.eps)
            x = x.view(T, n, c.head_size)
            if c.qk_norm == "head":
                x = normed(x, norm.weight, c.eps)
            return torch.stack([torch.stack([turned(x[t, h], model, kind, t - start[t]) for h in range(n)]) for t in range(T)])
        with torch.no_grad():
            q = heads(a.q_proj, getattr(a, "q_norm", None), c.heads)
            k = heads(a.k_proj, getattr(a, "k_norm", None), c.kv_heads)
        if c.qk_scale:
            q = q * a.qk_scale.detach()[:, None]
        weights = torch.zeros(c.heads, T, T + 1, dtype=torch.float64)         # the last column is of the sink
        for h in range(c.heads):
            for t in range(T):
                low = max(start[t], t - a.window + 1) if a.window else start[t]
                scores = torch.tensor([float(q[t, h] @ k[s, h * c.kv_heads // c.heads]) for s in range(low, t + 1)]).double()
                scores = scores / math.sqrt(c.head_size)
                if c.sinks:
                    scores = torch.cat([scores, a.sinks[h:h + 1].detach()])
                weights[h, t, [*range(low, t + 1), *[T] * c.sinks]] = scores.softmax(0)
        found[i] = weights
    return found


@pytest.mark.parametrize("cells", [400, 2 ** 22])
@pytest.mark.parametrize("name", KINDS)
def test_shares_and_entropies_are_those_of_a_direct_computation(name, cells, monkeypatch):
    """Of chosen rows of two packed rows of documents; a token of no part counts nowhere. Blocks of any size give the same."""
    monkeypatch.setattr(measured, "CELLS", cells)
    model, g = a_model(**KINDS[name]), torch.Generator().manual_seed(1)
    T, S = 24, 3
    tokens = torch.randint(0, 97, (2, T), generator=g)
    documents = torch.tensor([[0] * 9 + [1] * 15, [0] * 20 + [-1] * 4])
    parts = torch.randint(-1, S, (2, T), generator=g)
    rows = torch.rand(2, T, generator=g) < 0.4
    found = attention_mass(model, tokens, parts, rows, S, documents)
    wanted = [directly(model, tokens[b], documents[b], rows[b]) for b in range(2)]
    assert [(one.layer, one.kind) for one in found] == [*enumerate(model.config.attention)]
    for one in found:
        chosen = torch.cat([wanted[b][one.layer][:, rows[b]] for b in range(2)], dim=1)       # (H, rows, T + 1)
        of = torch.cat([parts[b].expand(int(rows[b].sum()), T) for b in range(2)])            # (rows, T)
        for part in range(S):
            wanted_mass = (chosen[..., :T] * (of == part)).sum(2).mean(1)
            assert torch.allclose(one.mass[:, part], wanted_mass, atol=1e-9), (name, one.layer)
        assert (one.mass.sum(1) < 1 - 1e-6).any()
        assert (one.sink is None) == (name != "sinks")
        assert one.sink is None or torch.allclose(one.sink, chosen[..., T].mean(1), atol=1e-9) and (one.sink > 0.01).all()
        entropy = -(chosen * chosen.clamp(min=1e-300).log2()).sum(2).mean(1)
        assert torch.allclose(one.entropy, entropy, atol=1e-9) and (one.entropy > 0.01).all()


def test_a_sharp_head_finds_its_needle_and_a_flat_one_looks_everywhere():
    """By hand: without scores a row looks at all tokens alike, so 16 keys are 4 bits; a large score takes all."""
    T, H = 16, 2
    q, k = torch.zeros(1, T, H, 4), torch.zeros(1, T, 1, 4)
    q[0, :, 1] = k[0, 5] = 20.0
    parts = torch.full((1, T), 1)
    parts[0, 5] = 0
    rows = torch.zeros(1, T, dtype=torch.bool)
    rows[0, -1] = True
    mass, entropy, sink = measured.of_rows(q, k, torch.arange(T)[None], parts, rows, 2)
    assert sink is None
    half = measured.of_rows(0 * q, k, torch.arange(T)[None], parts, rows, 2, sinks=torch.tensor([math.log(16), -99.0]))[2]
    assert torch.allclose(half, torch.tensor([0.5, 0.0]))
    assert torch.allclose(mass, torch.tensor([[1 / 16, 15 / 16], [1.0, 0.0]]), atol=1e-6)
    assert torch.allclose(entropy, torch.tensor([4.0, 0.0]), atol=1e-6)
    with pytest.raises(ValueError, match="at least one row"):
        attention_mass(a_model(), torch.zeros(1, 4, dtype=torch.long), parts[:, :4], rows[:, :4], 2)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that is made."""
    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        if isinstance(out, torch.Tensor) and out.untyped_storage().nbytes():  # an expanded view takes no memory
            self.size = max(self.size, out.untyped_storage().nbytes() // out.element_size())
        return out


def test_no_matrix_of_all_pairs_is_ever_made(monkeypatch):
    """Of 512 tokens and 4 heads there are a million pairs; blocks of 2 ** 14 scores make nothing larger than that."""
    monkeypatch.setattr(measured, "CELLS", 2 ** 14)
    T = 512
    q, k = torch.randn(1, T, 4, 4), torch.randn(1, T, 2, 4)
    with Largest() as largest:
        measured.of_rows(q, k, torch.arange(T)[None], torch.zeros(1, T, dtype=torch.long), torch.ones(1, T, dtype=torch.bool), 1)
    assert T * 4 * 4 <= largest.size <= 2 ** 14


def test_the_model_is_told_that_a_row_is_one_document(monkeypatch):
    """Without document numbers a GPU would call torch's attention, which makes the matrix of all pairs for a window, and for
    grouped heads in float32."""
    given, hidden, tokens = [], Transformer.hidden, torch.zeros(1, 9, dtype=torch.long)

    def noted(self, tokens, documents=None, **more):
        given.append(documents)
        return hidden(self, tokens, documents, **more)
    monkeypatch.setattr(Transformer, "hidden", noted)
    attention_mass(a_model(1), tokens, tokens, tokens == 0, 1)
    assert torch.equal(given[0], tokens)


def test_means_over_texts_heads_and_layers():
    def one(layer, kind, mass, entropy):
        return measured.LayerMass(layer, kind, torch.tensor(mass), torch.tensor(entropy))
    texts = [[one(0, "rope", [[0.2, 0.8], [0.4, 0.6]], [1.0, 2.0]), one(1, "nope", [[0.0, 1.0], [1.0, 0.0]], [0.0, 0.0])],
             [one(0, "rope", [[0.6, 0.4], [0.8, 0.2]], [3.0, 6.0]), one(1, "nope", [[0.5, 0.5], [0.5, 0.5]], [1.0, 1.0])]]
    layers = by_layer(texts, ("needle", "rest"))
    assert layers == [{"layer": 0, "kind": "rope", "entropy": 3.0, "needle": 0.5, "rest": 0.5},
                      {"layer": 1, "kind": "nope", "entropy": 0.5, "needle": 0.5, "rest": 0.5}]
    assert by_kind([*layers, layers[1] | {"layer": 2, "entropy": 1.5}]) == [
        {"kind": "rope", "layers": 1, "entropy": 3.0, "needle": 0.5, "rest": 0.5},
        {"kind": "nope", "layers": 2, "entropy": 1.0, "needle": 0.5, "rest": 0.5}]

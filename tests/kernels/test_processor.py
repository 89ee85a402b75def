"""What a processor refuses, or computes wrongly, is not used, and everything stays right without it."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels import exact as reference
from kernels import fast, fast_attention, processor
from model import Config, Transformer
from sampler import Sampler

OPERATORS = {processor.linear: (torch.ops.mkldnn, "_linear_pointwise"),
             processor.reorder: (torch.ops.mkldnn, "_reorder_linear_weight"),
             processor.softmax_gradient: (torch, "_softmax_backward_data"),
             processor.silu_gradient: (torch.ops.aten, "silu_backward")}
CACHES = processor.able, reference._onednn_agrees


@pytest.fixture(autouse=True)
def asked_anew():
    for cached in CACHES:
        cached.cache_clear()
    yield
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=300, layers=2, width=64, heads=4, kv_heads=2, qkv_bias=True))
    for w in model.parameters():
        w.data.add_(torch.randn_like(w) * 0.1)
    return model


def refusing(monkeypatch, operator, dtypes=(torch.float32, torch.float64, torch.bfloat16)):
    """Takes an operator away from some types, as oneDNN does with bfloat16 where there is no AVX-512."""
    namespace, name = OPERATORS[operator]
    usual = getattr(namespace, name)

    def refuse(*args, **more):
        if args[0].dtype in dtypes:
            raise RuntimeError("mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx_ne_convert or avx512bw")
        return usual(*args, **more)
    monkeypatch.setattr(namespace, name, refuse)


def loss_and_gradients(model, tokens, exact):
    model.zero_grad()
    model.exact = exact
    logprobs = model.logprobs(tokens)
    logprobs.sin().sum().backward()
    return [logprobs.detach(), *(w.grad.clone() for w in model.parameters())]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_without_an_operator_everything_stays_right(model, monkeypatch, operator):
    monkeypatch.setattr(fast_attention, "LEAST", 0)                           # attention in blocks
    monkeypatch.setattr(fast, "SMALL", 0)                                     # no product is too small for oneDNN
    tokens = torch.randint(0, 300, (2, 90), generator=torch.Generator().manual_seed(0))
    precise = loss_and_gradients(model.double(), tokens, False)
    model.float()
    refusing(monkeypatch, operator)
    for exact in (False, True):
        for ours, theirs in zip(loss_and_gradients(model, tokens, exact), precise, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert not processor.able(operator, torch.float32)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16,), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("operator", [processor.reorder, processor.linear], ids=lambda operator: operator.__name__)
def test_sampling_without_oneDNN(model, monkeypatch, operator, dtypes, exact):
    monkeypatch.setattr(fast, "SMALL", 0)
    refusing(monkeypatch, operator, dtypes)
    model.exact = exact
    for dtype in (torch.bfloat16, torch.float32):
        done = Sampler(model, rows=3, dtype=dtype).generate([[1, 2, 3], [4] * 70, [5], [6, 7]], max_new_tokens=6, stop=set())
        assert (fast.reorder(torch.ones(4, 4, dtype=dtype)) is None) == (dtype in dtypes)
        for [c] in done:
            tokens = torch.tensor([c.prompt + c.tokens])
            with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                computed = model.logprobs(tokens)[0, -6:]
            if exact and dtype == torch.float32:
                assert torch.equal(computed, torch.tensor(c.logprobs))
            torch.testing.assert_close(computed, torch.tensor(c.logprobs), rtol=0, atol=0.1 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.__name__)
def test_what_computes_something_else_is_not_used(monkeypatch, operator):
    assert processor.able(operator, torch.float32)
    processor.able.cache_clear()
    namespace, name = OPERATORS[operator]
    usual = getattr(namespace, name)
    wrong = (lambda w, *_: usual(-w, 64)) if operator is processor.reorder else lambda *args, **more: usual(*args, **more) + 0.01
    monkeypatch.setattr(namespace, name, wrong)
    assert not processor.able(operator, torch.float32)


def test_a_type_is_asked_once(monkeypatch):
    asked = []
    monkeypatch.setattr(processor, "_try", lambda operator, x, y: asked.append(x.dtype) or (x, x.double()))
    for _ in range(3):
        assert processor.able(processor.reorder, torch.bfloat16) and processor.able(processor.reorder, torch.float32)
    assert asked == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("G", [1, 2])
def test_attention_of_any_back_end_of_torch(dtype, G):
    """torch chooses among its own by processor and type; the plain one is what it has on all of them."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 30, heads, 8, generator=g).to(dtype) for heads in (2 * G, 2, 2))
    wanted = fast_attention._sdpa(*(x.double() for x in (q, k, v)), None)
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel([backend, SDPBackend.MATH]):
            found = fast_attention._sdpa(q, k, v, None)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


def test_linear_and_reorder_are_asked_by_what_uses_them(monkeypatch):
    """Not a type more than is needed: float64 has no form in oneDNN and nobody asks for it."""
    asked = []
    monkeypatch.setattr(processor, "able", lambda operator, dtype: asked.append((operator, dtype)) or False)
    x, w = torch.randn(5, 8), torch.randn(6, 8)
    torch.testing.assert_close(fast.linear(x, w), F.linear(x, w))
    assert fast.reorder(w.double()) is None and fast.reorder(w) is None
    assert set(asked) == {(processor.linear, torch.float32), (processor.reorder, torch.float32)}

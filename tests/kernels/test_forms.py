"""A complete model with the Triton kernels, in the interpreter or on a GPU, gives the same results as with plain PyTorch."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import kernels  # noqa: E402
import kernels.fast as fast  # noqa: E402
from kernels.gpu.activation import swiglu  # noqa: E402
from model import Config, Transformer  # noqa: E402
from sampler import Sampler  # noqa: E402

pytestmark = pytest.mark.usefixtures("dot_in_order")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def by_triton(monkeypatch):
    """Sends CPU tensors to the Triton kernels as well."""
    monkeypatch.setattr(kernels, "_form", lambda x, exact: "triton")


def a_model(**options):
    torch.manual_seed(0)
    shape = dict(vocab_size=97, layers=2, width=16, heads=2, kv_heads=1, ff=24)
    model = Transformer(Config(**shape | options)).to(DEVICE)
    with torch.no_grad():
        for w in model.parameters():
            w.mul_(4) if w.ndim == 2 else w.add_(0.3 * torch.randn_like(w))
    return model


OPTIONS = [dict(qk_norm="head", attention="rope+nope", width=32, heads=4, kv_heads=2),
           dict(qk_norm="full", norm_after=True, attention="window", window=5),
           dict(qkv_bias=True, qk_norm="head", qk_scale=True, head_gate=True, sinks=True)]


def loss_and_gradients(model, tokens, documents):
    model.zero_grad()
    logprobs, entropies = model(tokens[:, :-1], documents[:, :-1], tokens[:, 1:], 0.7, True)
    (logprobs.sin() + 0.1 * entropies).sum().backward()
    return [logprobs.detach(), entropies.detach()] + [w.grad.clone() for w in model.parameters()]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_model_of_triton_kernels_computes_the_same(options, monkeypatch):
    model = a_model(**options)
    tokens = torch.randint(0, 97, (2, 20), device=DEVICE)
    documents = torch.tensor([[0] * 9 + [1] + [2] * 10, [0] * 17 + [-1] * 3], device=DEVICE)
    monkeypatch.setattr(kernels, "_form", lambda x, exact: fast)
    wanted = loss_and_gradients(model, tokens, documents)
    monkeypatch.setattr(kernels, "_form", lambda x, exact: "triton")
    for model.exact in (False, True):
        for a, b in zip(loss_and_gradients(model, tokens, documents), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


@pytest.mark.parametrize("options, temperature", [*zip(OPTIONS, (0.7, 1.0, 0.7), strict=True)])
def test_sampler_and_trainer_agree_to_the_last_bit(options, temperature, by_triton):
    model = a_model(**options)
    model.exact = True
    prompts, how = [[1, 2, 3], [5] * 9, [7], [8, 9]], dict(max_new_tokens=[4, 3, 5, 2], stop=set(), temperature=temperature)
    done = [c for [c] in Sampler(model, rows=3).generate(prompts, **how)]
    again = [c for [c] in Sampler(model, rows=2, prefill_chunk=4).generate(prompts, **how)]
    assert [(c.tokens, c.logprobs) for c in done] == [(c.tokens, c.logprobs) for c in again]
    sequences = [c.prompt + c.tokens for c in done]
    tokens = torch.tensor([t for s in sequences for t in s], device=DEVICE)[None]
    documents = torch.tensor([i for i, s in enumerate(sequences) for _ in s], device=DEVICE)[None]
    with torch.no_grad():
        logprobs = model.logprobs(tokens, documents, temperature)[0]
    at = 0
    for c in done:
        end = at + len(c.prompt) + len(c.tokens) - 1
        assert torch.equal(logprobs[end - len(c.tokens):end].cpu(), torch.tensor(c.logprobs))
        at = end + 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 1100), (0, 4)])
def test_swiglu(shape):
    gate, up = (torch.randn(shape, device=DEVICE).mul_(3).requires_grad_() for _ in range(2))
    out, wide = swiglu(gate, up), [x.detach().double().requires_grad_() for x in (gate, up)]
    wanted = fast.swiglu(*wide)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-6)
    g = torch.randn_like(out)
    for a, b in zip(torch.autograd.grad(out, (gate, up), g), torch.autograd.grad(wanted, wide, g.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    torch.library.opcheck(torch.ops.nanothink.swiglu.default, (gate, up))

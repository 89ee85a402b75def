"""The divergences over the whole vocabulary, against their definitions with autograd, and without a tensor of tokens x words."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
import rl.full_divergence as full
from rl.full_divergence import DIVERGENCES, Comparison, token_divergences

N, V = 13, 29


def definition(kind, p, q, beta, top_k=0):
    """From the formulas, with distributions p (student) and q (teacher), (N, V); with top_k the words behind the teacher's first
    K are added up to one."""
    if top_k:
        order = q.argsort(dim=1, descending=True)
        p, q = (torch.cat([(x := y.gather(1, order))[:, :top_k], x[:, top_k:].sum(1, keepdim=True)], dim=1) for y in (p, q))

    def kl(a, b):
        return torch.where(a > 0, a * (a.clamp(min=1e-300) / b.clamp(min=1e-300)).log(), 0.0).sum(1)
    m = beta * q + (1 - beta) * p
    return {"forward": kl(q, p), "reverse": kl(p, q), "jsd": beta * kl(q, m) + (1 - beta) * kl(p, m)}[kind]


def heads(seed=0, rows=V, dtype=torch.float64):
    """Hidden states and heads of a student and of a wider teacher, whose head may have other rows, and targets."""
    g = torch.Generator().manual_seed(seed)
    found = [torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((N, 8), (V, 8), (N, 12), (rows, 12))]
    return *found, torch.randint(0, 20, (N,), generator=g)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("top_k, temperature, rows, unused", [
    (0, 1.0, V, ()), (0, 0.7, V, ((20, 23), (28, 29))), (0, 1.0, V + 6, ((25, 29),)), (0, 1.3, V - 4, ((25, 29),)),
    (1, 1.0, V, ()), (5, 0.7, V, ((20, 23),)), (V - 1, 1.0, V, ()), (V, 1.0, V, ()), (99, 1.0, V, ())])
@pytest.mark.parametrize("exact", [False, True])
def test_values_and_gradients_are_those_of_the_definition(monkeypatch, kind, top_k, temperature, rows, unused, exact):
    """In chunks of three tokens. A teacher's head with more or fewer rows has ids that no token has."""
    monkeypatch.setitem(full.CHUNK, "cpu", 3 * V + 1)
    h, w, teacher_h, teacher_w, targets = heads(rows=rows)
    how = Comparison(kind, 0.3, top_k, temperature, exact, unused)
    ours, theirs = ([x.clone().requires_grad_() for x in (h, w)] for _ in range(2))
    found, logprobs, entropies = token_divergences(how, *ours, teacher_h, teacher_w, targets)
    hidden = torch.zeros(V, dtype=torch.bool)
    for start, end in unused:
        hidden[start:end] = True

    def softmax(logits):
        lacking = V - logits.shape[1]
        logits = torch.nn.functional.pad(logits[:, :V], (0, max(0, lacking)), value=float("-inf"))
        return (logits / temperature).masked_fill(hidden, float("-inf")).softmax(dim=1)
    p, q = softmax(theirs[0] @ theirs[1].T), softmax(teacher_h @ teacher_w.T)
    wanted = definition(kind, p, q, 0.3, top_k if top_k < V else 0)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-13) and float(found.detach().min()) >= 0
    assert torch.allclose(logprobs, p.gather(1, targets[:, None]).log()[:, 0], rtol=1e-10)
    assert torch.allclose(entropies, torch.special.entr(p).sum(1), rtol=1e-10)
    assert not logprobs.requires_grad and not entropies.requires_grad
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-9, atol=1e-12) and float(b.grad.norm()) > 1e-3


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("top_k", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_distributions_give_exactly_zero(kind, top_k, dtype):
    h, w, *_, targets = heads(dtype=dtype)
    h, w = (6 * h).requires_grad_(), w.requires_grad_()                       # far from uniform
    found, _, entropies = token_divergences(Comparison(kind, 0.3, top_k, 0.9, True, ((3, 5),)), h, w, h.detach(), w.detach(),
                                            targets)
    found.sum().backward()
    assert (found == 0).all() and (h.grad == 0).all() and (w.grad == 0).all() and float(entropies.min()) >= 0


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_distributions_that_hardly_meet_stay_finite(kind):
    """A student that is sure of a word of which the teacher is sure that it is another one."""
    h, w, targets = torch.eye(2).mul(150).requires_grad_(), torch.eye(2), torch.zeros(2, dtype=torch.long)
    found, *_ = token_divergences(Comparison(kind), h, w, torch.eye(2).flip(0).mul(150), w, targets)
    found.sum().backward()
    wanted = 150 if kind != "jsd" else torch.log(torch.tensor(2.0)).item()
    assert found.tolist() == pytest.approx([wanted] * 2, rel=1e-5) and h.grad.isfinite().all()


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_tail_makes_it_a_lower_bound_that_rises_with_k(kind):
    found = [token_divergences(Comparison(kind, 0.4, k), *heads())[0] for k in (1, 4, 12, 25, 0)]
    assert all((a <= b + 1e-12).all() for a, b in zip(found, found[1:])) and (found[0] < found[-1]).all()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""
    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for x in made if isinstance(made, tuple | list) else [made]:
            if isinstance(x, torch.Tensor):
                self.most = max(self.most, x.numel())
        return made


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("exact", [False, True])
def test_no_tensor_of_tokens_by_words_is_made(monkeypatch, kind, exact):
    tokens, D, words = 600, 8, 2000
    monkeypatch.setitem(full.CHUNK, "cpu", 32 * words)
    h, w = torch.randn(tokens, D, requires_grad=True), torch.randn(words, D, requires_grad=True)
    kernels.head_logits(torch.ones(1, D), w.detach(), exact)                  # which methods are exact is found out once
    with Largest() as seen:
        how, teacher = Comparison(kind, top_k=3, exact=exact), (torch.randn(tokens, D), torch.randn(words, D))
        found, *_ = token_divergences(how, h, w, *teacher, torch.zeros(tokens, dtype=torch.long))
        found.sum().backward()
    assert words * D < seen.most <= 48 * words < tokens * words / 10 and float(h.grad.norm()) > 0

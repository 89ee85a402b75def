"""The Triton kernels against formulas in float64 and the plain blocks; and do rows really not know each other?

Without a GPU they run in Triton's interpreter, on float32 only: it tells nothing about how a compiler lays out a sum.
"""

import itertools
import os
import weakref

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import kernels  # noqa: E402
import kernels.fast as fast  # noqa: E402
from kernels.gpu import linear as linear_module  # noqa: E402
from kernels.gpu import logprob as logprob_module  # noqa: E402
from kernels.gpu import norm as norm_module  # noqa: E402
from kernels.gpu.linear import linear, tile  # noqa: E402
from kernels.gpu.logprob import row_logprobs, token_logprobs  # noqa: E402
from kernels.gpu.norm import qk_norm_rope, rms_norm  # noqa: E402
from model import Config, Transformer  # noqa: E402
from sampler import Sampler  # noqa: E402

pytestmark = pytest.mark.usefixtures("dot_in_order")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
BATCHES = [1, 2, 3, 7, 16, 17, 32, 33, 64, 65, 100, 128, 200, 256, 300, 1024]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, device=DEVICE)


def close(ours, theirs, name=""):
    """Equal to 1e-5 of the largest value."""
    assert ours.shape == theirs.shape, name
    error = (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0
    assert error <= 1e-5 * max(theirs.abs().max().item() if theirs.numel() else 0.0, 1e-3), (name, error)


def agree(ours, *theirs, inputs):
    """Forward and every gradient of `ours` equal those of the other functions, the first of them taken in float64."""
    out = ours(*inputs)
    out = out if isinstance(out, tuple) else (out,)
    grads = [torch.randn_like(o) for o in out]
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    found = torch.autograd.grad(out, leaves, grads)
    for k, function in enumerate(theirs):
        cast = (lambda x: x.double()) if k == 0 else (lambda x: x)
        wide = [x if x is None or not x.is_floating_point() else cast(x.detach()).requires_grad_(x.requires_grad)
                for x in inputs]
        expected = function(*wide)
        expected = expected if isinstance(expected, tuple) else (expected,)
        wanted = torch.autograd.grad(expected, [x for x in wide if x is not None and x.requires_grad],
                                     [cast(g) for g in grads])
        for i, (a, b) in enumerate(zip(out + found, expected + wanted, strict=True)):
            close(a, b, f"function {k}, {'output' if i < len(out) else 'gradient'} {i % len(out)}")


def alone_or_in_company(function, x, sizes=(1, 3)):
    """Rows of function(x) are bit-equal to those of smaller batches cut from its start, its end and shuffled."""
    whole, order = function(x), torch.randperm(len(x), device=x.device)
    assert torch.equal(function(x[order]), whole[order])
    for n in sizes:
        assert torch.equal(function(x[:n]), whole[:n]), n
        assert torch.equal(function(x[-n:]), whole[-n:]), n


# linear

@pytest.mark.parametrize("M, D, N, bias", [
    (1, 96, 70, True), (5, 100, 33, False), (70, 40, 129, True), (0, 32, 8, True)])
def test_linear(M, D, N, bias):
    x, w = randn(M, D).requires_grad_(), randn(N, D).requires_grad_()
    b = randn(N).requires_grad_() if bias else None

    def formula(x, w, b):
        return (x[:, None] * w).sum(-1) + (0 if b is None else b)
    agree(linear, formula, fast.linear, inputs=(x, w, b))


def test_linear_takes_any_shape_and_order():
    x, w = randn(7, 2, 3).transpose(0, 2), randn(5, 7).mT.contiguous().mT       # neither is contiguous
    close(linear(x, w), x.double() @ w.double().T)
    with pytest.raises(TypeError, match="float64"):
        linear(x.double(), w)


def test_rows_of_linear_do_not_know_each_other():
    w, b = randn(50, 100), randn(50)
    alone_or_in_company(lambda x: linear(x, w, b), randn(70, 100))


def test_tiles_fit_the_rows():
    for kind in linear_module.TILES:
        for dtype in linear_module.BLOCK_K:
            for M in (1, 16, 17, 64, 65, 1000, 10 ** 5):
                for N, out, D in itertools.product((1, 300, 10 ** 5), (dtype, torch.float32), (64, 511)):
                    block_m, block_n, warps, stages = tile(M, N, dtype, kind, out, D)
                    assert block_m >= 16 and block_n >= 16 and warps in (1, 2, 4, 8)
                    memory = stages * (block_m + block_n) * linear_module.BLOCK_K[dtype] * dtype.itemsize
                    assert memory <= (227 if kind == "data centre" else 99) * 1024


def test_the_library_takes_over_only_where_its_bits_are_the_same(monkeypatch):
    """On a CPU, for types that have no library there: the kernel itself stands for one that agrees."""
    used, kernel = [], linear_module._by_triton

    def agrees(x, weight, bias, out):
        used.append(len(x))
        return kernel(x, weight, bias, out)

    def differs(x, weight, bias, out):
        used.append(len(x))
        return torch.nextafter(y := kernel(x, weight, bias, out), y + 1)
    monkeypatch.setattr(linear_module, "HALF", (torch.float32,))
    monkeypatch.setattr(linear_module, "_forbid_split_k", lambda: True)
    x, w = randn(5, 32), randn(24, 32)
    wanted = kernel(x, w, None, torch.float32)
    for library, calls in ((agrees, [5, 5, 5]), (differs, [5])):              # one is the trial
        monkeypatch.setattr(linear_module, "_by_library", library)
        monkeypatch.setattr(linear_module, "_tried", {})
        used.clear()
        for _ in range(2):
            assert torch.equal(linear(x, w), wanted)
        assert used == calls
    used.clear()
    monkeypatch.setattr(linear_module, "_tried", {})
    linear(randn(5, 30), randn(24, 30)), linear(randn(5, 32), randn(23, 32)), linear(randn(6 * 32)[1:161].view(5, 32), w)
    assert not used                                                           # other sizes or places than the trial's
    monkeypatch.setattr(linear_module, "_forbid_split_k", lambda: False)      # it cannot be told
    assert torch.equal(linear(x, w), wanted) and not used


# norm

@pytest.fixture
def few_programs(monkeypatch):
    """So few that each takes several rows, as it does on a GPU."""
    monkeypatch.setattr(norm_module, "PROGRAMS", 3)


@pytest.mark.parametrize("shape", [(1, 96), (2, 4, 100), (0, 64)])
def test_rms_norm(shape, few_programs):
    x, w = randn(*shape).requires_grad_(), randn(shape[-1]).requires_grad_()

    def formula(x, w):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w
    agree(lambda x, w: rms_norm(x, w, 1e-5), formula, lambda x, w: fast.rms_norm(x, w, 1e-5), inputs=(x, w))


def test_rms_norm_of_a_residual_sum(few_programs):
    x, residual, w = randn(7, 40).requires_grad_(), randn(7, 40).requires_grad_(), randn(40).requires_grad_()

    def formula(x, residual, w):
        s = x + residual
        return s / (s.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w, s

    def plain(x, residual, w):
        return fast.rms_norm(x + residual, w, 1e-5), x + residual
    agree(lambda x, residual, w: rms_norm(x, w, 1e-5, residual), formula, plain, inputs=(x, residual, w))
    assert torch.equal(rms_norm(x, w, 1e-5, residual)[0], rms_norm(x + residual, w, 1e-5))


@pytest.mark.parametrize("N, heads, hd, norm", [
    (5, 3, 32, True), (4, 2, 48, True), (3, 1, 48, False), (0, 2, 32, True)])
def test_qk_norm_rope(N, heads, hd, norm, few_programs):
    x, w = randn(N, heads, hd).requires_grad_(), randn(hd).requires_grad_() if norm else None
    angle = randn(N, hd // 2) * 10
    cos, sin = angle.cos(), angle.sin()

    def formula(x, w, cos, sin):                                              # a pair is a complex number
        if w is not None:
            x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w
        pairs = torch.complex(*x.chunk(2, dim=-1)) * torch.complex(cos, sin)[:, None]
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    def plain(x, w, cos, sin):
        x = x if w is None else fast.rms_norm(x, w, 1e-5)
        return fast.rotate(x[None], cos[None, :, None], sin[None, :, None])[0]
    agree(lambda *inputs: qk_norm_rope(*inputs, 1e-5), formula, plain, inputs=(x, w, cos, sin))


def test_rows_of_norms_do_not_know_each_other():
    w, angle = randn(96), randn(9, 24)
    alone_or_in_company(lambda x: rms_norm(x, w, 1e-6), randn(70, 96))
    x, cos, sin = randn(9, 2, 48), angle.cos(), angle.sin()
    whole = qk_norm_rope(x, w[:48], cos, sin, 1e-6)
    for i in (0, 8):
        one = slice(i, i + 1)
        assert torch.equal(qk_norm_rope(x[one], w[:48], cos[one], sin[one], 1e-6), whole[one])


# log-probabilities

@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks of rows and of words, and several blocks in a row."""
    monkeypatch.setattr(logprob_module, "LOGITS", 4 * 300)
    monkeypatch.setattr(logprob_module, "BLOCK", 128)


def formula_logprobs(hidden, weight, targets, temperature, ignore=-100):
    z = hidden @ weight.T / temperature
    logp = z - z.exp().sum(-1, keepdim=True).log()
    real = targets != ignore
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(real, chosen, 0), torch.where(real, -(logp.exp() * logp).sum(-1), 0)


@pytest.mark.parametrize("N, V, temperature, product", [
    (9, 300, 0.7, None), (1, 300, 1.0, linear), (3, 90, 0.7, lambda h, w: linear(h, w, out_dtype=torch.float32)),
    (0, 300, 1.0, None)])
def test_token_logprobs(N, V, temperature, product, small_chunks):
    hidden, weight = randn(N, 24).requires_grad_(), (randn(V, 24) * 0.7).requires_grad_()
    targets = torch.randint(V, (N,), device=DEVICE)
    agree(lambda h, w, t: token_logprobs(h, w, t, temperature, True, product),
          lambda h, w, t: formula_logprobs(h, w, t, temperature), inputs=(hidden, weight, targets))
    if N:
        agree(lambda h, w, t: token_logprobs(h, w, t, temperature, True, product),
              lambda h, w, t: formula_logprobs(h, w, t, temperature),
              lambda h, w, t: fast.token_logprobs(h, w, t, temperature, True), inputs=(hidden, weight, targets))
        agree(lambda h, w, t: token_logprobs(h, w, t, temperature),
              lambda h, w, t: formula_logprobs(h, w, t, temperature)[0], inputs=(hidden, weight, targets))


@pytest.mark.parametrize("product", [None, linear])
def test_absent_words_have_no_probability(product, small_chunks):
    """Ranges in several chunks of words, at both ends and across a chunk's end."""
    unused_ids, V, N = ((0, 3), (120, 140), (200, 201), (290, 300)), 300, 9
    kept = torch.tensor([i for i in range(V) if not any(a <= i < b for a, b in unused_ids)], device=DEVICE)
    hidden, weight = randn(N, 24).requires_grad_(), (randn(V, 24) * 0.7).requires_grad_()
    targets = kept[torch.randint(len(kept), (N,), device=DEVICE)]

    def of_kept(h, w, t):
        return formula_logprobs(h, w[kept], torch.searchsorted(kept, t), 0.7)
    agree(lambda h, w, t: token_logprobs(h, w, t, 0.7, True, product, unused_ids=unused_ids), of_kept,
          lambda h, w, t: fast.token_logprobs(h, w, t, 0.7, True, unused_ids), inputs=(hidden, weight, targets))
    (grad,) = torch.autograd.grad(token_logprobs(hidden, weight, targets, product=product, unused_ids=unused_ids).sum(), weight)
    assert grad[kept].any() and all(not grad[a:b].any() for a, b in unused_ids)
    logits = fast.exclude((hidden @ weight.T).detach(), unused_ids)               # what a sampler hands over
    close(row_logprobs(logits, targets, 0.7)[0], of_kept(hidden, weight, targets)[0])


def test_ignored_targets_count_nothing(small_chunks):
    hidden, weight = randn(5, 24).requires_grad_(), randn(200, 24).requires_grad_()
    targets = torch.tensor([3, -100, 199, 0, -100], device=DEVICE)
    agree(lambda h, w, t: token_logprobs(h, w, t, 0.7, True), lambda h, w, t: formula_logprobs(h, w, t, 0.7),
          inputs=(hidden, weight, targets))
    logprobs, entropies = token_logprobs(hidden, weight, targets, entropy=True)
    assert not logprobs[1] and not entropies[4]
    (grad,) = torch.autograd.grad(logprobs.sum() + entropies.sum(), hidden)
    assert not grad[[1, 4]].any() and grad[[0, 2, 3]].any()
    assert torch.equal(token_logprobs(hidden, weight, targets.where(targets >= 0, 7), ignore=7), logprobs)


def test_row_logprobs(small_chunks):
    logits = (randn(4, 300) * 5).requires_grad_()
    logits.data[1, 5:290] = -float("inf")                                     # words that a sampler ruled out
    targets = torch.tensor([299, 1, 128, 0], device=DEVICE)
    logprobs, entropies, lses = row_logprobs(logits, targets, 0.7)
    wide = logits.detach().double().clamp(min=-1e4).requires_grad_()          # with -inf the formula's gradient is NaN
    logp = (wide / 0.7).log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    close(logprobs, logp[range(4), targets])
    close(entropies, entropy)
    close(lses, (wide / 0.7).logsumexp(-1))
    (ours,) = torch.autograd.grad(logprobs.sum() + entropies.square().sum(), logits)
    (theirs,) = torch.autograd.grad(logp[range(4), targets].sum() + entropy.square().sum(), wide)
    close(ours, theirs)
    logits.data[2, 7] = float("nan")
    assert row_logprobs(logits, targets)[0].isnan().tolist() == [False, False, True, False]
    assert row_logprobs(logits, targets + 300)[0].isnan().all()               # no such word


def test_rows_of_logprobs_do_not_know_each_other(small_chunks):
    targets = torch.zeros(70, dtype=torch.long, device=DEVICE)
    for k in range(3):
        alone_or_in_company(lambda x, k=k: row_logprobs(x, targets[:len(x)], 0.7)[k], randn(70, 301))


# as parts of PyTorch

def test_operators_are_well_formed():
    from torch.library import opcheck
    x, w = randn(3, 32).requires_grad_(), randn(32).requires_grad_()
    matrix, angle = randn(20, 32).requires_grad_(), randn(3, 16)
    ops, tests = torch.ops.nanothink, ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(ops.linear, (x, matrix, None, torch.float32), test_utils=tests)
    opcheck(ops.rms_norm, (x, None, w, 1e-6), test_utils=tests)
    opcheck(ops.rms_norm, (x, x.detach(), w, 1e-6), test_utils=tests)
    opcheck(ops.qk_norm_rope, (x.view(3, 1, 32), w, angle.cos(), angle.sin(), 1e-6), test_utils=tests)
    opcheck(ops.row_logprobs, (x, torch.tensor([1, -1, 3], device=DEVICE), 0.7), test_utils=tests)


def everything(x, residual, w, matrix, head, targets):
    """A few lines of a model, of all kernels."""
    y, s = rms_norm(x, w, 1e-6, residual)
    y = rms_norm(linear(y, matrix, w) + s, w, 1e-6)
    angle = torch.arange(16., device=y.device).expand(len(y), 16)
    y = qk_norm_rope(y.view(-1, 1, 32), w, angle.cos(), angle.sin(), 1e-6).view(-1, 32)
    return token_logprobs(y, head, targets, 0.7, True)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.cuda, cuda])])
def test_under_compile_and_checkpointing(backend):
    from torch.utils.checkpoint import checkpoint
    inputs = [x.requires_grad_() for x in (randn(5, 32), randn(5, 32), randn(32), randn(32, 32), randn(50, 32))]
    targets = torch.tensor([1, 2, -100, 49, 0], device=DEVICE)
    both = []
    for function in (everything, torch.compile(everything, backend=backend, fullgraph=True),
                     lambda *a: checkpoint(everything, *a, use_reentrant=False)):
        logprobs, entropies = function(*inputs, targets)
        both.append((logprobs, entropies, *torch.autograd.grad(logprobs.sum() + entropies.square().sum(), inputs)))
    for other in both[1:]:
        for a, b in zip(both[0], other, strict=True):
            close(b.detach(), a.detach())


@pytest.mark.parametrize("exact", [True, False])
def test_a_whole_model_samples_and_trains_with_these_kernels(monkeypatch, exact):
    """What a GPU computes, from packed prefill, pieces of prompts and decoding to the trainer's log-probabilities."""
    monkeypatch.setattr(kernels, "_form", lambda x, exact: "triton")
    monkeypatch.setattr(kernels.Packing, "_fill_buckets", lambda self, new: None)
    model = Transformer(Config(vocab_size=67, layers=2, width=32, heads=4, kv_heads=2, ff=48, qk_norm="head",
                               attention="window+rope", window=9)).to(DEVICE)
    model.exact = exact
    prompts = [torch.randint(0, 67, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (20, 1, 7)]
    for chunk in (0, 8):
        engine = Sampler(model, rows=2, prefill_chunk=chunk)
        done = engine.generate(prompts, max_new_tokens=[3, 4, 5], temperature=0.7, stop=set())
        tokens = torch.tensor([t for [c] in done for t in c.prompt + c.tokens], device=DEVICE)[None]
        documents = torch.tensor([i for i, [c] in enumerate(done) for _ in c.prompt + c.tokens], device=DEVICE)[None]
        logprobs = model.logprobs(tokens, documents, 0.7)[0].detach()
        end = 0
        for [c] in done:
            end += len(c.prompt) + len(c.tokens)
            trained, sampled = logprobs[end - len(c.tokens) - 1:end - 1].cpu(), torch.tensor(c.logprobs)
            assert torch.equal(trained, sampled) if exact else (trained - sampled).abs().max() < 1e-4


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once, those that were there before left out."""

    def __init__(self, *known):
        super().__init__()
        self.alive, self.now, self.most = {x.untyped_storage()._cdata for x in known}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(x, torch.Tensor) and (key := x.untyped_storage()._cdata) not in self.alive:
                self.alive.add(key)
                self.now += x.untyped_storage().nbytes()
                weakref.finalize(x.untyped_storage(), self.gone, key, x.untyped_storage().nbytes())
        self.most = max(self.most, self.now)
        return made

    def gone(self, key, size):
        self.alive.discard(key)
        self.now -= size


@pytest.mark.parametrize("exact", [False, True])
def test_logprobs_of_a_large_vocabulary_take_less_than_a_gigabyte(exact, monkeypatch):
    """Counted on tensors without memory, of the shapes of a large model: all that is made, gradients included."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    N, D, V = 16_384, 2048, 128_256
    monkeypatch.setattr(logprob_module, "_mm", lambda a, b, dtype: a.new_empty(len(a), b.shape[1], dtype=dtype))   # as on a GPU
    with FakeTensorMode():
        hidden = torch.empty(N, D, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(V, D, dtype=torch.bfloat16, requires_grad=True)
        targets = torch.zeros(N, dtype=torch.long)
        product = (lambda h, w: h.new_empty(len(h), len(w), dtype=torch.float32)) if exact else None
        with Peak(hidden, weight, targets) as peak:
            logprobs, entropies = token_logprobs(hidden, weight, targets, entropy=True, product=product)
            (logprobs.mean() + entropies.mean()).backward()
    gradients = (N + V) * D * 2
    assert gradients < peak.most < 1e9


# on a GPU only

@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("D, N", [(96, 100), (768, 2304), (2048, 2048), (1536, 8960), (2048, 50304)])
def test_rows_of_linear_on_a_gpu(D, N):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if dtype == torch.float32 and N > 3000:
            continue
        x, w, b = (randn(*shape).to(dtype) for shape in ((1024, D), (N, D), (N,)))
        alone_or_in_company(lambda x, w=w, b=b: linear(x, w, b), x, BATCHES)
        alone_or_in_company(lambda x, w=w, b=b: linear(x, w, b, torch.float32), x, BATCHES)
        exact = x.double() @ w.double().T + b.double()
        error = (linear(x, w, b, torch.float32) - exact).abs().max()          # tensor cores cut off, where others round
        assert error < 1e-4 * exact.abs().max()


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("D", [96, 100, 768, 2048, 5120])
def test_rows_of_norms_and_logprobs_on_a_gpu(D):
    x, w = randn(1024, D).bfloat16(), randn(D)
    residual, targets = torch.randn_like(x), torch.randint(D, (1024,), device=DEVICE)
    alone_or_in_company(lambda x: rms_norm(x, w, 1e-6), x, BATCHES)
    alone_or_in_company(lambda x: rms_norm(x, w, 1e-6, residual[:1].expand(len(x), D))[0], x, BATCHES)
    for logits in (x, x.float(), randn(1024, 50257).bfloat16(), randn(1024, 128256)):
        for k in range(3):
            alone_or_in_company(lambda x, k=k: row_logprobs(x, targets[:1].expand(len(x)), 0.7)[k], logits, BATCHES)
    heads = randn(1024, 12, 96).bfloat16()
    cos, sin = torch.randn(2, 1, 48, device=DEVICE).unbind()
    alone_or_in_company(lambda x: qk_norm_rope(x, w[:96], cos.expand(len(x), 48), sin.expand(len(x), 48), 1e-6), heads,
                        BATCHES)


@pytest.mark.cuda
@cuda
def test_bfloat16_rounds_where_the_plain_form_does():
    x, residual, w = randn(300, 768).bfloat16(), randn(300, 768).bfloat16(), randn(768).bfloat16()
    angle = randn(300, 32)
    heads, w_head = x.view(300, 12, 64), w[:64]
    ours = qk_norm_rope(heads, w_head, angle.cos(), angle.sin(), 1e-6)
    plain = fast.rotate(fast.rms_norm(heads, w_head, 1e-6), angle.cos()[:, None], angle.sin()[:, None])
    y, s = rms_norm(x, w, 1e-6, residual)
    assert torch.equal(s, x + residual)
    # the order of a sum may turn a rounding, of few values
    for a, b in ((ours, plain), (y, fast.rms_norm(s, w, 1e-6))):
        assert (a != b).float().mean() < 1e-2
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
    assert rms_norm(x, w.float(), 1e-6).dtype == torch.bfloat16


@pytest.mark.cuda
@cuda
@pytest.mark.parametrize("exact", [False, True])
def test_logprobs_of_a_large_vocabulary_take_little_memory(exact):
    N, D, V = 16384, 1024, 128 * 1024
    hidden = randn(N, D).bfloat16().requires_grad_()
    weight = (randn(V, D) * 0.02).bfloat16().requires_grad_()
    targets = torch.randint(V, (N,), device=DEVICE)
    product = (lambda h, w: linear(h, w, out_dtype=torch.float32)) if exact else None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs, entropies = token_logprobs(hidden, weight, targets, entropy=True, product=product)
    (logprobs.mean() + entropies.mean()).backward()
    gradients = (hidden.numel() + weight.numel()) * 2
    assert torch.cuda.max_memory_allocated() - before - gradients < 1e9
    few = hidden.detach()[:64].double() @ weight.detach().double().T
    expected = few.log_softmax(-1)[range(64), targets[:64]]
    torch.testing.assert_close(logprobs[:64].double(), expected, rtol=1e-2, atol=1e-2)

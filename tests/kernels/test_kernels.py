"""The blocks against slow, obvious references, in float64 where bits allow no excuse."""

import pytest
import torch
import torch.nn.functional as F

import kernels.fast as fast
import kernels.fast_attention as fast_attention
from engine.cache import KVCache
from kernels import Packing, attend, rms_norm, token_logprobs
from kernels import exact as reference
from kernels.fast import linear, rotate
from model import Config

torch.manual_seed(0)


def rows_of_documents(B, T, seed=0, padding=True):
    """Random document numbers (B, T), -1 where a row ends in padding."""
    g = torch.Generator().manual_seed(seed)
    documents = torch.zeros(B, T, dtype=torch.long)
    for b in range(B):
        at = number = 0
        while at < T:
            n = int(torch.randint(1, 40, (1,), generator=g))
            documents[b, at:at + n] = -1 if padding and at + n >= T and b % 2 else number
            at, number = at + n, number + 1
    return documents


def attend_slowly(q, k, v, documents, window=0):
    """One query at a time, over the keys that it may see."""
    B, T, H, hd = q.shape
    out = torch.zeros_like(q)
    for b in range(B):
        for t in range(T):
            s = t
            while s > 0 and documents[b, s - 1] == documents[b, t] and (not window or t - s + 1 < window):
                s -= 1
            for h in range(H):
                kv = h // (H // k.shape[2])
                w = torch.softmax(k[b, s:t + 1, kv] @ q[b, t, h] / hd ** 0.5, dim=0)
                out[b, t, h] = w @ v[b, s:t + 1, kv]
    return out


@pytest.mark.parametrize("block", [8, 1000])
@pytest.mark.parametrize("window", [0, 7, 20])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_stays_inside_documents(monkeypatch, packed, window, block):
    """In blocks of 8 queries, with probabilities that are kept (short documents) or made again, and by torch's attention."""
    monkeypatch.setattr(fast_attention, "BLOCK", block)
    monkeypatch.setattr(fast_attention, "LEAST", 0)
    B, T, H, K, hd = 3, 50, 4, 2, 8
    q, k, v = (torch.randn(B, T, h, hd, dtype=torch.float64, requires_grad=True) for h in (H, K, K))
    documents = rows_of_documents(B, T) if packed else None
    fast = attend(q, k, v, Packing(B, T, q.device, documents), window)
    slow = attend_slowly(q, k, v, documents if packed else torch.zeros(B, T, dtype=torch.long), window)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    g = torch.randn_like(fast)
    for ours, theirs in zip(torch.autograd.grad(fast, (q, k, v), g), torch.autograd.grad(slow, (q, k, v), g),
                            strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_dense_mask_path_equals_buckets(monkeypatch):
    """The form that a GPU uses, run on the CPU."""
    B, T = 2, 60
    q, k, v = (torch.randn(B, T, 2, 8, dtype=torch.float64) for _ in range(3))
    packing = Packing(B, T, q.device, rows_of_documents(B, T, 3))
    expected = [attend(q, k, v, packing, w) for w in (0, 9)]
    monkeypatch.setattr(Packing, "_fill_buckets", lambda self, new: setattr(
        self, "mask", (new.cumsum(1)[:, None, :, None] == new.cumsum(1)[:, None, None, :]) & fast_attention._band(T, 0,
                q.device)))
    dense = Packing(B, T, q.device, rows_of_documents(B, T, 3))
    assert dense.buckets is None
    for w, e in zip((0, 9), expected, strict=True):
        torch.testing.assert_close(attend(q, k, v, dense, w), e, rtol=1e-10, atol=1e-12)


def test_the_slot_of_a_token_is_never_a_filler():
    """Fillers repeat a document's last token; with many threads the order of equal assignments is anyone's guess."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for seed in range(3):
            documents = rows_of_documents(30, 4000, seed)
            packing = Packing(30, 4000, documents.device, documents)
            assert torch.equal(packing.gather[packing.scatter], torch.arange(30 * 4000))
            assert packing.real.flatten()[packing.scatter].all() and int(packing.real.sum()) == 30 * 4000
            slot = 0                                      # the slot's place in its bucket's row is the token's position
            for n, L in packing.buckets:
                mine = (packing.scatter >= slot) & (packing.scatter < slot + n * L)
                assert torch.equal((packing.scatter[mine] - slot) % L, packing.positions.flatten()[mine])
                slot += n * L
    finally:
        torch.set_num_threads(threads)


def test_positions_restart():
    documents = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 1, 1, 2, 2]])
    assert Packing(2, 6, documents.device, documents).positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 0, 1]]
    assert Packing(2, 3, documents.device).positions.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("attend_cached", [fast.attend_cached, reference.attend_cached])
@pytest.mark.parametrize("window", [0, 5, 100])
@pytest.mark.parametrize("new", [1, 3])
def test_cached_attention_is_the_end_of_full_attention(attend_cached, window, new):
    B, H, K, hd, lengths = 3, 4, 2, 8, [200, 3, 65]
    config = Config(layers=2, heads=H, kv_heads=K, head_size=hd)
    cache = KVCache(config, 4, 12, 200, dtype=torch.float64)
    k, v = (torch.randn(B, 200, K, hd, dtype=torch.float64) for _ in range(2))
    q = torch.randn(B, new, H, hd, dtype=torch.float64)
    cache.reserve(3, 64)                                                      # pages of no row in use lie in between
    for row in (1, 2, 0):
        assert cache.reserve(row, lengths[row])
    assert not cache.reserve(3, 500)
    pool = cache.pools[0]
    pool.k.normal_(), pool.v.normal_()                                      # whatever was there before
    for row, n in enumerate(lengths):
        cache.fill(row, *(x[row, None, :n].expand(2, -1, -1, -1) for x in (k, v)))
        cache.lengths[row] = n - new
    cache.release([3])
    out = attend_cached(q, pool, 1, window)
    for b, n in enumerate(lengths):
        full = torch.zeros(1, n, H, hd, dtype=torch.float64)
        full[0, -new:] = q[b]
        slow = attend_slowly(full, k[b:b + 1, :n], v[b:b + 1, :n], torch.zeros(1, n), window)
        torch.testing.assert_close(out[b], slow[0, -new:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keep, chunk", [(2 ** 26, 2 ** 20), (2 ** 26, 350), (1000, 350)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_gradient(monkeypatch, keep, chunk, temperature):
    # the small ones force recomputation and chunks
    monkeypatch.setattr(fast._TokenLogprobs, "KEEP", keep)
    monkeypatch.setattr(fast._TokenLogprobs, "CHUNK", chunk)
    h = torch.randn(2, 15, 16, dtype=torch.float64, requires_grad=True)
    w = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 50, (2, 15)), torch.rand(2, 15, dtype=torch.float64)
    ours = token_logprobs(h, w, targets, temperature)
    theirs = -F.cross_entropy((h @ w.T / temperature).flatten(0, 1), targets.flatten(), reduction="none").view(2, 15)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), (h, w)),
                    torch.autograd.grad((theirs * weights).sum(), (h, w)), strict=True):
        torch.testing.assert_close(a, b)
    ours, entropy = token_logprobs(h, w, targets, temperature, entropy=True)
    true_entropy = torch.distributions.Categorical(logits=h @ w.T / temperature).entropy()
    torch.testing.assert_close(entropy, true_entropy)
    more = torch.rand(2, 15, dtype=torch.float64)                             # both outputs, and the entropy alone
    theirs = -F.cross_entropy((h @ w.T / temperature).flatten(0, 1), targets.flatten(), reduction="none").view(2, 15)
    for a, b in zip(torch.autograd.grad((ours * weights + entropy * more).sum(), (h, w), retain_graph=True),
                    torch.autograd.grad((theirs * weights + true_entropy * more).sum(), (h, w), retain_graph=True),
                    strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(torch.autograd.grad((entropy * more).sum(), (h, w)),
                    torch.autograd.grad((true_entropy * more).sum(), (h, w)), strict=True):
        torch.testing.assert_close(a, b)


def test_rotation_is_multiplication_of_complex_pairs():
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    angle = torch.randn(2, 5, 1, 4, dtype=torch.float64)
    pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(rotate(x, angle.cos(), angle.sin()), torch.cat([pairs.real, pairs.imag], -1))
    # the plain path
    torch.testing.assert_close(rotate(x.float(), angle.cos(), angle.sin()),
                               torch.cat([pairs.real, pairs.imag], -1).float())
    assert torch.autograd.gradcheck(lambda x: rotate(x, angle.cos(), angle.sin()), (x.requires_grad_(),))


def test_rms_norm():
    x, w = torch.randn(3, 4, 16, dtype=torch.float64, requires_grad=True), torch.randn(16, dtype=torch.float64,
            requires_grad=True)
    torch.testing.assert_close(rms_norm(x, w, 1e-6), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, w))


@pytest.mark.parametrize("shape, N", [((3, 5, 8), 7), ((700, 64), 96), ((2, 8), 1), ((1, 8), 3), ((0, 8), 3), ((8,), 5)])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_and_its_gradient(shape, N, biased):
    """Ways and gradients of every size, against float64."""
    x, w, b = torch.randn(*shape), torch.randn(N, shape[-1]), torch.randn(N) if biased else None
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in (x, w, b) if t is not None]
        precise = [t.detach().double().requires_grad_() for t in inputs]
        ours, theirs = linear(*inputs), F.linear(*precise)
        torch.testing.assert_close(ours, theirs.to(dtype))
        g = torch.randn_like(theirs)
        for mine, other in zip(torch.autograd.grad(ours, inputs, g.to(dtype), retain_graph=True),
                               torch.autograd.grad(theirs, precise, g, retain_graph=True), strict=True):
            torch.testing.assert_close(mine, other.to(dtype), rtol=1e-4, atol=1e-4)
        spread = torch.autograd.grad(ours.sum(), inputs), torch.autograd.grad(theirs.sum(), precise)      # strides of 0
        for mine, other in zip(*spread, strict=True):
            torch.testing.assert_close(mine, other.to(dtype), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(linear(*inputs), theirs.to(dtype))
            assert linear(*inputs).is_contiguous()
            across = linear(inputs[0].expand(3, *shape).movedim(0, -2), *inputs[1:])               # x that is not contiguous
            torch.testing.assert_close(across.movedim(-2, 0), theirs.to(dtype).expand(3, *theirs.shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 16, 33, 530])
def test_packed_weights(dtype, rows):
    """Small products and large ones, against float64; under autocast, which gives float32 rows and bias; of float64 none."""
    x, w, b = torch.randn(2, rows, 256), torch.randn(384, 256).to(dtype), torch.randn(384)
    assert (2 * rows * w.numel() > fast.SMALL) == (rows > 10)
    for bias in (b, None):
        wanted = F.linear(x.to(dtype).double(), w.double(), None if bias is None else bias.to(dtype).double()).to(dtype)
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            torch.testing.assert_close(linear(x, w, bias, fast.reorder(w)), wanted, rtol=1e-2 if dtype != torch.float32 else 1e-5,
                                       atol=1e-4)
    assert fast.reorder(w.double()) is None

"""Flash attention against one query at a time in float64, and the bits of decode against those of training.

Without a GPU the kernels run in Triton's interpreter, in float32, with tiles so small that short documents cross
several.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest.importorskip("triton")
import kernels  # noqa: E402
from kernels.fast_attention import Packing, attend  # noqa: E402
from kernels.gpu import attention as flash  # noqa: E402
from kernels.gpu.attention import Spans, attention, make_tiles  # noqa: E402
from model import Config, Transformer  # noqa: E402

CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.usefixtures("dot_in_order")
DEVICE = "cuda" if CUDA else "cpu"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tensor cores want 16 rows at least, the interpreter takes anything."""
    if not CUDA:
        sizes = {"exact": (8, 8), "forward": (16, 8), "decode": (2, 8), "backward_q": (16, 16), "backward_kv": (16, 8)}
        monkeypatch.setattr(flash, "TILES_FLOAT32", {kind: {256: (*size, 4, 1)} for kind, size in sizes.items()})


def slowly(q, k, v, documents, window=0):
    """The formula in float64, one token at a time: q (N, H, hd), k and v (N, K, hd), documents (N,) -> (N, H, hd)."""
    q, k, v = q.double(), *(x.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    out, start = [], 0
    for t in range(q.shape[0]):
        start = t if t and documents[t] != documents[t - 1] else start
        see = slice(max(start, t - window + 1) if window else start, t + 1)
        weights = torch.softmax((k[see] * q[t]).sum(-1) / q.shape[2] ** 0.5, dim=0)           # (keys, H)
        out.append((weights[:, :, None] * v[see]).sum(0))
    return torch.stack(out)


def numbered(*rows):
    """((3, 2), (5,)) -> documents (2, 5); a negative length is padding."""
    return torch.tensor([[-1 if n < 0 else i for i, n in enumerate(row) for _ in range(abs(n))] for row in rows])


def random_qkv(N, K, G, hd, dtype=torch.float32, device=DEVICE, grad=True):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(N, h, hd, generator=g).to(device, dtype).requires_grad_(grad) for h in (K * G, K, K)]


def assert_near(ours, theirs, tolerance, what="", scale=1.0):
    """Relative to the norm of theirs; where theirs is zero throughout, to `scale`."""
    error = (ours.double() - theirs.double()).norm() / (theirs.double().norm() or scale)
    assert error < tolerance, f"{what}: relative error {error:.2e}"


DOCUMENTS = numbered((23, 1, 17, 1), (42,), (9, 24, -9))


@pytest.mark.parametrize("K, G, hd, window, exact", [
    (2, 1, 32, 0, True), (1, 2, 48, 3, False), (1, 3, 32, 8, False), (1, 8, 32, 19, True), (1, 2, 64, 100, False),
    (2, 3, 32, 0, False), (1, 1, 128, 0, False), (1, 4, 32, 5, True), (1, 5, 32, 0, False), (1, 6, 32, 0, True),
    (1, 7, 32, 11, False)])
def test_equals_the_formula(K, G, hd, window, exact):
    B, T = DOCUMENTS.shape
    q, k, v = random_qkv(B * T, K, G, hd)
    ours = attention(q, k, v, Spans.of_documents(DOCUMENTS.to(DEVICE)), window, exact)
    g = torch.randn_like(ours)
    ours = ours, *torch.autograd.grad(ours, (q, k, v), g)

    def check(theirs):
        theirs = theirs, *torch.autograd.grad(theirs, (q, k, v), g.to(theirs.dtype))
        for what, a, b in zip(("out", "dq", "dk", "dv"), ours, theirs):
            assert_near(a, b, 1e-5, what)
    check(slowly(q, k, v, (DOCUMENTS + 10 * torch.arange(B)[:, None]).flatten(), window))
    packing = Packing(B, T, torch.device(DEVICE), DOCUMENTS.to(DEVICE))
    check(attend(*(x.view(B, T, *x.shape[1:]) for x in (q, k, v)), packing, window).flatten(0, 1))


def test_unpacked_rows_and_slices_of_one_projection():
    """The shape alone, with q, k and v lying in one tensor and the gradient expanded from a scalar."""
    qkv = torch.randn(2 * 19, 4, 32, device=DEVICE, requires_grad=True)
    q, k, v = qkv.split((2, 1, 1), dim=1)
    ours = attention(q, k, v, Spans.of_documents((2, 19), DEVICE))
    theirs = slowly(q, k, v, torch.arange(2).repeat_interleave(19))
    assert_near(ours, theirs, 1e-5)
    assert_near(*(torch.autograd.grad(x.sum(), qkv)[0] for x in (ours, theirs)), 1e-5)


def test_empty_spans_and_tokens_in_no_span():
    spans = Spans(*(torch.tensor(x, device=DEVICE) for x in ((0, 5, 7), (5, 0, 11), (0, 0, 0), (0, 5, 7))), tokens=20)
    q, k, v = random_qkv(20, 1, 2, 32)
    out = attention(q, k, v, spans)
    documents = torch.tensor([0] * 5 + [1] * 2 + [2] * 11 + [3] * 2)
    covered = torch.isin(documents, torch.tensor([0, 2])).to(DEVICE)
    assert not out[~covered].any()
    expected = slowly(q, k, v, documents) * covered[:, None, None]
    assert_near(out, expected, 1e-5)
    for a, b in zip(torch.autograd.grad(out.sum(), (q, k, v)), torch.autograd.grad(expected.sum(), (q, k, v))):
        assert_near(a, b, 1e-5)
        assert not a[~covered].any()


def test_tiles_cover_every_token_once():
    spans = Spans.of_documents(DOCUMENTS.to(DEVICE))
    for per_tile in (1, 5, 64):
        tiles, key_tiles = spans.tiles(per_tile).tolist(), spans.key_tiles(per_tile).tolist()
        for table in (tiles, key_tiles):
            assert sorted(i for first, count, *_ in table for i in range(first, first + count)) == list(range(3 * 42))
        assert all(first - position == base for first, count, position, base in tiles)
        assert tiles[0][0] == 42 + (42 - 1) // per_tile * per_tile            # the end of the longest document


def check_cache(K, G, hd, T, chunks, window, dtype=torch.float32):
    """Every token of a document decoded by itself, and in chunks, against the packed forward pass: the same bits."""
    q, k, v = random_qkv(2 * T, K, G, hd, dtype, grad=False)
    packed = attention(q, k, v, Spans.of_rows(2, T, DEVICE), window, exact=True)
    q, packed = q.view(2, T, K * G, hd), packed.view(2, T, K * G, hd)
    cache = [torch.full((3, K, T + 5, hd), float("nan"), device=DEVICE, dtype=dtype) for _ in range(2)]
    for ours, x in zip(cache, (k, v)):                                        # row 1 and row 2 are used, row 0 is not
        ours[1:, :, :T] = x.view(2, T, K, hd).transpose(1, 2)
    for b in range(2):                                                        # all positions of one row at once
        spans = Spans.of_cache(torch.arange(T, device=DEVICE), rows=torch.full((T,), b + 1, device=DEVICE))
        assert torch.equal(attention(q[b].contiguous(), *cache, spans, window, exact=True), packed[b])
        fast = attention(q[b].contiguous(), *cache, spans, window)
        assert_near(fast, packed[b], 1e-5 if dtype == torch.float32 else 1e-2)
    done = 0
    for n in chunks:                                                          # both rows together
        spans = Spans.of_cache(torch.full((2,), done, device=DEVICE), n, rows=torch.tensor([1, 2], device=DEVICE))
        ours = attention(q[:, done:done + n].reshape(2 * n, K * G, hd), *cache, spans, window, exact=True)
        assert torch.equal(ours.view(2, n, K * G, hd), packed[:, done:done + n])
        done += n
    assert done == T


@pytest.mark.parametrize("G, window", [(1, 0), (2, 3), (3, 0), (3, 11)])
def test_decode_and_chunks_have_the_bits_of_training(G, window):
    check_cache(1, G, 32, 25, (5, 1, 19), window)


@pytest.mark.parametrize("window", [0, 40])
def test_pages_in_any_order(window):
    """A row's bits do not depend on where its pages lie in the pool."""
    torch.manual_seed(1)
    T, K, G, hd, page = 75, 1, 2, 32, 32
    q, k, v = (torch.randn(T, h, hd, device=DEVICE) for h in (K * G, K, K))
    packed = attention(q, k, v, Spans.of_rows(1, T, DEVICE), window, exact=True)
    table = torch.tensor([[3, 3, 3], [6, 0, 4]], device=DEVICE)               # the second row's pages
    pools = [torch.full((7, K, page, hd), float("nan"), device=DEVICE) for _ in range(2)]
    for pool, x in zip(pools, (k, v)):
        for j, number in enumerate(table[1].tolist()):
            part = x[j * page:(j + 1) * page].transpose(0, 1)
            pool[number, :, :part.shape[1]] = part
    for n, at in ((1, 0), (1, 70), (11, 60), (T, 0)):
        spans = Spans.of_cache(torch.tensor([at], device=DEVICE), n, rows=torch.tensor([1], device=DEVICE))
        assert torch.equal(attention(q[at:at + n], *pools, spans, window, exact=True, table=table), packed[at:at + n])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("window, at", [(8, 64), (40, 74), (33, 96)])
def test_pages_behind_the_window_were_given_back(window, at, exact):
    """The table then has the page of no row, which holds anything: the bits are those of training all the same."""
    torch.manual_seed(2)
    T, K, G, hd, page = 97, 1, 2, 32, 32
    q, k, v = (torch.randn(T, h, hd, device=DEVICE) for h in (K * G, K, K))
    packed = attention(q, k, v, Spans.of_rows(1, T, DEVICE), window, exact=True)
    kept = range((at - window + 1) // page, T // page + 1)
    table = torch.tensor([[4] * 4, [j if j in kept else 4 for j in range(4)]], device=DEVICE)
    pools = [torch.full((5, K, page, hd), float("nan"), device=DEVICE) for _ in range(2)]
    for pool, x in zip(pools, (k, v)):
        for j in kept:
            part = x[j * page:(j + 1) * page].transpose(0, 1)
            pool[j, :, :part.shape[1]] = part
    assert kept[0] > 0
    spans = Spans.of_cache(torch.tensor([at], device=DEVICE), 1, rows=torch.tensor([1], device=DEVICE))
    ours = attention(q[at:at + 1], *pools, spans, window, exact=exact, table=table)
    if exact:
        assert torch.equal(ours, packed[at:at + 1])
    assert_near(ours, packed[at:at + 1], 1e-5)


def test_ragged_chunks_over_a_cache():
    """Rows that hold different numbers of tokens and get different numbers of new ones, one of them none."""
    q, k, v = random_qkv(3 * 20, 1, 2, 32, grad=False)
    packed = attention(q, k, v, Spans.of_rows(3, 20, DEVICE), exact=True).view(3, 20, 2, 32)
    cache = [x.view(3, 20, 1, 32).transpose(1, 2).contiguous() for x in (k, v)]
    spans = Spans(*(torch.tensor(x, device=DEVICE) for x in ((0, 13, 13), (13, 0, 6), (7, 4, 2), (0, 1, 2))), tokens=19)
    new = torch.cat([q.view(3, 20, 2, 32)[0, 7:20], q.view(3, 20, 2, 32)[2, 2:8]])
    assert torch.equal(attention(new, *cache, spans, exact=True), torch.cat([packed[0, 7:20], packed[2, 2:8]]))


def test_keys_behind_the_end_are_not_touched():
    """A slot that holds NaN or infinity after the row's last token, in the same block."""
    q, k, v = random_qkv(1, 1, 2, 32, grad=False)
    cache = [torch.full((1, 1, 9, 32), float("inf"), device=DEVICE) for _ in range(2)]
    for ours, x in zip(cache, (k, v)):
        ours[0, 0, 0] = x[0, 0]
    out = attention(q, *cache, Spans.of_cache(torch.zeros(1, dtype=torch.int32, device=DEVICE)))
    torch.testing.assert_close(out, v.expand(1, 2, 32))


def test_two_backward_passes_have_the_same_bits():
    q, k, v = random_qkv(DOCUMENTS.numel(), 1, 2, 32)
    out = attention(q, k, v, Spans.of_documents(DOCUMENTS.to(DEVICE)))
    g = torch.randn_like(out)
    one, two = (torch.autograd.grad(out, (q, k, v), g, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))


def test_what_cannot_work_says_so():
    q, k, v = random_qkv(4, 1, 2, 32)
    cache = k[None].transpose(1, 2)
    with pytest.raises(ValueError, match="no_grad"):
        attention(q, cache, cache, Spans.of_cache(torch.zeros(4, dtype=torch.long, device=DEVICE)))
    with pytest.raises(TypeError, match="one type"):
        attention(q, k, v.half(), Spans.of_rows(1, 4, DEVICE))
    spans = Spans.of_rows(1, 4, DEVICE)
    with pytest.raises(ValueError, match="tiles are for torch.float16 without a gradient, not for torch.float32 without one"):
        attention(q.detach(), k.detach(), v.detach(), make_tiles(spans, torch.float16, q.shape[2], q.shape[1] // k.shape[1]))
    with pytest.raises(ValueError, match="tiles are for torch.float32 without a gradient, not for torch.float32 with one"):
        attention(q.requires_grad_(), k, v, make_tiles(spans, torch.float32, q.shape[2], q.shape[1] // k.shape[1]))
    with pytest.raises(ValueError, match="contiguous"):
        attention(q, k, v.transpose(0, 2).contiguous().transpose(0, 2), Spans.of_rows(1, 4, DEVICE))


def test_the_operator_keeps_the_rules_of_torch():
    """What torch.compile relies on: the shapes it is told, nothing changed in place, a gradient that can be traced."""
    q, k, v = random_qkv(10, 1, 2, 32)
    spans = Spans.of_rows(2, 5, DEVICE)
    tiles = spans.tiles(8), spans.tiles(8), spans.key_tiles(8)
    torch.library.opcheck(flash._attention, (q, k, v, *tiles, 0, "exact", True, None),
                          test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.cuda)])
def test_under_torch_compile(backend):
    """One graph, with the lists of tiles made inside of it."""
    if backend == "inductor" and not CUDA:
        pytest.skip("needs a GPU")

    def step(q, k, v, spans):
        return attention(2 * q, k, v, spans).sin()
    q, k, v = random_qkv(DOCUMENTS.numel(), 1, 2, 32)
    plain, compiled = (f(q, k, v, Spans.of_documents(DOCUMENTS.to(DEVICE)))
                       for f in (step, torch.compile(step, backend=backend, fullgraph=True)))
    assert_near(compiled, plain, 1e-5)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (q, k, v)) for x in (compiled, plain))):
        assert_near(a, b, 1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_a_layer_is_one_graph(monkeypatch, exact):
    """A layer of the model where Triton computes, as torch.compile sees it: no break, and no new graph for every packing or
    every layer."""
    from torch._dynamo.testing import CompileCounter  # not above: it imports triton
    torch._dynamo.reset()
    monkeypatch.setattr(kernels, "_form", lambda x, exact: "triton")
    monkeypatch.setattr(Packing, "_fill_buckets", lambda self, new: None)     # as on a GPU
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=50, layers=2, width=16, heads=2, kv_heads=1, ff=24, qk_norm="head")).to(DEVICE)
    model.exact = exact
    tokens = torch.randint(0, 50, (2, 24), device=DEVICE)
    packings = [numbered(*rows).to(DEVICE) for rows in (((24,), (24,)), ((20, 4), (9, 15)), ((1, 2, 3, 18), (24,)))]
    plain = [model.hidden(tokens, packing) for packing in packings]
    counter = CompileCounter()
    for layer in model.layers:
        layer.compile(backend=counter, fullgraph=True)
    for packing, wanted in zip(packings, plain):
        found = model.hidden(tokens, packing)
        assert_near(found, wanted, 1e-6)
    found.sum().backward()
    assert 1 <= counter.frame_count <= 2                                      # the second has any number of tiles


def test_training_stays_compiled_between_samples(monkeypatch):
    """Layers of every kind, batches of two lengths; sampling and evaluation in between take up none of the graphs, of which
    the compiler keeps few, and training goes on to use its own."""
    from measuring.text import bits_per_byte
    from sampler import Sampler
    torch._dynamo.reset()
    monkeypatch.setattr(kernels, "_form", lambda x, exact: "triton")
    monkeypatch.setattr(Packing, "_fill_buckets", lambda self, new: None)     # as on a GPU
    torch.manual_seed(0)
    model = Transformer(Config(vocab_size=50, layers=3, width=32, heads=2, kv_heads=1, ff=48, attention="rope+window+nope",
                               window=7)).to(DEVICE)
    graphs, runs = [], []

    def backend(graph, inputs):
        graphs.append(graph)

        def run(*values):
            runs.append(graph)
            return graph.forward(*values)
        return run

    def train(*packings):
        before = len(runs)
        for packing in packings:
            tokens = torch.randint(0, 50, packing.shape, device=DEVICE)
            model.hidden(tokens, packing.to(DEVICE)).sum().backward()
        assert len(runs) - before == 3 * len(packings)                        # every layer of every batch ran compiled
    model.compile_layers(backend=backend, fullgraph=True)
    train(numbered((9, 3)), numbered((8, 9, 20)), numbered((5, 7, 11, 2, 1)))
    known = len(graphs)
    assert known <= 2 * 3                                 # of each kind one for a length, and one for any length
    engine, ran = Sampler(model, rows=3), len(runs)
    for prompts in ([[1, 2, 3], [4] * 9], [[5]], [[6] * 4, [7] * 5, [8] * 6]):
        engine.generate(prompts, max_new_tokens=2, stop=set())
    bits_per_byte(model, Letters(), ["\1\2\3\4\5\6", "\7\10\11"], T=4, rows=2)
    assert (len(graphs), len(runs)) == (known, ran)       # they made no graph and used none
    train(numbered((9, 3)), numbered((4, 5, 6)))
    assert len(graphs) == known
    assert not any("limit" in str(reason) for reason in torch._dynamo.utils.counters["unimplemented"])


class Letters:
    """A tokenizer of 50 bytes."""

    prefix = ()

    def __len__(self):
        return 50

    def encode_document(self, text):
        return list(text.encode())

    def token_bytes(self, token):
        return b"x"


def cuda(test):
    return pytest.mark.cuda(pytest.mark.skipif(not CUDA, reason="needs a GPU")(test))


LONG = numbered((300, 1, 700, -23), (1024,))


@cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("K, G, hd, window", [
    (2, 4, 64, 0), (2, 2, 128, 0), (1, 1, 64, 200), (1, 3, 80, 64), (1, 8, 128, 1), (2, 1, 256, 0)])
def test_half_types_equal_the_formula(K, G, hd, window, dtype):
    q, k, v = random_qkv(LONG.numel(), K, G, hd, dtype)
    documents = (LONG + 10 * torch.arange(2)[:, None]).flatten()
    theirs = slowly(q, k, v, documents, window)
    g = torch.randn_like(theirs).to(dtype)
    theirs = theirs, *torch.autograd.grad(theirs, (q, k, v), g.double())
    for exact in (False, True):
        ours = attention(q, k, v, Spans.of_documents(LONG.cuda()), window, exact)
        ours = ours, *torch.autograd.grad(ours, (q, k, v), g)
        for what, a, b in zip(("out", "dq", "dk", "dv"), ours, theirs):
            assert a.isfinite().all()
            assert_near(a, b, 1e-2, what, g.double().norm())     # with a window of 1, dq and dk are zero


@cuda
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("hd", [64, 128])
@pytest.mark.parametrize("G", [1, 2, 4, 8])
def test_bits_on_a_gpu(G, hd, window):
    check_cache(2, G, hd, 331, (100, 1, 64, 3, 163), window, torch.bfloat16)


@cuda
def test_two_backward_passes_on_a_gpu():
    q, k, v = random_qkv(LONG.numel(), 2, 4, 128, torch.bfloat16)
    out = attention(q, k, v, Spans.of_documents(LONG.cuda()))
    g = torch.randn_like(out)
    one, two = (torch.autograd.grad(out, (q, k, v), g, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two))

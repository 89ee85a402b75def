"""Do the benches time what they say they time?"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import kernels  # noqa: E402
from benchmarks import blocks as bench_kernels  # noqa: E402
from benchmarks import large as bench_large  # noqa: E402
from benchmarks import peers as bench_peers  # noqa: E402
from model import Config, Transformer  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("mean", [0, 4])
def test_rows_of_ours_run_our_attention(monkeypatch, mean):
    """With one document in each row as well, where torch's own attention would do."""
    flash = pytest.importorskip("kernels.gpu.attention")
    monkeypatch.setattr(kernels, "_form", lambda x, exact: "triton")
    ran, current, attention = {}, [], flash.attention

    def counted(*args, **kwargs):
        ran[current[-1]] = ran.get(current[-1], 0) + 1
        return attention(*args, **kwargs)

    def each_once(device, work, count):
        for name, f in work.items():
            current.append(name)
            f()
        current.append(None)
        return {name: 1.0 for name in work}
    monkeypatch.setattr(flash, "attention", counted)
    monkeypatch.setattr(bench_kernels, "turns", each_once)
    forward, backward = bench_kernels.bench_attention(CPU, torch.float32, 16, 8, 16, 2, 1, mean, 1)
    assert set(ran) - {None} == {"ours", "ours, exact"}
    assert forward["ours"] == "ours" and forward["ms"].keys() == backward["ms"].keys() > {"ours", "ours, exact"}


def test_training_benches_give_documents_as_a_trainer_does(monkeypatch):
    monkeypatch.setattr(bench_peers, "SHAPE", dict(vocab_size=64, layers=1, width=32, heads=2, kv_heads=1, ff=32))
    model = Transformer(Config(**bench_peers.SHAPE))
    given, forward = [], Transformer.forward

    def noted(self, tokens, documents=None, *args, **kwargs):
        given.append((tokens.shape, documents))
        return forward(self, tokens, documents, *args, **kwargs)

    def one_turn(device, count, work, tokens):
        work["ours"]()
        return {"tokens_per_second": {"ours": 1.0, "hugging_face": 1.0}, "ratios": {"hugging_face": [1, 1, 1]}}
    monkeypatch.setattr(Transformer, "forward", noted)
    for module in (bench_large, bench_peers):
        monkeypatch.setattr(module, "in_turns", one_turn)
        monkeypatch.setattr(module, "pair", lambda *_: (model, torch.nn.Linear(1, 1)))
    monkeypatch.setattr(bench_large, "by_group", lambda *_: {})
    bench_large._pretrain(CPU, torch.float32, 1, dict(vocab_size=64), 8, 16, 1.0)
    bench_large.trial(1, 8, dict(vocab_size=64, width=32, heads=2, kv_heads=1, ff=32), "cpu")
    seen = len(given)
    with pytest.raises(TypeError):                        # at the other side, which is no model here
        bench_peers.bench_train(CPU, torch.float32, 1)
    assert len(given) == seen + 1 and seen >= 6
    for shape, documents in given:
        assert documents is not None and documents.shape == shape and not documents.any()


def test_engines_are_warm_when_exact_mode_is_timed(monkeypatch):
    """A new engine would capture its graphs in every turn, which hides what exact mode costs."""
    made = []

    class Counted(bench_kernels.Sampler):
        def __init__(self, *args, **options):
            made.append(options["exact"])
            super().__init__(*args, **options)
    monkeypatch.setattr(bench_kernels, "Sampler", Counted)
    monkeypatch.setattr(bench_kernels, "grpo_steps", lambda *_: [])
    rows = bench_kernels.bench_exact(CPU, torch.float32, 3, toy=True)["rows"]
    assert [r["block"] for r in rows] == ["training step", "rollout"]
    assert sorted(made) == [False, True]


def test_flex_is_compiled_for_each_shape(monkeypatch):
    how = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: how.append("forget"))
    monkeypatch.setattr(torch, "compile", lambda f, **options: how.append(options))
    for _ in range(2):
        bench_kernels.flex_of_one_shape()
    assert how == ["forget", {"dynamic": False}] * 2


def test_torchs_attention_over_documents_is_causal(monkeypatch):
    """Whatever the version of torch names it; the oldest takes no groups of heads."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    ends, asked = torch.tensor([0, 3, 5], dtype=torch.int32), []

    def old(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
        asked.append((max_q, max_k, is_causal))

    def new(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):
        asked.append((max_q, max_k, window_size, enable_gqa))
    for f, grouped in ((old, False), (old, True), (new, False), (new, True)):
        monkeypatch.setattr(varlen, "varlen_attn", f)
        if run := bench_kernels.varlen_of(ends, 3, grouped):
            run(None, None, None)
    assert asked == [(3, 3, True), (3, 3, (-1, 0), False), (3, 3, (-1, 0), True)]

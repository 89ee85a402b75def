"""Do the benches time what they say they time, and keep what they found?"""

import json
import os
from unittest import mock

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import bench  # noqa: E402
import kernels  # noqa: E402
from benchmarks import blocks, exact, groups, large, peers, readme, records, tables, timing  # noqa: E402
from engine.cache import KVCache, pages_of  # noqa: E402
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
    monkeypatch.setattr(blocks, "turns", each_once)
    forward, backward = blocks.bench_attention(CPU, torch.float32, 16, 8, 16, 2, 1, mean, 1)
    assert set(ran) - {None} == {"ours", "ours, exact"}
    assert forward["ours"] == "ours" and forward["ms"].keys() == backward["ms"].keys() > {"ours", "ours, exact"}


def test_training_benches_give_documents_as_a_trainer_does(monkeypatch):
    monkeypatch.setattr(peers, "SHAPE", dict(vocab_size=64, layers=1, width=32, heads=2, kv_heads=1, ff=32))
    model = Transformer(Config(**peers.SHAPE))
    given, forward = [], Transformer.forward

    def noted(self, tokens, documents=None, *args, **kwargs):
        given.append((tokens.shape, documents))
        return forward(self, tokens, documents, *args, **kwargs)

    def one_turn(device, count, work, tokens):
        work["ours"]()
        return {"tokens_per_second": {"ours": 1.0, "hugging_face": 1.0}, "ratios": {"hugging_face": [1, 1, 1]}}
    monkeypatch.setattr(Transformer, "forward", noted)
    for module in (large, peers):
        monkeypatch.setattr(module, "in_turns", one_turn)
        monkeypatch.setattr(module, "pair", lambda *_: (model, torch.nn.Linear(1, 1)))
    monkeypatch.setattr(large, "by_group", lambda *_: {})
    large._pretrain(CPU, torch.float32, 1, dict(vocab_size=64), 8, 16, 1.0)
    large.trial(1, 8, dict(vocab_size=64, width=32, heads=2, kv_heads=1, ff=32), "cpu")
    seen = len(given)
    with pytest.raises(TypeError):                        # at the other side, which is no model here
        peers.bench_train(CPU, torch.float32, 1)
    assert len(given) == seen + 1 and seen >= 6
    for shape, documents in given:
        assert documents is not None and documents.shape == shape and not documents.any()


def test_the_first_run_of_a_side_which_may_compile_never_counts(monkeypatch):
    """On a GPU compilation takes half a minute, and was once taken for the speed of the other side."""
    took = iter([100.0, 10.0, 500.0, 400.0, 1.0, 1.0, 5.0, 2.0])              # seconds: the first runs, then the rounds
    monkeypatch.setattr(timing, "clock", lambda device, work: next(took))
    found = timing.in_turns(torch.device("cuda"), 2, {"ours": None, "hugging face": None}, 1000)
    assert found["tokens_per_second"] == {"ours": 1000.0, "hugging face": 2.5}
    assert found["ratios"]["hugging face"] == [400, 400, 400]
    took = iter([1.0, 100.0, 20.0, 7.0, 1.0, 2.0, 8.0])
    found = timing.in_turns(torch.device("cuda"), 2, {"ours": None, "hugging face": None}, 1000)
    assert found["tokens_per_second"] == {"ours": round(1000 / 1.5, 1), "hugging face": round(1000 / 7.5, 1)}


def test_a_side_that_could_not_run_stays_in_its_column(monkeypatch):
    row = {"load": "equal", "shape": "64 rows", "busy": 1.0, "first_token_seconds": [1, 2], "bandwidth_share": 0.1}
    rows = [row | {"tokens_per_second": {"continuous batching": "TypeError", "ours": 9.0, "generate": 3.0},
                   "ratios": {"generate": [3.0, 3.0, 3.0]}}, row | {"tokens_per_second": {"ours": 8.0}, "ratios": {}}]
    monkeypatch.setattr(tables, "newest", lambda name: {("GPU", "bfloat16"): {"rows": rows}})
    monkeypatch.setattr(readme, "newest", tables.newest)
    first, second = (line.split(" | ")[2:6] for line in tables.sampler_table().splitlines()[2:])
    assert first == ["9", "3", "TypeError", "**3.00** (3.00 to 3.00)"]
    assert second == ["8", "not measured", "not measured", ""]
    assert readme.sampler_line().endswith("The lengths of answers are equal.")


def test_engines_are_warm_when_exact_mode_is_timed(monkeypatch):
    """A new engine would capture its graphs in every turn, which hides what exact mode costs."""
    made = []

    class Counted(exact.Sampler):
        def __init__(self, *args, **options):
            made.append(options["exact"])
            super().__init__(*args, **options)
    monkeypatch.setattr(exact, "Sampler", Counted)
    monkeypatch.setattr(exact, "grpo_steps", lambda *_: [{"block": "GRPO step"}])
    rows = exact.bench_exact(CPU, torch.float32, 3, [], toy=True)["rows"]
    assert [r["block"] for r in rows] == ["training step", "rollout", "GRPO step"]
    assert sorted(made) == [False, True]


def test_flex_is_compiled_for_each_shape(monkeypatch):
    how = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: how.append("forget"))
    monkeypatch.setattr(torch, "compile", lambda f, **options: how.append(options))
    for _ in range(2):
        blocks.flex_of_one_shape()
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
        if run := blocks.varlen_of(ends, 3, grouped):
            run(None, None, None)
    assert asked == [(3, 3, True), (3, 3, (-1, 0), False), (3, 3, (-1, 0), True)]


def test_exact_mode_is_compared_with_both_fast_arms(monkeypatch, tmp_path):
    """Each of the three arms runs grpo.py with its own flags; each row compares a fast one with exact mode."""
    commands, seconds = [], {"--exact": 2.0, "--old": 1.0}

    def pretended(command, **_):
        commands.append(command)
        out = command[command.index("--out") + 1]
        os.makedirs(out)
        took = next((s for flag, s in seconds.items() if flag in command), 3.0)
        record = {"reward": 0.5, "seconds": took, "logprob_diff_max": 0.0 if took == 2.0 else 1e-6}
        with open(f"{out}/log.jsonl", "w") as f:
            f.write(f"{json.dumps(record | {'seconds': 99.0})}\n" + f"{json.dumps(record)}\n" * 3)
    monkeypatch.setattr(exact.subprocess, "run", pretended)
    rows = exact.grpo_steps(CPU, torch.float32, bench.TOY, 1, True)
    assert [r["ms"] for r in rows] == [{"fast, with recomputation": 3000.0, "exact": 2000.0},
                                       {"fast, without recomputation": 1000.0, "exact": 2000.0}]
    assert [r["ratio"] for r in rows] == [1.5, 0.5]
    assert sorted(("--exact" in c, c[c.index("--old") + 1] if "--old" in c else "") for c in commands) == [
        (False, ""), (False, "sampler"), (True, "")]


@pytest.mark.parametrize("name, module, work", [("exact", exact, "turns"), ("kernels", blocks, "turns"),
                                                ("pretrain", large, "_pretrain"), ("sampler", peers, "of_the_engine")])
def test_a_bench_that_is_cut_off_has_kept_its_rows(name, module, work, monkeypatch, tmp_path):
    """Ctrl-C after some pieces of work: the rows before it are in a file, and no record is."""
    count = []

    def until_cut_off(*args, **options):
        count.append(1)
        if len(count) == (5 if name == "kernels" else 2):
            raise KeyboardInterrupt
        return {side: 1.0 for side in args[1]} if work == "turns" else {
            "tokens_per_second": {"ours": 1.0, "hugging face": "none"}, "ratios": {}, "share_of_peak": 0.5, "true_share": 0.4,
            "shape": "2 x 64", "groups": {}, "busy": 1.0, "first_token_seconds": [0.1, 0.2], "bandwidth_share": 0.1}
    monkeypatch.setattr(module, work, until_cut_off)
    if name == "sampler":
        ours = Transformer(Config(**bench.TOY))
        monkeypatch.setattr(peers, "pair", lambda *_: (ours, torch.nn.Linear(1, 1)))
        monkeypatch.setattr(peers, "in_turns", lambda *_: {"tokens_per_second": {"ours": 1.0}, "ratios": {}})
        monkeypatch.setattr(peers, "in_batches", lambda *_: None)
    flags = ["bench.py", name, "--toy", "--rounds", "1", "--out", str(tmp_path)]
    with mock.patch("sys.argv", flags), mock.patch.dict(peers.SHAPE), pytest.raises(KeyboardInterrupt):
        bench.main()
    [file] = tmp_path.iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.name.startswith(f"bench_{name}.unfinished") and rows
    assert all("ms" in row or "tokens_per_second" in row for row in rows)


def test_a_bench_that_ends_keeps_one_record_and_no_pieces(tmp_path, capsys):
    with mock.patch("sys.argv", ["bench.py", "probe", "--toy", "--out", str(tmp_path)]):
        bench.main()
    [file] = tmp_path.iterdir()
    [record] = [json.loads(line) for line in file.read_text().splitlines()]
    assert file.name == "bench_probe.jsonl" and len(record["rows"]) > 5 and record["commit"]
    assert records.records_of("probe", tmp_path) == [record]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["probe"]["rows"] == record["rows"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_groups_fit_on_a_gpu_of_80_gb(dtype):
    """The caches of all models are there at the same time."""
    shape, lengths, sequences = groups.load_of(torch.device("cuda"), dtype)
    size = sum(KVCache.page_bytes(groups.config_of(K, shape), dtype) * (sequences * pages_of(max(lengths) + 1) + 1)
               for K in groups.GROUPS)
    assert 40e9 < size < 60e9


def test_groups_have_equal_parameters_and_a_cache_by_their_number(monkeypatch):
    """Each step decodes one token of every row behind as many tokens as the row says."""
    ran, decode = [], Transformer.decode

    def noted(self, tokens, cache):
        ran.append((self.config.kv_heads, cache.lengths.tolist(), tokens.shape))
        return decode(self, tokens, cache)
    monkeypatch.setattr(Transformer, "decode", noted)
    result = groups.bench_groups(CPU, torch.float32, 1, [], toy=True)
    assert {(K, n[0]) for K, n, _ in ran} == {(K, n) for K in (1, 2, 4, 8) for n in (64, 128)}
    assert all(len(set(n)) == 1 and shape == (2, 1) for _, n, shape in ran)
    counts = result["parameters"].values()
    assert max(counts) < 1.02 * min(counts)
    for row in result["rows"]:
        for K, megabytes in row["cache_mb"].items():      # rows, tokens, heads, k and v, head size, bytes
            assert megabytes == pytest.approx(2 * row["length"] * int(K) * 2 * 8 * 4 / 2 ** 20, abs=0.001)
        assert all(ms > 0 for ms in row["ms"].values())
    assert len(groups.lines(result)) == 2

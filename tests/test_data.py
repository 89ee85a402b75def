"""Sources, shards, mixtures and packing: nothing lost, nothing twice, the same order again after a stop."""

import gzip
import itertools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import HANG, real_file, script
from helpers import a_run, run_main, state_of, write_rows

import data
import formats
import sources
from data import Mixture, Packer, Stream
from formats.tokenizer_file import GPT2_PATTERN
from kernels import Packing
from sources import shards, texts
from sources.conversations import open_conversations
from sources.documents import Documents
from sources.kinds import kind_of
from sources.open import open_source
from sources.shards import open_shards, prepare
from tasks.problems import load_problems
from tokenizer import DEFAULT_PATTERN, Tokenizer
from training import cli
from training.batch import Batch, batch_from


def documents_of(lengths, first=0):
    """Documents whose tokens are all different: document i of n tokens is a run of consecutive numbers."""
    offsets = np.cumsum([0, *lengths])
    return Documents([(np.arange(first, first + offsets[-1]), offsets, None)])


def mixture_of(monkeypatch, named, **options):
    monkeypatch.setattr(data, "open_source", lambda name, tokenizer: named[name.partition("@")[0]])
    return Mixture(list(options.pop("specs", named)), None, **options)


@pytest.fixture
def saved_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("piece", [0, 64])
def test_one_epoch_packs_every_token_once(piece, monkeypatch):
    lengths = np.random.default_rng(0).integers(2, 60, 300).tolist() + [200, 131, 65]
    mixture = mixture_of(monkeypatch, {"a": documents_of(lengths)}, max_epochs=1, piece=piece)
    packer, T, targets, inputs = Packer(64, mixture.next), 64, Counter(), Counter()
    while True:
        try:
            row = packer.row()
        except StopIteration:
            break
        b = batch_from([row], T)
        real = b.documents[0] >= 0
        targets.update(b.targets[0][real].tolist())
        inputs.update(b.tokens[0][real].tolist())
        assert (b.targets[0][real] == b.tokens[0][real] + 1).all()            # the next token of the same document
        assert (b.loss_mask[0] == real).all()
        assert torch.equal(b.positions[0][real], Packing(1, T, real.device, b.documents).positions[0][real])
    firsts = set(np.cumsum([0, *lengths])[:-1].tolist())
    assert set(targets) == set(range(sum(lengths))) - firsts and set(targets.values()) == {1} == set(inputs.values())
    assert 0 < packer.report()["padding"] < 0.08
    assert mixture.report()["cut_documents"] == (round(2 / 303, 4) if piece else 0)           # only a mixture cuts with pieces
    assert mixture.given.sum() == sum(lengths) and mixture.documents == 303


def test_best_fit_wastes_less_than_first_come_first_served(monkeypatch):
    lengths = np.random.default_rng(1).integers(20, 100, 2000).tolist()
    mixture = mixture_of(monkeypatch, {"a": documents_of(lengths)}, max_epochs=1)
    packer = Packer(256, mixture.next)
    for _ in range(300):
        packer.row()
    rows, space = 1, 256
    for n in lengths:
        rows, space = (rows, space - n + 1) if n - 1 <= space else (rows + 1, 256 - n + 1)
    naive = 1 - (sum(lengths) - len(lengths)) / (rows * 256)
    assert packer.report()["padding"] < naive / 3


def test_no_document_waits_for_ever(monkeypatch):
    """A stubborn length that never fits best is still served: rows begin with the oldest."""
    mixture = mixture_of(monkeypatch, {"a": documents_of([9] + [34] * 500)}, max_epochs=1)
    packer, seen = Packer(66, mixture.next), []
    for _ in range(120):
        seen += [len(ids) for ids, _ in packer.row()]
    assert 9 in seen


def test_weights_are_token_shares_and_epochs_are_counted(monkeypatch):
    named = {"a": documents_of([10] * 100), "b": documents_of([40] * 50, 10_000)}
    mixture = mixture_of(monkeypatch, named, specs=["a@3", "b@1"])
    for _ in range(2000):
        mixture.next()
    a, b = mixture.table()
    assert abs(a["share"] - 0.75) < 0.005 and abs(b["share"] - 0.25) < 0.005
    assert a["unique_tokens"] == 1000 and b["unique_tokens"] == 2000
    assert a["epochs"] == pytest.approx(a["tokens"] / 1000, abs=1e-3) and a["epochs"] > 10


def test_one_long_document_does_not_take_the_place_of_the_others(monkeypatch):
    named = {"book": documents_of([50_000]), "short": documents_of([10] * 100, 100_000)}
    mixture = mixture_of(monkeypatch, named, specs=["book@0.2", "short@0.8"], piece=64)
    for _ in range(1000):
        mixture.next()
        if mixture.given.sum() > 1000:
            assert abs(mixture.given[0] / mixture.given.sum() - 0.2) < 0.07
    assert mixture.documents == 1 + sum(1 for _ in range(int(mixture.given[1]) // 10))


def test_each_epoch_is_another_order_of_the_same_documents(monkeypatch):
    mixture = mixture_of(monkeypatch, {"a": documents_of([5] * 50)}, seed=7)
    epochs = [[int(mixture.next()[0][0]) for _ in range(50)] for _ in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(0, 250, 5)) and epochs[0] != epochs[1] != epochs[2]
    again = mixture_of(monkeypatch, {"a": documents_of([5] * 50)}, seed=7)
    assert [int(again.next()[0][0]) for _ in range(50)] == epochs[0]


def test_a_capped_source_drops_out_and_the_others_go_on(monkeypatch):
    named = {"a": documents_of([10] * 20), "b": documents_of([10] * 200, 10_000)}
    mixture = mixture_of(monkeypatch, named, max_epochs=1.5)
    drawn = []
    with pytest.raises(StopIteration):
        while True:
            drawn.append(int(mixture.next()[0][0]))
    assert sum(t < 10_000 for t in drawn) == 30 and sum(t >= 10_000 for t in drawn) == 300


@pytest.mark.parametrize("epochs", [0.25, 1.25, 2])
def test_a_part_of_an_epoch_is_a_part_of_its_tokens(epochs, monkeypatch):
    """One long document, which is given in pieces, and documents of different lengths."""
    for lengths, slack in (([10_000], 64), ([10, 90] * 40, 90)):
        mixture = mixture_of(monkeypatch, {"a": documents_of(lengths)}, max_epochs=epochs, piece=64)
        with pytest.raises(StopIteration):
            while True:
                mixture.next()
        total = epochs * sum(lengths)
        assert total <= mixture.given[0] < total + slack and (epochs % 1 or mixture.given[0] == total)


@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_a_stream_resumes_bit_for_bit(stop_after, tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"lions {i} " * (i % 9 + 1)}) for i in range(50)))
    (tmp_path / "long.txt").write_text(" ".join(f"{i} owls" for i in range(3000)))
    specs = [f"{tmp_path}/a.jsonl@0.3", "world:ops=1-3,chat=0.5@0.5", f"{tmp_path}/long.txt@0.2"]

    def fresh():
        return Stream(specs, tokenizer, 64, 512, seed=1)
    whole = fresh()
    for _ in range(stop_after):
        whole.next()
    torch.save(whole.state(), tmp_path / "state.pt")
    resumed = fresh()
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(5):
        [a], [b] = whole.next(), resumed.next()
        assert all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
    assert whole.mixture.table() == resumed.mixture.table() and whole.packer.report() == resumed.packer.report()


def test_ranks_and_micro_batches_share_one_global_batch(tokenizer):
    def rows(batches):
        return [tuple(r.tolist()) for b in batches for r in b.tokens]
    one, ranks = Stream(["world:ops=1-2"], tokenizer, 64, 512), [Stream(["world:ops=1-2"], tokenizer, 64, 512) for _
            in range(2)]
    for _ in range(3):
        together = rows(one.next(micro_rows=3))
        apart = [rows(s.next(rank, 2, 2)) for rank, s in enumerate(ranks)]
        assert len(together) == 8 and apart[0] == together[0::2] and apart[1] == together[1::2]


def test_world_documents_carry_their_weights(tokenizer):
    source = open_source("world:ops=2,q_weight=0.25", tokenizer)
    ids, weights = source.get(0)
    cut = int((weights == 0.25).sum())
    problem = source.task.problem(0)
    assert tokenizer.decode(ids[:cut]) == problem.question + "\n" and tokenizer.decode(ids[cut:-1]) == problem.solution
    assert ids[-1] == tokenizer.eot and set(weights[cut:].tolist()) == {1.0}
    chats = open_source("world:ops=2,q_weight=0,chat=0.3", tokenizer)
    documents = [chats.get(i) for i in range(200)]
    assert sum(ids[0] == tokenizer.im_start for ids, _ in documents) == 60
    ids, weights = next((i, w) for i, w in documents if i[0] == tokenizer.im_start)
    trained = tokenizer.decode(ids[weights > 0])
    assert trained.startswith("<think>\n") and "</think>\n\nAnswer: " in trained and trained.endswith("<|im_end|>")


def test_every_kind_of_file_gives_the_same_documents(tmp_path, tokenizer):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    wanted = ["Three lions.\n", "No owls é", "x" * 50]
    lines = "\n".join(json.dumps({"text": t}) for t in wanted) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as f:
        f.write(lines)
    parquet.write_table(pa.table({"text": wanted}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        assert list(texts.read_texts(tmp_path / name)) == wanted
    (tmp_path / "a.txt").write_text("Three\nlions.\n")
    assert list(texts.read_texts(tmp_path / "a.txt")) == ["Three\nlions.\n"]
    documents = open_source(str(tmp_path / "a.jsonl"), tokenizer)
    assert [tokenizer.decode(documents.get(i)[0][:-1]) for i in range(3)] == wanted
    assert all(documents.get(i)[0][-1] == tokenizer.eot for i in range(3))


def test_gsm8k_questions_and_answers_are_documents(tokenizer):
    path = real_file("gsm8k/test.jsonl")
    first = json.loads(path.read_text().splitlines()[0])
    assert next(texts.read_texts(path)) == f"{first['question']}\n{first['answer']}"


@pytest.mark.parametrize("workers", [1, 2])
def test_prepared_shards_hold_what_memory_holds(workers, tmp_path, saved_tokenizer, tokenizer):
    rows = [f"document {i} " * (1 + i % 7) for i in range(500)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    index = prepare([str(tmp_path / "a.jsonl"), "world:ops=1-2"], saved_tokenizer, tmp_path / "shards", workers,
                    shard_tokens=4000, max_tokens=9000)
    shards, memory = open_shards(tmp_path / "shards", tokenizer), open_source(str(tmp_path / "a.jsonl"), tokenizer)
    assert len(index["shards"]) > 3 and index["dtype"] == "uint16" and shards.tokens == index["tokens"]
    held = index["documents"] - sum(1 for i in range(shards.count) if shards.get(i)[1].min() < 1)
    for i in range(min(held, memory.count)):
        assert np.array_equal(shards.get(i)[0], memory.get(i)[0])
    world = open_source("world:ops=1-2", tokenizer)
    ids, weights = shards.get(held)
    assert np.array_equal(ids, world.get(0)[0]) and np.allclose(weights, world.get(0)[1], atol=1e-3)


@pytest.mark.parametrize("pattern", [DEFAULT_PATTERN, GPT2_PATTERN])
def test_long_text_is_shared_out_and_is_one_document_again(pattern, tmp_path):
    """With the ids that it has where it is not cut, also of a tokenizer that puts a token before every document."""
    text = "".join(f"line {i} of a text" + "\n" * (1 + i % 3) + " " * (i % 4) for i in range(50_000))
    path = str(write_rows(tmp_path / "a.jsonl", [{"text": t} for t in ("short", text, "the end")]))
    ours = Tokenizer.train([text[:20_000]], 320, pattern)
    ours.save(tmp_path / "tokenizer")
    spec = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
    spec["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "b", "type_id": 0}}],
                              "special_tokens": {"b": {"id": "b", "ids": [ours.im_start], "tokens": ["b"]}}}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert prepare([path], tmp_path / "tokenizer", tmp_path / "shards", 2)["documents"] == 3
    made, memory = open_shards(tmp_path / "shards", tokenizer), open_source(path, tokenizer)
    assert all(np.array_equal(made.get(i)[0], memory.get(i)[0]) for i in range(3)) and len(memory.get(1)[0]) > 250_000
    index = prepare([path], tmp_path / "tokenizer", tmp_path / "part", 2, max_tokens=1000)   # its beginning is enough
    [_, (ids, _)] = map(open_shards(tmp_path / "part", tokenizer).get, range(2))
    assert index["documents"] == 2 and 1000 < len(ids) < 250_000 and ids[-1] == tokenizer.eot
    assert np.array_equal(ids[:-1], memory.get(1)[0][:len(ids) - 1])


@pytest.mark.parametrize("text, pieces", [("字字字字字字字字字\n" * 8, 4), ("a b" * 30, 8), ("x" * 90, 1), ("\n" * 90, 1)])
def test_a_text_without_words_is_cut_at_line_ends_or_not_at_all(text, pieces):
    cut = list(shards._cut(text, 10))
    assert "".join(piece for piece, *_ in cut) == text and len(cut) == pieces
    assert [i for i, (_, begins, _) in enumerate(cut) if begins] == [0]
    assert [i for i, (*_, ends) in enumerate(cut) if ends] == [pieces - 1]


def test_a_vocabulary_larger_than_the_type_is_refused(tmp_path, saved_tokenizer, monkeypatch):
    (tmp_path / "a.txt").write_text("some text")
    monkeypatch.setattr(shards.Tokenizer, "__len__", lambda self: 70_000)
    with pytest.raises(ValueError, match="cannot hold a vocabulary of 70000; use uint32"):
        prepare([str(tmp_path / "a.txt")], saved_tokenizer, tmp_path / "shards", 1, dtype="uint16")
    assert not (tmp_path / "shards").exists()


def test_shards_for_another_vocabulary_or_damaged_are_refused(tmp_path, saved_tokenizer, tokenizer):
    (tmp_path / "a.txt").write_text("some text " * 100)
    prepare([str(tmp_path / "a.txt")], saved_tokenizer, tmp_path / "shards", 1)
    with pytest.raises(ValueError, match="made with a vocabulary of"):
        open_shards(tmp_path / "shards", range(100))
    with pytest.raises(ValueError, match="exists already"):
        prepare([str(tmp_path / "a.txt")], saved_tokenizer, tmp_path / "shards", 1)
    tokens = tmp_path / "shards" / "tokens_00000.npy"
    tokens.write_bytes(tokens.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        open_shards(tmp_path / "shards", tokenizer)


def test_hub_data_sets_stream(tmp_path, tokenizer, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"row {i}"}) for i in range(5)))
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, streaming: load(
        "json", data_files=str(tmp_path / "a.jsonl"), split=split, streaming=streaming,
        cache_dir=str(tmp_path / "cache")))
    mixture = Mixture(["hf:org/name"], tokenizer, max_epochs=2)
    drawn = []
    with pytest.raises(StopIteration):
        while True:
            drawn.append(tokenizer.decode(mixture.next()[0][:-1]))
            if len(drawn) == 3:                                               # a resume in the middle
                state = mixture.state()
                mixture = Mixture(["hf:org/name"], tokenizer, max_epochs=2)
                mixture.restore(state)
    assert drawn == [f"row {i}" for i in range(5)] * 2
    with pytest.raises(ValueError, match="--max-epochs 1.5: hf:org/name is streamed.*; use a whole number"):
        Mixture(["hf:org/name"], tokenizer, max_epochs=1.5)


@pytest.mark.parametrize("content, name, message", [
    (None, "a.jsonl", "a.jsonl: no such file"), ("", "a.jsonl", "a.jsonl: the file is empty"),
    ("", "a.txt", "a.txt: the file is empty"),
    ('{"text": "a"}\n{"text": \n', "a.jsonl", "a.jsonl, line 2: not valid JSON"),
    ('{"text": "a"}\n\n{"body": "b"}\n', "a.jsonl", 'line 3: no field "text".*found: body'),
    ("x", "a.csv", "use a .txt"), ("[1]\n", "a.jsonl", "line 1: no field")])
def test_bad_files(content, name, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, OSError), match=message) as error:
        list(texts.read_texts(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["a.txt@", "a.txt@x", "a.txt@0", "a.txt@-1", "a.txt@inf",
                                  "a.txt@nan", "world:ops=1@inf", "me@home.txt"])
def test_bad_weights(spec):
    with pytest.raises(ValueError, match="the weight"):
        data.split_spec(spec)
    assert data.split_spec("dir/a.txt") == ("dir/a.txt",
                                            1.0) and data.split_spec("world:ops=1-2@0.5") == ("world:ops=1-2", 0.5)


def test_commands(tmp_path, saved_tokenizer):
    (tmp_path / "a.txt").write_text("some text " * 500)
    made = script("data.py", "prepare", "--data", tmp_path / "a.txt", "--tokenizer", saved_tokenizer, "--out",
                  tmp_path / "shards", "--workers", 1)
    assert made.json["documents"] == 1 and made.json["shards"] == 1
    table = script("data.py", "table", "--data", f"{tmp_path}/shards@1", "world:ops=1-2@3", "--tokenizer",
                   saved_tokenizer, "--tokens", 100_000)
    assert abs(table.json["mixture"][1]["share"] - 0.75) < 0.03
    assert "unique tokens" in table.stdout and table.json["mixture"][0]["epochs"] > 1


def test_the_table_draws_what_its_help_says(tmp_path, saved_tokenizer):
    flags = ["table", "--data", "world:ops=1-3", "--tokenizer", saved_tokenizer]
    _, _, err = run_main(data, *flags, "--tokens", 0)
    assert "--tokens: 0: use a whole number of at least 1" in err
    _, found, _ = run_main(data, *flags, "--tokens", 500, "--seq-len", 64)
    assert 500 <= found["mixture"][0]["tokens"]


def test_batch_moves_as_a_whole():
    b = batch_from([[(np.arange(5), np.ones(5, np.float32))]], 8)
    assert isinstance(b.to("cpu"), Batch) and b.documents.tolist() == [[0, 0, 0, 0, -1, -1, -1, -1]]


def test_a_byte_order_mark_is_no_text(tmp_path, tokenizer):
    line = json.dumps({"text": "Three lions."}) + "\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfThree lions.")
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\xef\xbb\xbf" + line.encode())     # two files, joined
    for name, count in (("a.txt", 1), ("a.jsonl", 2)):
        found = open_source(str(tmp_path / name), tokenizer)
        assert found.count == count
        assert all(found.get(i)[0].tolist() == [*tokenizer.encode("Three lions."), tokenizer.eot] for i in range(count))


@pytest.mark.parametrize("prefix", [0, 1])
def test_empty_documents_are_left_out_and_said_to_be(prefix, tmp_path, saved_tokenizer, capsys):
    spec = json.loads((saved_tokenizer / "tokenizer.json").read_text())
    if prefix:                                            # a tokenizer that puts a token before every text, as Llama 3's
        end = spec["added_tokens"][0]["content"]
        spec["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": end, "type_id": 0}},
                                                                           {"Sequence": {"id": "A", "type_id": 0}}],
                                  "special_tokens": {end: {"id": end, "ids": [spec["added_tokens"][0]["id"]], "tokens": [end]}}}
        (saved_tokenizer / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = Tokenizer.load(saved_tokenizer)
    assert len(tokenizer.prefix) == prefix
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("", "Three lions.", "", "Two owls.")))
    found = open_source(str(tmp_path / "a.jsonl"), tokenizer)
    index = prepare([str(tmp_path / "a.jsonl")], saved_tokenizer, tmp_path / "shards", 1)
    assert found.count == index["documents"] == 2
    assert capsys.readouterr().err.count("2 of 4 documents are empty and left out") == 2


def test_a_stream_of_empty_documents_ends(monkeypatch):
    """A source whose documents are known only when they come, as those of the hub are."""
    empty = documents_of([1] * 5)
    empty.count = None
    monkeypatch.setattr(empty, "get", lambda i: (np.zeros(1, np.int64), np.ones(1, np.float32)))
    with pytest.raises(ValueError, match="documents in a row hold no text"):
        Packer(64, mixture_of(monkeypatch, {"a": empty}).next).row()


def test_shards_without_text_and_damaged_ones_are_refused(tmp_path, saved_tokenizer, tokenizer):
    (tmp_path / "a.txt").write_text("some text " * 100)
    prepare([str(tmp_path / "a.txt")], saved_tokenizer, tmp_path / "shards", 1)
    file, offsets = tmp_path / "shards" / "index.json", tmp_path / "shards" / "offsets_00000.npy"
    index = json.loads(file.read_text())
    file.write_text(json.dumps(index | {"shards": [], "documents": 0, "tokens": 0}))
    with pytest.raises(ValueError, match="the shards hold no text"):
        open_shards(tmp_path / "shards", tokenizer)
    file.write_text(json.dumps(index))
    np.save(offsets, np.load(offsets) * 2)
    with pytest.raises(ValueError, match="does not match index.json"):
        open_shards(tmp_path / "shards", tokenizer)
    offsets.write_bytes(b"")
    with pytest.raises(ValueError, match="shard 00000 is damaged"):
        open_shards(tmp_path / "shards", tokenizer)


def killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


class Panic(BaseException):
    """What pyo3 raises where Rust panics is no Exception either."""


def panicked(job):
    raise Panic("called unwrap on an Err")


@pytest.mark.parametrize("worker, error, message", [(killed, ValueError, "a worker process died"), (panicked, Panic, "unwrap")])
def test_prepare_ends_when_a_worker_does(worker, error, message, tmp_path, saved_tokenizer, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "Three lions. " * 1000}) + "\n" for _ in range(50)))
    monkeypatch.setattr(shards, "_encode_texts", worker)
    with pytest.raises(error, match=message):
        prepare([str(tmp_path / "a.jsonl")], saved_tokenizer, tmp_path / "shards", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "tokenizer"]


def noting(job):
    (job / f"worker{os.getpid()}").touch()
    time.sleep(0.1)
    return []


def stopped_by(number, folder, group=False):
    """Runs data.py prepare, which has no end, in a process of its own, forked; it gets a signal once two workers are at work.
    Returns how it ended and what it said, after its workers have ended too: they hold the end of a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            sys.stderr = open(folder / "err", "w")
            sys.argv = ["data.py", "prepare", "--data", "a.txt", "--tokenizer", str(folder / "tokenizer"), "--out",
                        str(folder / "shards"), "--workers", "2"]
            data.main()
        except SystemExit as e:
            sys.stderr.close()
            os._exit(e.code)
        finally:
            os._exit(1)
    os.close(writing)
    while len(list(folder.glob("worker*"))) < 2 and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    (os.killpg if group else os.kill)(child, number)
    late = threading.Timer(HANG, os.kill, (child, signal.SIGKILL))            # one that goes on is killed, and the test fails
    late.start()
    _, status = os.waitpid(child, 0)
    late.cancel()
    assert select.select([reading], [], [], HANG)[0] and os.read(reading, 1) == b""
    os.close(reading)
    for file in folder.glob("worker*"):
        file.unlink()
    return status, [line for line in (folder / "err").read_text().replace("\r", "\n").splitlines() if "data.py:" in line]


def test_prepare_that_is_stopped_leaves_nothing_behind(tmp_path, saved_tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "_jobs", lambda name: ((noting, tmp_path) for _ in itertools.count()))
    assert os.WTERMSIG(stopped_by(signal.SIGKILL, tmp_path)[0]) == signal.SIGKILL
    [left] = tmp_path.glob("shards.*")                    # and the next one removes it
    (other := tmp_path / f"shards.{socket.gethostname()}.{os.getpid()}.tmp").mkdir()         # of a process that lives
    for number, group in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        status, said = stopped_by(number, tmp_path, group)
        assert os.WEXITSTATUS(status) == 130 and len(said) == 1 and "stopped; nothing is kept" in said[0]
        assert "Traceback" not in (tmp_path / "err").read_text() and list(tmp_path.glob("shards*")) == [other]


def test_what_tiktoken_panics_at_is_refused(tokenizer):
    look_ahead = tokenizer.train(["Three lions. "] * 9, 300, GPT2_PATTERN)
    with pytest.raises(ValueError, match="900,000 whitespace characters in a row"):
        look_ahead.encode("a" + " " * 1_000_001 + "a")
    assert len(look_ahead.encode("a" + " " * 800_000 + "a")) > 1
    for blank in (" ", "\n"):                             # our own pattern has no such limit
        text = "a" + blank * 1_000_001 + "a"
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_data_that_fill_no_batch_are_refused_and_looking_changes_nothing(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"lions {i} " * 9}) + "\n" for i in range(20)))
    specs = [str(tmp_path / "a.jsonl")]
    with pytest.raises(ValueError, match="1 epochs are .* tokens and do not fill one batch of 65536; lower --batch-tokens"):
        Stream(specs, tokenizer, 64, 65536, max_epochs=1)
    [a], [b] = Stream(specs, tokenizer, 64, 256).next(), Stream(specs, tokenizer, 64, 256, max_epochs=5).next()
    assert torch.equal(a.tokens, b.tokens)


def test_json_has_no_nan(capsys):
    cli.finish({"a": [1.5, float("nan")], "b": {"c": float("-inf")}})
    out, err = capsys.readouterr()
    assert json.loads(out, parse_constant=pytest.fail) == {"a": [1.5, None], "b": {"c": None}}
    assert "not a finite number" in err


def test_a_stream_that_breaks_ends_the_run_saved(tmp_path, saved_tokenizer, monkeypatch):
    """Rows of the hub are read only when their turn comes."""
    import pretrain

    def get(i):
        if i == 9:
            raise ValueError("hf:org/name, row 10: no field")
        return np.arange(65), np.ones(65, np.float32)
    stream = documents_of([65])
    stream.count, stream.get = None, get
    monkeypatch.setattr(data, "open_source", lambda name, tokenizer: stream)
    monkeypatch.setattr(data.Packer.__init__, "__defaults__", (1,))           # rows that wait
    code, _, err = run_main(pretrain, *f"--data hf:org/name --tokenizer {saved_tokenizer} --layers 1 --width 16 --heads 2 "
                            f"--kv-heads 1 --seq-len 64 --batch-tokens 128 --steps 99 --log-every 1 --out {tmp_path}/run".split())
    assert code == 2 and "row 10: no field" in err and "Traceback" not in err
    assert state_of(tmp_path / "run")["step"] == 4


def test_a_log_has_no_nan(tmp_path):
    run = a_run(out=str(tmp_path / "run"))
    run.open_log({})
    run.log({"step": 1, "loss": float("nan"), "skipped": "loss nan"})
    run.log_file.close()
    last = (tmp_path / "run/log.jsonl").read_text().splitlines()[-1]
    assert json.loads(last, parse_constant=pytest.fail) == {"step": 1, "loss": None, "skipped": "loss nan"}


@pytest.fixture
def larger_rooms(tmp_path, monkeypatch):
    """formats/ and sources/, each with a file that a user adds: csv.py reads rows, twice.py opens a kind of source."""
    room = tmp_path / "room"
    room.mkdir()
    (room / "csv.py").write_text(
        "import csv\n\n\ndef rows(path):\n    with open(path, newline='', encoding='utf-8') as file:\n"
        "        for number, row in enumerate(csv.DictReader(file), 1):\n            yield f'{path}, row {number}', row\n")
    (room / "twice.py").write_text(
        "from sources.documents import tokenise\n\n\ndef open_documents(spec, tokenizer):\n"
        "    return tokenise([spec.removeprefix('twice:')] * 2, tokenizer, spec)\n")
    for package in (formats, sources):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(room)])
    yield
    for name in ("formats.csv", "sources.twice"):
        sys.modules.pop(name, None)


def test_a_file_added_to_a_room_is_a_source(larger_rooms, tokenizer, tmp_path):
    (tmp_path / "texts.csv").write_text('text,url\n"Three, lions.",x\nTwo owls.,y\n')
    (tmp_path / "questions.csv").write_text("question,answer\nHow many?,7\n")
    assert list(texts.read_texts(tmp_path / "texts.csv")) == ["Three, lions.", "Two owls."]
    source = open_source(str(tmp_path / "texts.csv"), tokenizer)
    assert [tokenizer.decode(source.get(i)[0]) for i in (0, 1)] == ["Three, lions.<|endoftext|>", "Two owls.<|endoftext|>"]
    [problem] = load_problems(str(tmp_path / "questions.csv"))
    assert (problem.question, problem.answer, kind_of(str(tmp_path / "questions.csv"))) == ("How many?", "7", "questions")
    assert open_conversations(str(tmp_path / "questions.csv"), tokenizer, 99).count == 1
    assert open_source("twice:An owl", tokenizer).count == 2
    (tmp_path / "texts.tsv").write_text("text\nx\n")
    with pytest.raises(ValueError, match=r"texts\.tsv: use a \.txt, \.jsonl"):
        list(texts.read_texts(tmp_path / "texts.tsv"))

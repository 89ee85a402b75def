"""mix.py as a user runs it, with proxies of a few steps."""

import fcntl
import json
import subprocess
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import script
from helpers import refusal, run_main, write_rows

import mix
from measuring.text import heldout_loss
from sources.open import open_source
from training.ledger import read_ledger

SOURCES = ["world:ops=1,split=pretrain", "world:ops=2-3,split=pretrain"]


def mix_flags(out, tokenizer_folder, text, *more):
    return ["--sources", *SOURCES, text, "--target", "loss:world:ops=2,split=test,q_weight=0@0.75", f"{text}@0.25", "--out", out,
            "--tokenizer", tokenizer_folder, "--proxies", 3, "--sizes", "1x16", "--steps", 3, "--batch-tokens", 512,
            "--pretrain", "--seq-len 128 --heads 2", "--max-epochs", 0, "--folds", 2, "--simulate", 500, "--average", 5,
            "--jobs", 2, *more]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("mix")
    tokenizer.save(folder / "tokenizer")
    text = write_rows(folder / "text.jsonl", [{"text": f"There are {i} lions in the zoo, and {i % 7} owls."} for i in range(60)])
    return folder / "tokenizer", text


@pytest.fixture(scope="module")
def mixed(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "out"
    return out, script("mix.py", *mix_flags(out, *folders))


def test_the_whole_way(mixed, folders):
    out, done = mixed
    found, rows = done.json, [json.loads(line) for line in (out / "proxies.jsonl").read_text().splitlines()]
    assert found["proxies"] == len(rows) == 3 and {(r["size"], r["mixture"]) for r in rows} == {("1x16", i) for i in range(3)}
    assert sum(found["shares"].values()) == pytest.approx(1) and list(found["shares"]) == [*SOURCES, str(folders[1])]
    ledgers = [read_ledger(out / "proxies" / f"{r['size']}-{r['mixture']:03}") for r in rows]
    assert found["flops"] == sum(one["total"] for one in ledgers) == read_ledger(out)["own"]["training"] > 0
    assert read_ledger(out)["tokens"]["training"] == sum(one["tokens"]["training"] for one in ledgers) > 0
    for r in rows:                                        # each was trained on its shares, and measured on every target
        assert list(r["values"]) == ["loss:world:ops=2,split=test,q_weight=0", str(folders[1])]
        shares = {d["source"]: d["share"] for d in r["data"]}
        for source, share in zip(found["shares"], r["shares"]):
            assert shares.get(source, 0) == pytest.approx(share, abs=0.08) and (share > 0) == (source in shares)
    [row] = (row for row in found["rank_correlation"] if row["target"] == str(folders[1]))
    assert row["size"] == "1x16" and row["mixtures"] == 3 and row["parameters"] == rows[0]["parameters"]
    page = (out / "mix.html").read_text()
    assert "What one target costs the other" in page and "<svg" in page and json.loads((out / "mix.json").read_text()) == found


def test_with_resume_nothing_is_trained_again_and_other_flags_are_refused(mixed, folders, monkeypatch):
    out, done = mixed
    assert "is not empty; add --resume" in refusal(mix, *mix_flags(out, *folders))

    def never(*_, **__):
        raise AssertionError("a proxy was started again")
    monkeypatch.setattr(subprocess, "Popen", never)
    code, again, err = run_main(mix, *mix_flags(out, *folders, "--resume"))
    assert code == 0 and again == done.json, err
    said = []

    def report(*_):
        with open(out / "plan.lock") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        said.append("nobody else writes meanwhile")
    with mock.patch.object(mix, "report", report):
        run_main(mix, *mix_flags(out, *folders, "--resume"))
    assert said
    assert "has other mixtures" in refusal(mix, *mix_flags(out, *folders, "--resume", "--seed", 7))
    line = refusal(mix, *mix_flags(out, *folders, "--resume", "--measure", "loss:world:ops=1"))
    assert "has other targets" in line


def test_bad_input_is_one_line(folders, tmp_path):
    def refused(*more):
        line = refusal(mix, *mix_flags(tmp_path / "out", *folders, *more))
        assert not (tmp_path / "out").exists()
        return line
    assert "--proxies" in (line := refused("--proxies", 1)) and "at least 2" in line       # one says nothing about a mixture
    assert "use LAYERSxWIDTH" in refused("--sizes", "2by64")
    assert "use SOURCE@LOW-HIGH" in refused("--bound", "nobody@0.1-0.3")
    assert "has another bound already" in refused("--bound", f"{SOURCES[0]}@0-0.1", f"{SOURCES[0]}@0-1")
    assert "use SOURCE@LOW-HIGH" in refused("--bound", f"{SOURCES[0]}@30")
    assert "no mixture fits" in refused("--bound", f"{SOURCES[0]}@0.6-1", f"{SOURCES[1]}@0.6-1")
    assert "mix.py says that to pretrain.py itself" in refused("--pretrain", "--width 64")
    assert "give at least two, each once" in refused("--sources", str(folders[1]))
    assert "is given twice" in refused("--measure", str(folders[1]))
    assert "is no target" in refused("--pareto", str(folders[1]), "loss:other.txt")
    assert "--init" in refused("--init", "somewhere")     # --sizes and --tokenizer have no effect then


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5])
def test_the_held_out_loss_is_that_of_every_document(tiny, tokenizer, folders, rows):
    for spec in (str(folders[1]), "world:ops=1-2,split=test"):
        source, nats, weight, tokens = open_source(spec, tokenizer), 0.0, 0.0, 0
        found = heldout_loss(tiny, tokenizer, spec, T=256, rows=rows, max_tokens=3000)
        order = np.random.default_rng([0, 0, 0]).permutation(source.count) if source.count else range(10_000)
        for i in order:                                   # one document after the other, each alone
            ids, weights = source.get(int(i))
            logprobs = tiny(torch.tensor(ids[None, :-1])).log_softmax(-1)[0].gather(1, torch.tensor(ids[1:, None]))[:, 0]
            nats -= float((logprobs * torch.tensor(weights[1:])).sum())
            weight, tokens = weight + float(weights[1:].sum()), tokens + len(ids)
            if tokens >= found["tokens"]:
                break
        assert tokens == found["tokens"] and found["loss"] == pytest.approx(nats / weight, abs=1e-4)

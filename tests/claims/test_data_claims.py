"""The claims on thinking and on self-made data: their verdicts on planted results, and their commands where one feeds another."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import run_main, tiny_checkpoint, write_rows

import augment
import evaluate
from claims import generations, run, thinking
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import make
from claims.runner.measures import Result, numbers_of, read_result
from model import load_both
from transforms.parts import measures

# What is planted, by claim: where the claim holds, where it does not, and where the null or the oracle arm does not work. {arm:
# share of right samples, or of distinct runs of words, or of rationalised thoughts, or the loss on an answer}; other arms: 0.5.
RAW, WRONG = {"no thinking": 0.1}, {"all wrong": 0.1}
PLANTED = {
    "order": ({"before": .9, "before again": .9, "raw": .1}, {"raw": .1}, {"before": .9, "raw": .1}, {"before": .9,
              "before again": .9, "raw": .9}),
    "kept_if_right": ({"kept if right": .9, "kept if right, again": .9} | RAW, RAW, {"kept if right": .9} | RAW,
                      {"kept if right": .9, "kept if right, again": .9, "no thinking": .9}),
    "rationalised": ({"not shown": .1, "honest oracle": 0}, {"honest oracle": 0}, {"not shown": .4, "shown, again": .9,
                     "honest oracle": 0}, {"not shown": .1}),
    "thought_used": ({"swapped": .1, "unseen texts": 0}, {"unseen texts": 0}, {"swapped": .1, "own again": .9,
                     "unseen texts": 0}, {"swapped": .1}),
    "thought_replaced": ({"own": .1, "own, other draws": .1}, {}, {"own": .1}, {"own": .1, "own, other draws": .1}),
    "collapse": ({"generation 3": .1, "texts 3": .1} | WRONG, WRONG,
                 {"generation 3": .1, "texts 3": .1, "first again": .9} | WRONG, {"generation 3": .1, "texts 3": .1}),
    "kept_real": ({"self": .1} | WRONG, WRONG, {"self": .1, "first again": .9} | WRONG, {"self": .1}),
    "checked_data": ({"self": .1} | WRONG, WRONG, {"self": .1, "first again": .9} | WRONG, {"self": .1}),
    "verified_data": ({"verified": .9} | WRONG, WRONG, {"verified": .9, "first again": .9} | WRONG, {"verified": .9}),
    "fresh_seeds": ({"self": .1, "self, texts": .1} | WRONG, WRONG, {"self": .1, "self, texts": .1, "first again": .9} | WRONG,
                    {"self": .1, "self, texts": .1}),
}


def planted(name, values, swapping_costs):
    """A result for each arm of a claim, of the kind that its command gives."""
    found = {}
    for arm, command in run.find_claim(name).arms(Setting()).items():
        value, words = values.get(arm, .5), command.line(ROOT)
        if command.script == "pretrain.py":
            found[arm] = Result({"eval": {"loss:x": {"loss": 1.0}}})
        elif "--text" in words:                           # 100 tokens, of which 10 are the answer
            part = 2.0 if "swapped" in arm and swapping_costs else 1.0
            whole = (90 * part + 10 * value) / 100
            found[arm] = Result({}, others={"whole": {"loss": whole, "tokens": 100, "bits_per_byte": value},
                                            "part": {"loss": part, "tokens": 90}})
        elif words[1] == "measure":
            found[arm] = Result({"file": {"diversity": {"distinct": {"4": value}}}})
        elif command.script == "augment.py":
            judged = ["rationalised"] * round(80 * value) + ["verified"] * round(80 * (1 - value)) + ["wrong"] * 15 + [""] * 5
            found[arm] = Result({}, thoughts={("world", 0, 100): judged})
        else:
            right = {("world", ops, 50): [[round(value * 10), 10]] * 50 for ops in (1, 2, 3)}
            found[arm] = Result({}, right=right, answered=right)
    return found


@pytest.mark.parametrize("name", PLANTED)
def test_verdicts_on_planted_results(name):
    claim = run.find_claim(name)
    for values, wanted, why in zip(PLANTED[name], (HOLDS, FAILS, OPEN, OPEN), ("", "", "null arm", "oracle arm"), strict=True):
        assert values.keys() <= claim.arms(Setting()).keys()
        numbers = numbers_of(claim.statistic, planted(name, values, why != "oracle arm"), draws=20)
        verdict, said = judge(claim, numbers)
        assert (verdict, why in said) == (wanted, True), (values, verdict, said, numbers)
    numbers = numbers_of(claim.statistic, planted(name, PLANTED[name][0], True), draws=20)
    assert numbers[claim.headline][0] == pytest.approx(.4, abs=0.01)                   # .9 - .5, or .5 - .1


def test_half_of_a_collapse_is_none():
    """Of seeds both are claimed: more is solved, and texts are more varied. A collapse is that less is solved."""
    for name, values in (("collapse", {"texts 3": .1}), ("fresh_seeds", {"self": .1}), ("fresh_seeds", {"self, texts": .1})):
        claim = run.find_claim(name)
        assert judge(claim, numbers_of(claim.statistic, planted(name, values | WRONG, True), draws=20))[0] == FAILS


def test_shuffled_lines_are_compared_where_there_are_two():
    claim, found = run.find_claim("thought_used"), planted("thought_used", {}, True)
    found["shuffled"].right["world", 1, 50] = [[0, 10]] * 50
    assert claim.statistic(found)["after SFT, own - shuffled, two operations"] == 0


# ---- what the runner reads of data that were made

def written(tmp_path, *args, name="rows.jsonl"):
    code, line, err = run_main(augment, *args, "--out", tmp_path / name)
    assert code == 0, err
    return read_result(tmp_path / name, line)


def test_thoughts_are_read_document_by_document(tmp_path):
    """Shares by a count of the rows, and pairs of the same documents: what one drops keeps its place."""
    made = ("think", "--init", "oracle:solution=1,errors=0.2,rationalise=0.5", "--count", 60,
            "--data", "world:ops=2-3,split=pretrain,solution=0")
    found = written(tmp_path, *made)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    judged = [row["meta"]["thought"] for row in rows]
    assert len(rows) == 60 and len(set(judged)) == 3
    assert found.thought("wrong") == judged.count("wrong") / 60
    right = judged.count("rationalised") + judged.count("verified")
    assert found.thought("rationalised", of=("verified", "rationalised")) == judged.count("rationalised") / right
    fewer = written(tmp_path, *made, "--verified", name="v.jsonl")
    ((stratum, kept),), ((same, all_of_it),) = fewer.thoughts.items(), found.thoughts.items()
    assert stratum == same and [k or "-" for k in kept] == [j if j == "verified" else "-" for j in all_of_it]
    assert (fewer.thought("verified"), fewer.thought("wrong"), Result({}).thought("wrong")) == (1, 0, 0)
    # a bootstrap draws the same documents in both: their difference in each document is constant, so in each draw
    one, other = (Result({}, thoughts={stratum: [a if i % 2 else b for i in range(60)]}) for a, b in (
        ("wrong", "verified"), ("verified", "wrong")))
    numbers = numbers_of(lambda r: {"sum": r["a"].thought("wrong") + r["b"].thought("wrong"), "a": r["a"].thought("wrong")},
                         {"a": one, "b": other}, draws=50)
    assert numbers["sum"] == (1, 1, 1) and numbers["a"][1] < .45 and numbers["a"][2] > .55


@torch.no_grad()
def test_the_loss_behind_a_thought_is_that_of_the_answer(tmp_path, tokenizer):
    """From two measurements of evaluate.py; and token by token, from the model itself."""
    folder = tiny_checkpoint(tmp_path / "init", tokenizer)
    starts = [f"The lions number {i}.\n<think>\nlions {i}\n</think>" for i in range(5)]
    whole = write_rows(tmp_path / "whole.jsonl", [{"text": f"{text}\nAnswer: {7 - i}"} for i, text in enumerate(starts)])
    part = write_rows(tmp_path / "part.jsonl", [{"text": text} for text in starts])
    code, line, err = run_main(evaluate, "--init", folder, "--text", whole, part, "--out", tmp_path / "evaluation.json")
    assert code == 0, err
    found = read_result(tmp_path / "evaluation.json", line).loss_behind()
    model, tokenizer = load_both(folder, "cpu", torch.float32)
    losses = []
    for i, start in enumerate(starts):
        ids, before = (tokenizer.encode_document(text) for text in (f"{start}\nAnswer: {7 - i}", start))
        ids = ids[:-1] if ids[-1] == before[-1] else ids
        n = len(before) - (before[-1] != ids[len(before) - 1])
        row = torch.tensor([ids])
        logprobs = model(row[:, :-1], torch.zeros_like(row[:, :-1]), row[:, 1:])
        losses += (-logprobs[0, n - 1:]).tolist()
    assert found == pytest.approx(np.mean(losses), abs=0.01)


def test_how_varied_a_file_is_comes_from_what_measure_writes(tmp_path):
    texts = ["a b c d e", "a b c d f", "x y"]
    data, out = write_rows(tmp_path / "d.jsonl", [{"text": text} for text in texts]), tmp_path / "measured.json"
    code, line, err = run_main(augment, "measure", data, "--out", out)
    assert code == 0 and json.loads(out.read_text()) == line, err
    assert read_result(out, line).distinct() == measures.distinct_ngrams(texts, 4) == 3 / 4
    assert read_result(out, line).distinct(1) == pytest.approx(8 / 12, abs=1e-4)


def test_what_measures_begins_again_and_what_writes_goes_on():
    assert make("augment.py", "think", "--init", "oracle:").resumable and make("pretrain.py", "--steps", 1).resumable
    assert not make("augment.py", "measure", "f").resumable and not make("evaluate.py", "--init", "i").resumable


# ---- commands that feed each other

def flag(command, name):
    words = command.line(ROOT)
    return words[words.index(name) + 1]


def test_each_generation_is_written_by_the_one_before_it():
    s = Setting(2)
    chain = generations.chain(s, "self")
    assert len(chain) == 3 and chain[0][0].needs == [generations.first(s)]
    for (_, before), (rows, base) in zip(chain, chain[1:]):
        assert rows.needs == [before] and rows in base.needs and before not in base.needs and "--init" not in base.words
    seeds, alone = ([flag(rows, "--topics") for rows, _ in generations.chain(s, arm)] for arm in ("seeds", "self"))
    assert len(set(seeds)) == 3 and set(alone) == {generations.world(s)} and not set(seeds) & set(alone)
    real = generations.chain(s, "self+real")
    assert (generations.real(s), "@0.5") in real[2][1].words and (real[2][0], "@0.5") in real[2][1].words
    # the real documents count as those that are written do: question and all
    assert "q_weight=1" in flag(generations.real(s), "--data") and generations.real(s) in generations.first(s).needs
    assert real[0][0] == chain[0][0] and real[1][0] != chain[1][0]                   # the first base is the same
    for arm, sentences in (("verified", "0"), ("checked", "1")):
        rows = generations.chain(s, arm)[0][0]
        assert "--verified" in rows.words and flag(rows, "--sentences") == sentences
        assert "--verified" not in generations.chain(Setting(budget="toy"), arm)[0][0].words
    assert "--verified" not in generations.chain(s, "answers")[0][0].words


def test_what_thinks_from_answers_and_what_does_not():
    s = Setting()
    teacher = thinking.both_ways(s)
    first, back = thinking.first(s, teacher), thinking.back(s, teacher)
    assert first.needs == back.needs == [teacher] and "--back" in back.words and "--back" not in first.words
    prompt = (ROOT / "transforms" / "prompts" / f"{flag(first, '--prompt')}.txt").read_text()
    assert "{question}" in prompt and "{answer}" not in prompt and "{document}" not in prompt.replace("# ", "")
    own = thinking.thoughts(s, thinking.oracle())
    for how in ("swap", "blank", "shuffle", "keep"):
        assert thinking.spoiled(s, own, how).needs == [own]
    # the teacher has seen other documents than those that it thinks about
    assert all(f"seed={s.seed + 50}" in flag(c, "--data") for c in teacher.needs if c.script == "augment.py")
    assert f"seed={s.seed}," in flag(first, "--data")


def test_bases_are_shared_with_the_claims_on_thinking():
    """What an arm has in common with another claim's is made once."""
    names = ("thinking_augmented", "thought_used", "order", "kept_if_right")
    arms = {name: run.find_claim(name).arms(Setting()) for name in names}
    augmented = arms["thinking_augmented"]
    assert arms["thought_used"]["own"] == augmented["thinking"] == arms["order"]["behind"]
    assert arms["thought_used"]["own again"] == augmented["thinking again"]
    assert arms["thought_used"]["no thinking"] == arms["order"]["raw"] == augmented["raw"] == arms["kept_if_right"]["no thinking"]

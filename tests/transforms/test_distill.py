"""A teacher's answers: each filter with what must go and what must stay, answers that are cut and kept, several teachers."""

import json
from argparse import Namespace
from collections import Counter

import pytest
from helpers import refusal, run_main, tiny_checkpoint, write_rows

import augment
import sft
from sources.conversations import open_conversations
from tasks.problems import load_problems
from tasks.task import Problem, Reply
from transforms import Item, distill

PLAIN = Problem("How many pens has Ann, who had 3 and buys 4?", "7")
GOOD = "She had three and buys four more, so 3 + 4 = 7.\n#### 7"


def args(**more):
    known = {"plain": False, "second_plain": False, "third_plain": False, "mode": "", "samples": 1, "drop": [], "exclude": [],
             "most_repeated": 0.4, "least_words": 5, "truncate": 0, "truncate_share": 1.0, "choose": "", "seed": 0, "init": "a",
             "second": "", "third": ""}
    assert more.keys() <= known.keys()
    return Namespace(**known | more)


def kept(texts, problem=PLAIN, item=None, **more):
    item = item or Item(0, problem.source or "q.jsonl", 0, "", problem)
    replies = [reply if isinstance(reply, Reply) else Reply(reply) for reply in texts]
    rows, dropped = distill.keep(item, [replies], args(**more))
    return [row["messages"][-1] for row in rows], dropped


def test_nothing_is_dropped_unless_it_is_asked_for():
    texts = [GOOD, "#### 8", "7", "I'll just guess 7.", "seven 七 so 7", "wait " * 50 + "7"]
    turns, dropped = kept([*texts, GOOD, "", Reply("cut", finish="length")])
    assert [t["content"] for t in turns] == [text.strip() for text in texts]
    assert dropped == Counter(repeated=1, cut_off_or_empty=2)


@pytest.mark.parametrize("drop, text, reason", [
    ("wrong", "3 + 4 = 8\n#### 8", "wrong"), ("guessed", "7", "guessed"),
    ("guessed", "My best guess is that there are 7.", "guessed"),
    ("repetitive", "I add three and four and look at what comes out of it again. " * 9 + "#### 7", "repetitive"),
    ("repetitive", "ha" * 40 + " 7", "repetitive"), ("mixed", "三加四, so 3 + 4 = 7.\n#### 7", "mixed_language")])
def test_each_filter_drops_its_own_and_keeps_the_rest(drop, text, reason):
    assert kept([text], drop=[drop]) == ([], Counter({reason: 1}))
    assert kept([text])[1] == Counter()
    assert kept([GOOD], drop=list(distill.DROP))[1] == Counter()
    others = [d for d in distill.DROP if d != drop]
    if drop != "guessed":                                  # "7" alone is right, and neither repetitive nor mixed
        assert kept([text], drop=[d for d in others if d != "guessed"])[1] == Counter()


def test_on_the_world_a_right_answer_without_the_steps_is_a_guess():
    problem = load_problems("world:ops=2,seed=1", 1)[0]
    whole = f"<think>\n{problem.reasoning}\n</think>\n\nAnswer: {problem.answer}"
    bare, wrong = f"Answer: {problem.answer}", "Answer: 77"
    turns, dropped = kept([whole, bare, wrong], problem, drop=["wrong", "guessed"])
    assert len(turns) == 1 and dropped == Counter(guessed=1, wrong=1)
    assert kept([bare], problem, drop=["guessed"])[1] == Counter(guessed=1)
    assert kept([bare], problem, drop=["wrong"])[1] == Counter(wrong=1)
    one = load_problems("world:ops=1", 1)[0]               # one line is enough where one step is
    short = f"<think>\n{one.reasoning}\n</think>\n\nAnswer: {one.answer}"
    assert kept([short], one, drop=list(distill.DROP))[1] == Counter()


def test_what_is_like_the_excluded(tmp_path):
    question = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many?"
    held_out = write_rows(tmp_path / "test.jsonl", [{"question": question, "answer": "72"}])
    like = Problem("Once Natalia sold clips to 48 of her friends in April, and then she stopped. How many?", "48")
    a = args(exclude=[str(held_out)])
    assert distill.ask(Item(0, "", 0, "", like), a, None) == [] and len(distill.ask(Item(0, "", 0, "", PLAIN), a, None)) == 1
    assert distill.keep(Item(0, "", 0, "", like), [], a) == ([], Counter(question_like_excluded=1))
    recited = "As Natalia sold clips to 48 of her friends in April and then she had none, 3 + 4 = 7.\n#### 7"
    assert kept([recited, GOOD], exclude=[str(held_out)])[1] == Counter(like_excluded=1)


def test_long_answers_are_cut_and_kept():
    thought = " ".join(f"word{i:03}" for i in range(200))
    long = Reply(f"<think>\n{thought}\n</think>\n\n#### 7", tokens=400)
    [turn], dropped = kept([long], truncate=100)
    assert turn["unfinished"] is True and turn["content"] == "" and dropped == Counter()
    cut = turn["reasoning"].split(" ")
    assert cut == thought.split(" ")[:len(cut)] and 45 <= len(cut) <= 51           # a quarter of it, and whole words
    # in the answer behind the block; not at all; and one that the sampler cut off, inside its block or behind it
    [turn], _ = kept([Reply("<think>\nshort\n</think>\n\n" + thought, tokens=400)], truncate=100)
    assert turn["reasoning"] == "short" and turn["content"] == thought[:len(turn["content"])] and turn["content"][-3:].isdigit()
    assert kept([long], truncate=400)[0][0].keys() == {"role", "content", "reasoning"}
    [turn], _ = kept([Reply("<think>\n" + thought, tokens=100, finish="length")], truncate=100)
    assert (turn["content"], turn["reasoning"], turn["unfinished"]) == ("", thought, True)
    assert kept([Reply("<think>\n" + thought, tokens=100, finish="length")])[1] == Counter(cut_off_or_empty=1)
    # those that end are judged, whatever of them is kept
    wrong = Reply(f"<think>\n{thought}\n</think>\n\n#### 8", tokens=400)
    assert kept([wrong], truncate=100, drop=["wrong"])[1] == Counter(wrong=1)


def test_a_share_of_the_long_answers_is_cut():
    thought, found = " ".join(f"word{i}" for i in range(60)), Counter()
    for i in range(400):
        item = Item(i, "q", i, "", PLAIN)
        long = Reply(f"<think>\n{thought}\n</think>\n\n#### 7", tokens=80)
        off = Reply(f"<think>\n{thought}", tokens=80, finish="length")
        turns, dropped = kept([long], item=item, truncate=40, truncate_share=0.6)
        found["cut" if turns[0].get("unfinished") else "whole"] += 1
        found += kept([off], item=item, truncate=40, truncate_share=0.6)[1]
    assert 205 <= found["cut"] <= 275 and found["cut"] + found["whole"] == 400 and found["cut_off_or_empty"] == found["whole"]


def test_an_unfinished_turn_is_learned_without_an_end(tmp_path, tokenizer):
    def ids(**turn):
        row = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "", **turn}]}
        ids, weights = open_conversations(str(write_rows(tmp_path / "c.jsonl", [row])), tokenizer, 64).get(0)
        return tokenizer.decode(ids), tokenizer.decode(ids[weights > 0])
    head = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert ids(reasoning="one two", unfinished=True) == (f"{head}<think>\none two", "<think>\none two")
    assert ids(reasoning="one", content="so", unfinished=True)[0] == f"{head}<think>\none\n</think>\n\nso"
    assert ids(content="so it", unfinished=True) == (f"{head}so it", "so it")
    assert ids(content="so", unfinished=False)[1] == "so<|im_end|>"
    for messages, message in (
            ([{"role": "assistant", "content": "a", "unfinished": True}, {"role": "user", "content": "b"}], "only the last turn"),
            ([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b", "unfinished": True}], "only the last turn"),
            ([{"role": "assistant", "content": "a", "unfinished": "yes"}], "must be true or false")):
        with pytest.raises(ValueError, match=message):
            open_conversations(str(write_rows(tmp_path / "w.jsonl", [{"messages": messages}])), tokenizer, 64)


def test_several_teachers_and_the_best_for_each_domain(tmp_path):
    a = args(init="one", second="two")
    algebra, counting = Problem("x?", "1", domain="Algebra"), Problem("y?", "2", domain="Counting")
    counts = Counter()
    right = {("one", "1"): "1", ("one", "2"): "3", ("two", "1"): "1", ("two", "2"): "2"}
    for i, problem in enumerate([algebra, counting, algebra, counting]):
        item = Item(i, "q.jsonl", i, "", problem)
        asks = distill.ask(item, a, None)
        assert [ask.teacher for ask in asks] == ["init", "second"]
        answers = [[Reply(f"#### {right[name, problem.answer]}")] for name in ("one", "two")]
        counts += distill.tally(item, answers, a)
        rows, _ = distill.keep(item, answers, a)
        assert [row["meta"]["teacher"] for row in rows] == ["one", "two"][:len(rows)]
    found = distill.summary(counts, a)
    assert found["right_in"]["Counting"]["init"][0] == 0 and found["right_in"]["Counting"]["second"][0] == 1
    assert found["best"] == {"Algebra": "one", "Counting": "two"} and found["verified"][0] == 0.75
    ledger = tmp_path / "trial.jsonl.ledger.json"
    ledger.write_text(json.dumps({"summary": found}))
    chosen = args(init="one", second="two", choose=str(ledger))
    assert [distill.asked(Item(0, "", 0, "", p), chosen) for p in (algebra, counting, PLAIN)] == [["init"], ["second"], ["init"]]
    # the names count, not the flags
    assert distill.asked(Item(0, "", 0, "", counting), args(init="two", second="one", choose=str(ledger))) == ["init"]
    with pytest.raises(ValueError, match="was made with the teacher"):
        distill.check(args(init="one", second="three", choose=str(ledger)))
    empty = write_rows(tmp_path / "e.json", [{}])
    with pytest.raises(ValueError, match="is no ledger"):
        distill.check(args(init="one", second="two", choose=str(empty)))


def test_two_teachers_through_the_script(tmp_path, tokenizer):
    """Oracles of different skill: the trial finds the better one, and the second run asks it alone; sft.py reads the rows."""
    shared = ["distill", "--init", "oracle:errors=0.9", "--second", "oracle:errors=0", "--count", 30,
              "--data", "world:ops=2,contexts=zoo+school"]
    trial = run_main(augment, *shared, "--out", tmp_path / "t.jsonl")
    assert trial[0] == 0, trial[2]
    assert trial[1]["best"] == {"zoo": "oracle:errors=0", "school": "oracle:errors=0"} and trial[1]["written"] > 30
    code, found, err = run_main(augment, *shared, "--choose", tmp_path / "t.jsonl.ledger.json", "--drop", "wrong", "guessed",
                                "--out", tmp_path / "o.jsonl")
    assert code == 0 and found["written"] == 30 and found["verified"][0] == 1, err
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert {row["meta"]["teacher"] for row in rows} == {"oracle:errors=0"}
    folder = tiny_checkpoint(tmp_path / "init", tokenizer)
    assert run_main(sft, "--init", folder, "--data", tmp_path / "o.jsonl", "--steps", 1, "--seq-len", 256, "--batch-tokens", 256,
                    "--out", tmp_path / "sft")[0] == 0


@pytest.mark.parametrize("flags, message", [
    ("--truncate-share 0.5", "no effect without --truncate"), ("--most-repeated 0.5", "no effect without --drop repetitive"),
    ("--least-words 3", "no effect without --drop guessed"), ("--choose x.json", "no effect with one teacher"),
    ("--exclude no.jsonl", "no.jsonl: no such file"), ("--exclude world:ops=1", "a world has no end"),
    ("--drop bad", "invalid choice")])
def test_bad_flags(tmp_path, flags, message):
    assert message in refusal(augment, "distill", "--init", "oracle:errors=0", "--data", "world:ops=1", "--count", 1, "--out",
                              tmp_path / "o.jsonl", *flags.split())


def test_an_oracle_s_answers_are_cut_where_a_share_is_to_be_cut(tmp_path):
    """It has no tokenizer: words and signs count. Of the longer ones 60% are cut and learned without an end."""
    rows = {}
    for name, more in (("cut", ["--truncate", 20, "--truncate-share", 0.6]), ("whole", []), ("long", ["--truncate", 5000])):
        code, line, err = run_main(augment, "distill", "--init", "oracle:style=long", "--data", "world:tiny,ops=2-3,split=sft",
                                   "--count", 200, "--out", tmp_path / f"{name}.jsonl", *more)
        assert code == 0, err
        rows[name] = [json.loads(text) for text in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert line.get("truncated", 0) == sum("unfinished" in row["messages"][-1] for row in rows[name])
    assert len(rows["cut"]) == len(rows["whole"]) == 200 and [r["messages"] for r in rows["long"]] == [
        r["messages"] for r in rows["whole"]]
    cut = [(a["messages"][-1], b["messages"][-1]) for a, b in zip(rows["cut"], rows["whole"])]
    assert 0.5 < sum("unfinished" in a for a, _ in cut) / 200 < 0.7
    for short, whole in cut:
        if "unfinished" in short:
            assert whole["reasoning"].startswith(short["reasoning"]) and short["content"] == ""
            assert 10 <= len(short["reasoning"].split()) <= 22
        else:
            assert short == whole

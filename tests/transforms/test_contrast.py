"""Pairs of a right and a wrong answer of one checkpoint."""

import json
import random
from argparse import Namespace
from collections import Counter

import pytest
from helpers import refusal, run_main, tiny_checkpoint

import augment
from sources.conversations import Pairs
from tasks.problems import load_problems
from tasks.task import Problem, Reply
from transforms import Item, contrast

QUESTION = Problem("Ann has 3 pens and buys 4. How many pens has she?", "7")
RIGHT, ALSO, WRONG, WORSE = (Reply(f"<think>\n{steps}\n</think>\n\n#### {answer}", thinking=True) for steps, answer in (
    ("3 + 4 = 7", 7), ("4 + 3 = 7", 7), ("3 + 4 = 8", 8), ("3 + 3 = 6", 6)))


def kept(*replies, pairs=1, problem=QUESTION, **more):
    args = Namespace(**{"plain": False, "mode": "", "samples": 8, "pairs": pairs, "temperature": 1.0} | more)
    return contrast.keep(Item(0, "", 0, "", problem), [list(replies)], args)


def test_a_right_answer_is_chosen_and_a_wrong_one_rejected():
    [row], dropped = kept(WRONG, RIGHT, RIGHT, WORSE, ALSO)
    assert (row["prompt"], row["chosen"], row["rejected"]) == (QUESTION.question, RIGHT.text, WRONG.text) and not dropped
    assert row["chosen_right"] and not row["rejected_right"]
    rows, _ = kept(WRONG, RIGHT, RIGHT, WORSE, ALSO, pairs=8)                 # no answer twice
    assert [(row["chosen"], row["rejected"]) for row in rows] == [(RIGHT.text, WRONG.text), (ALSO.text, WORSE.text)]
    assert len(kept(RIGHT, ALSO, WRONG, WRONG, pairs=8)[0]) == 1


def test_where_there_is_no_pair():
    cut = Reply("<think>\n3 + 4", finish="length", thinking=True)
    assert kept(RIGHT, ALSO, cut) == ([], Counter(all_right=1, cut_off_or_empty=1))
    assert kept(WRONG, WORSE) == ([], Counter(all_wrong=1)) and kept(cut, cut) == ([], Counter(no_answer=1, cut_off_or_empty=2))


def test_in_the_world_every_step_counts():
    """A right answer by a wrong step is a wrong one."""
    problem = load_problems("world:ops=2,modulus=0", 1)[0]
    good = f"<think>\n{problem.reasoning}\n</think>\n\nAnswer: {problem.answer}"
    lucky = f"<think>\n{problem.reasoning.splitlines()[1]}\n</think>\n\nAnswer: {problem.answer}"
    [row], _ = kept(Reply(lucky, thinking=True), Reply(good, thinking=True), problem=problem)
    assert row["chosen"] == good and row["rejected"] == lucky


def test_the_question_is_asked_often_enough():
    args = Namespace(plain=False, mode="think", samples=5)
    [asked] = contrast.ask(Item(0, "", 0, "", QUESTION), args, random.Random(0))
    assert asked.n == 5 and asked.prompt == [{"role": "user", "content": f"{QUESTION.question} /think"}]
    assert "a pair needs draws" in refusal(augment, "contrast", "--init", "x", "--data", "world:ops=1", "--count", 1, "--out",
                                           "rows.jsonl", "--temperature", 0)


def test_rows_are_for_dpo(tokenizer, tmp_path, monkeypatch):
    """The command, with a checkpoint that says what it is told to; dpo.py's reader takes the file."""
    spec = "world:ops=1-2,modulus=0"
    golds = {p.question: p for p in load_problems(spec, 6)}

    def answers(self, asked, round):
        replies = []
        for item, _, ask in asked:
            good = f"<think>\n{item.problem.reasoning}\n</think>\n\nAnswer: {item.problem.answer}"
            bad = f"<think>\n{item.problem.reasoning}\n</think>\n\nAnswer: 77"
            replies.append([Reply(good if (item.number + k) % 2 else bad, 3, thinking=True) for k in range(ask.n)])
        return replies, Counter()
    monkeypatch.setattr("transforms.parts.teachers.Checkpoint.answer", answers)
    folder = tiny_checkpoint(tmp_path / "model", tokenizer)
    out = tmp_path / "pairs.jsonl"
    code, line, err = run_main(augment, "contrast", "--init", folder, "--data", spec, "--count", 6, "--samples", 2, "--out", out)
    assert code == 0 and line["written"] == 6 and line["verified"][0] == 0.5, err
    rows = [json.loads(text) for text in out.read_text().splitlines()]
    assert all(f"Answer: {golds[row['prompt']].answer}" in row["chosen"] and "Answer: 77" in row["rejected"] for row in rows)
    assert Pairs(str(out), tokenizer, 384).count == 6


@pytest.mark.parametrize("wrong", ["1", "0", "x"])
def test_a_pair_takes_two(wrong):
    assert "at least 2" in refusal(augment, "contrast", "--init", "x", "--data", "world:ops=1", "--out", "o", "--samples", wrong)

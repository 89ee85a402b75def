"""Labels by a vote: the most common answer, right or wrong, as a file of questions that reinforcement reads."""

from argparse import Namespace
from collections import Counter

import pytest
from helpers import write_rows

from tasks.problems import open_task
from tasks.rewards import parse_rewards, score_group
from tasks.task import Reply
from transforms import Item, vote

WORLD = "world:tiny,ops=2,split=rl"


def item(i=0):
    return Item(i, WORLD, i, "", open_task(WORLD).problem(i))


def replies(*answers):
    return [Reply("owls 1 + 1 = lions 2\n" + (f"Answer: {a}" if a is not None else "no idea")) for a in answers]


def kept(problem, answers, only="all"):
    return vote.keep(problem, [replies(*answers)], Namespace(only=only))


def test_the_most_common_answer_is_the_label_whatever_is_true():
    asked = item()
    gold = int(asked.problem.answer)
    (row,), dropped = kept(asked, [gold, gold + 1, None, gold + 1, gold + 1])
    assert (row["question"], row["answer"]) == (asked.problem.question, str(gold + 1)) and dropped == Counter()
    assert row["meta"] == {"votes": 3, "of": 5, "right": False}
    (row,), _ = kept(asked, [gold, gold + 1])                             # equally common: the first
    assert row["answer"] == str(gold) and row["meta"]["right"]
    assert kept(asked, [None, None]) == ([], Counter(no_answer=1))


@pytest.mark.parametrize("only, labels", [("all", [0, 1]), ("right", [0]), ("wrong", [1])])
def test_which_labels_are_kept(only, labels):
    found = [kept(item(i), [int(item(i).problem.answer) + i] * 3, only) for i in (0, 1)]
    assert [i for i, (rows, _) in enumerate(found) if rows] == labels
    assert sum(sum(dropped.values()) for _, dropped in found) == 2 - len(labels)


def test_reinforcement_on_the_rows_pays_what_agrees_with_the_label(tmp_path):
    """Through the file: the same prompt as the world's, and the reward follows the label, not the truth."""
    asked = item()
    gold = int(asked.problem.answer)
    rows, _ = kept(asked, [gold + 1] * 3)
    task = open_task(str(write_rows(tmp_path / "labels.jsonl", rows)))
    problem = task.problem(0)
    assert task.prompt(problem, "plain") == asked.problem.task.prompt(asked.problem, "plain")
    scores = score_group(problem, replies(gold, gold + 1, None), parse_rewards("answer"))
    assert [s.reward for s in scores] == [0, 1, 0]


def test_what_is_counted():
    args = Namespace(only="all")
    counts = Counter()
    for i, wrong in enumerate((0, 0, 1)):
        gold = int(item(i).problem.answer)
        counts += vote.tally(item(i), [replies(gold + wrong, gold + wrong, gold + 5, None)], args)
    found = vote.summary(counts, args)
    assert found["labels_right"][0] == pytest.approx(2 / 3, abs=1e-4) and found["agreement"] == 0.5

"""RFT: right answers by right steps, one for each list of steps."""

import random
from argparse import Namespace
from collections import Counter

import pytest

from tasks.problems import load_problems
from tasks.task import Problem, Reply
from transforms import Item, rft

ARGS = Namespace(plain=False, mode="", samples=9, keep=0)
QUESTION = Problem("How many clips?", "72")


def item_of(problem):
    return Item(0, problem.source, 0, "", problem)


def kept(problem, texts, **more):
    rows, dropped = rft.keep(item_of(problem), [[Reply(text) for text in texts]], Namespace(**{**vars(ARGS), **more}))
    return [row["messages"][-1] for row in rows], dropped


def slow_distance(a, b):
    """Levenshtein's table, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        left = row
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(left[j] + 1, row[-1] + 1, left[j - 1] + (x != y)))
    return row[-1]


def test_the_edit_distance():
    assert rft.edit_distance("kitten", "sitting") == 3 and rft.edit_distance("", "abc") == rft.edit_distance("abc", "") == 3
    rng = random.Random(0)
    for _ in range(300):
        a, b = ("".join(rng.choices("abc ", k=rng.randrange(90))) for _ in range(2))
        assert rft.edit_distance(a, b) == slow_distance(a, b) == rft.edit_distance(b, a)


def test_one_of_each_list_of_steps_on_questions():
    texts = ["48 / 2 = 24 in May. 48 + 24 = 72 together.\n#### 72",
             "In May she sold 48/2 = 24. In all 48+24 = 72.\n#### 72",                    # the same list, another text
             "48 + 24 = 72, as 48 / 2 = 24.\n#### 72",                                    # another order
             "48 * 3 = 144 and 144 / 2 = 72.\n#### 72",
             "48 / 2 = 24 and 48 + 24 = 73.\n#### 73",                                    # wrong answer
             "48 / 2 = 25 and 48 + 24 = 72.\n#### 72",                                    # right answer, wrong step
             "48 / 2 = 24 in May. 48 + 24 = 72 together.\n#### 72"]                       # the same text
    turns, dropped = kept(QUESTION, texts)
    assert dropped == Counter(wrong=1, wrong_steps=1, same_steps=2)
    assert [t["content"] for t in turns] == [texts[0], texts[2], texts[3]]


def test_the_more_distant_text_takes_the_place():
    near = "48/2 = 24 and 48+24 = 72.\n#### 72"
    far = "Let us see how it went in spring: 48/2 = 24 of them, and so altogether 48+24 = 72 of them were sold.\n#### 72"
    other = "48+24 = 72 and 48/2 = 24.\n#### 72"
    assert [t["content"] for t in kept(QUESTION, [near, other, far])[0]] == [far, other]
    assert [t["content"] for t in kept(QUESTION, [far, other, near])[0]] == [far, other]
    # an independent choice over random texts, as the paper's code makes it: one by one, against what is held for the other lists
    rng = random.Random(1)
    for _ in range(30):
        paths = [([str(rng.randrange(3))], "".join(rng.choices("ab", k=rng.randrange(12)))) for _ in range(10)]
        held = {}
        for steps, text in paths:
            rest = [t for key, t in held.items() if key != steps[0]]
            old = held.get(steps[0])
            if old is None or sum(slow_distance(text, t) for t in rest) > sum(slow_distance(old, t) for t in rest):
                held[steps[0]] = text
        assert [paths[i][1] for i in rft.distinct(paths)] == list(held.values())


def test_one_of_each_list_of_steps_on_the_world():
    problem = load_problems("world:ops=3,branch=0,seed=4", 1)[0]
    lines, answer = problem.reasoning.split("\n"), f"Answer: {problem.answer}"

    def text(lines, answer=answer):
        return "<think>\n" + "\n".join(lines) + f"\n</think>\n\n{answer}"
    wrong = [lines[0].rpartition(" ")[0] + " 77", *lines[1:]]
    commented = ["We begin.", lines[0] + ".", *lines[1:]]
    turned = [lines[1], lines[0], lines[2]]
    turns, dropped = kept(problem, [text(lines), text(commented), text(turned), text(wrong), text(lines, "Answer: 77"), text([]),
                                    text(lines[1:])])
    assert dropped == Counter(same_steps=1, wrong_steps=3, wrong=1)
    assert [t["reasoning"] for t in turns] == ["\n".join(lines), "\n".join(turned)]
    assert all(t["content"] == answer for t in turns)


def test_what_cannot_be_used_and_what_is_too_many():
    replies = [Reply("48 + 24 = 72\n#### 72", finish="length"), Reply(""), Reply("24 * 3 = 72\n#### 72"),
               Reply("144 / 2 = 72\n#### 72")]
    rows, dropped = rft.keep(item_of(QUESTION), [replies], Namespace(**{**vars(ARGS), "keep": 1}))
    assert len(rows) == 1 and dropped == Counter(cut_off_or_empty=2, beyond_keep=1)
    # without an equation there is one path, the answer
    assert kept(QUESTION, ["It is 72.", "So they are 72."])[1] == Counter(same_steps=1)


@pytest.mark.parametrize("mode", ["", "think"])
def test_a_row_asks_the_question_as_it_was_asked(mode):
    [row], _ = rft.keep(item_of(QUESTION), [[Reply("24 * 3 = 72\n#### 72")]], Namespace(**{**vars(ARGS), "mode": mode}))
    [question] = rft.ask(item_of(QUESTION), Namespace(**{**vars(ARGS), "mode": mode}), random.Random(0))
    assert question.prompt == row["messages"][:-1] and question.n == 9


def test_what_is_counted():
    problem_texts = [Reply("24 * 3 = 72\n#### 72"), Reply("#### 71"), Reply("24 * 3 = 71, so 72\n#### 72")]
    counts = rft.tally(item_of(QUESTION), [problem_texts], ARGS) + rft.keep(item_of(QUESTION), [problem_texts], ARGS)[1]
    found = rft.summary(counts, ARGS)
    assert (found["paths_per_question"], found["wrong_steps"], found["verified"][0]) == (1.0, 1, 0.6667)

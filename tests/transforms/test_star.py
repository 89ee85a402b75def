"""STaR: who is asked again, what is kept, and that no saved row lets it show that there was a hint."""

import json
import random
from argparse import Namespace
from collections import Counter

import pytest

from tasks.problems import load_problems
from tasks.task import Problem, Reply
from transforms import Item, star

QUESTION = Problem("Ann has 3 pens and buys 4. How many pens has she?", "7")
WORDINGS = ["{question}\n\nHint: {answer}", "{question} ({answer})", "{answer} is what comes out.\n{question}",
            "{question}\nThe solution is known to be {answer}; explain how one gets there step by step.",
            "Explain why {answer} is the right answer to this:\n{question}", "{question} [secret: {answer}]"]


def args(**more):
    a = Namespace(**{"plain": False, "mode": "", "samples": 1, "prompt": "", "no_hints": False} | more)
    star.check(a)
    return a


def item_of(problem):
    return Item(0, problem.source, 0, "", problem)


def hinted_with(tmp_path, words):
    path = tmp_path / "hint.txt"
    path.write_text(words)
    return args(prompt=str(path))


def test_only_questions_that_failed_are_asked_again():
    item, rng = item_of(QUESTION), random.Random(0)
    [first] = star.ask(item, args(), rng)
    assert first.prompt == [{"role": "user", "content": QUESTION.question}]
    assert star.ask_again(item, [[Reply("3 + 4 = 7\n#### 7")]], args(), rng) == []
    [again] = star.ask_again(item, [[Reply("3 + 4 = 8\n#### 8")]], args(), rng)
    assert QUESTION.question in again.prompt[0]["content"] and "7" in again.prompt[0]["content"].replace(QUESTION.question, "")
    assert star.ask_again(item, [[Reply("3 + 4 = 8\n#### 8")]], args(no_hints=True), rng) == []
    # one that was cut off has failed as well; of several samples one that is right is enough
    assert star.ask_again(item, [[Reply("#### 7", finish="length")]], args(), rng) != []
    assert star.ask_again(item, [[Reply("#### 8"), Reply("#### 7")]], args(samples=2), rng) == []


def test_the_plain_hint_is_the_papers_form():
    problem = load_problems("world:ops=2", 1)[0]
    [again] = star.ask_again(item_of(problem), [[Reply("Answer: 55")]], args(plain=True), random.Random(0))
    assert again.prompt == f"{problem.question} ({problem.answer})\n"


def test_what_agrees_with_the_truth_is_kept():
    right, wrong = Reply("3 + 4 = 7\n#### 7"), Reply("3 + 4 = 8\n#### 8")
    rows, dropped = star.keep(item_of(QUESTION), [[wrong, right, Reply("4 + 3 = 7\n#### 7")]], args(samples=3))
    assert [r["messages"][-1]["content"] for r in rows] == [right.text] and rows[0]["meta"] == {"hinted": False}
    assert dropped == Counter(wrong=1, beyond_one=1)
    rows, dropped = star.keep(item_of(QUESTION), [[wrong], [wrong]], args())
    assert not rows and dropped == Counter(wrong=1, wrong_with_hint=1)


@pytest.mark.parametrize("words", WORDINGS)
def test_a_rationalised_row_is_saved_without_the_hint(tmp_path, words):
    """In any wording: the saved question is the bare one, and an answer that copies from the hint, or speaks of it, is
    dropped."""
    a, item, wrong = hinted_with(tmp_path, words), item_of(QUESTION), [Reply("#### 8")]
    [again] = star.ask_again(item, [wrong], a, random.Random(0))
    hint = words.replace("{question}", "").replace("{answer}", "7").strip()
    assert hint.split("\n")[0] in again.prompt[0]["content"]
    [row], dropped = star.keep(item, [wrong, [Reply("She has 3 + 4 = 7 pens.\n#### 7")]], a)
    assert row == {"messages": [{"role": "user", "content": QUESTION.question},
                                {"role": "assistant", "content": "She has 3 + 4 = 7 pens.\n#### 7"}], "meta": {"hinted": True}}
    assert dropped == Counter(wrong=1)
    leaks = [f"{hint}\nShe has 3 + 4 = 7 pens.\n#### 7", "The hint says 7, and 3 + 4 = 7.\n#### 7",
             "We were told that the answer is 7: 3 + 4 = 7.\n#### 7", "3 + 4 = 7, which matches the given answer.\n#### 7",
             "Since the answer is already known, 3 + 4 = 7.\n#### 7", f"<think>\n{hint} So 3 + 4 = 7.\n</think>\n\n#### 7"]
    for leak in leaks:
        rows, dropped = star.keep(item, [wrong, [Reply(leak)]], a)
        assert not rows and dropped == Counter(wrong=1, tells_of_hint=1), leak
        assert json.dumps(rows) == "[]"


def test_a_run_of_the_hints_own_words_is_a_leak(tmp_path):
    a, wrong = hinted_with(tmp_path, WORDINGS[3]), [Reply("#### 8")]
    copied = Reply("This is how one gets there step by step: 3 + 4 = 7.\n#### 7")
    assert star.keep(item_of(QUESTION), [wrong, [copied]], a)[1] == Counter(wrong=1, tells_of_hint=1)
    # three of its words are not enough; and what the question says too does not count
    assert len(star.keep(item_of(QUESTION), [wrong, [Reply("Step by step, one gets 3 + 4 = 7.\n#### 7")]], a)[0]) == 1
    asked = Problem("Explain how one gets there step by step: how much is 3 + 4?", "7")
    assert len(star.keep(item_of(asked), [wrong, [copied]], a)[0]) == 1


@pytest.mark.parametrize("question, text", [
    ("A game gives 2 hints a round. How many hints in 3 rounds?", "There are 2 hints a round, so 2 * 3 = 6 hints.\n#### 6"),
    ("The given answer on the card is half of 12. What is it?", "The given answer is half of 12, so 12 / 2 = 6.\n#### 6"),
    ("Ann has 2 pens and gets 4. How many?", "Given that she has 2 pens, 2 + 4 = 6. The answer is 6."),
    ("Ann has 2 pens and gets 4. How many?", "We know that 2 + 4 = 6, so the answer is (6).\n#### 6")])
def test_answers_that_only_look_like_a_leak_stay(question, text):
    problem = Problem(question, "6")
    rows, dropped = star.keep(item_of(problem), [[Reply("#### 1")], [Reply(text)]], args())
    assert len(rows) == 1, dropped


def test_on_the_world_a_rationalised_answer_needs_right_steps():
    problem = load_problems("world:ops=3,seed=2", 1)[0]
    item, a = item_of(problem), args(plain=True)
    wrong, right = [Reply("Answer: 55")], Reply(problem.solution)
    bare = Reply(f"Answer: {problem.answer}")
    assert star.keep(item, [wrong, [bare]], a)[1] == Counter(wrong=1, wrong_with_hint=1)
    [row], _ = star.keep(item, [wrong, [right]], a)
    assert row["messages"] == [{"role": "user", "content": problem.question},
                               {"role": "assistant", "content": f"Answer: {problem.answer}", "reasoning": problem.reasoning}]


def test_what_is_counted():
    item, counts = item_of(QUESTION), Counter()
    right, wrong, leak = [Reply("3 + 4 = 7\n#### 7")], [Reply("#### 8")], [Reply("The hint says 7\n#### 7")]
    for answers in ([right], [wrong, right], [wrong, wrong], [wrong, leak]):
        counts += star.tally(item, answers, args()) + star.keep(item, answers, args())[1]
    found = star.summary(counts, args())
    assert found["solved"][0] == 0.25 and found["solved_with_hint"][0] == round(2 / 3, 4)
    assert (found["rationalised"], found["tells_of_hint"]) == (1, 1)


@pytest.mark.parametrize("words, missing", [("{question}", "{answer}"), ("{answer}", "{question}"),
                                            ("{question} {answer} {answer}", "{answer}")])
def test_a_hint_needs_its_places(tmp_path, words, missing):
    with pytest.raises(ValueError, match="must have"):
        hinted_with(tmp_path, words)

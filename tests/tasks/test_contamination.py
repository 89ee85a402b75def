"""The probe for contamination, against its definitions."""

import argparse
import itertools
import json
import random
from types import SimpleNamespace
from unittest import mock

import pytest

from measuring import questions
from tasks.contamination import cut, exact, probe, probe_all, rouge_l, shares, shown
from tasks.problems import open_task
from tasks.task import Problem, Reply
from tasks.world import World


def test_rouge_l_is_the_longest_common_subsequence():
    """Against all subsequences of short texts."""
    rng = random.Random(0)
    for _ in range(60):
        a, b = ([rng.choice("abc") for _ in range(rng.randint(1, 6))] for _ in range(2))
        a = a[:len(b)]
        both = {s for n in range(len(a) + 1) for s in itertools.combinations(a, n)} & {
            s for n in range(len(b) + 1) for s in itertools.combinations(b, n)}
        longest = max(map(len, both))
        recall, precision = longest / len(b), longest / len(a)
        f1 = 2 * precision * recall / (precision + recall) if longest else 0
        assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(f1)


def test_as_many_words_count_as_the_rest_has():
    assert rouge_l("How many are LEFT? Then much more.", "how many are left?") == 1.0
    assert rouge_l("Then how many are left?", "how many are left?") == pytest.approx(6 / 8) and rouge_l("", "how many") == 0
    assert exact(" how  many are\nleft? And so on", " how many are left?")
    assert not exact("how many are left", "how many are left?") and not exact("", "left?")
    assert not exact("how many", "how many are")


def test_cut_by_words():
    question = "Tom has 3 nuts.\nHe eats one. How many are left?"                    # 11 words
    for share, words in ((0.4, 4), (0.6, 7), (0.8, 9), (0.01, 1), (0.99, 10)):
        first, rest = cut(question, share)
        assert first + rest == question and len(first.split()) == words and not first[-1].isspace()
    with pytest.raises(ValueError, match="fewer than two words"):
        cut("Why?", 0.5)
    assert shares("0.4,0.6") == [0.4, 0.6]


def test_a_model_that_knows_the_questions_and_one_that_does_not():
    world = World.from_spec("world:ops=2,split=test")
    problems = [world.problem(i) for i in range(12)]
    asked = []

    def knows(prompts, stops):
        asked.append((prompts, tuple(stops)))
        whole = [next(p for p in problems if p.question.startswith(prompt)) for prompt in prompts]
        rests = [p.question[len(prompt):] for p, prompt in zip(whole, prompts)]
        return [[Reply(f"{rest}\n{p.solution}\nQuestion: next? Answer: 77")] for p, rest in zip(whole, rests)]
    found = probe(problems, [0.4, 0.8], knows)
    assert [(r["share"], r["problems"]) for r in found] == [(0.4, 12), (0.8, 12)]
    assert all(r["rouge_l"] == r["exact"] == r["answer"] == (1, 1, 1) for r in found)
    assert asked[0] == ([cut(p.question, 0.4)[0] for p in problems], ("\nQuestion:",))
    [row] = probe(problems, [0.6], lambda prompts, stops: [[Reply(" I do not know.")] for _ in prompts])
    assert row["rouge_l"][0] == row["exact"][0] == row["answer"][0] == 0

    def half(prompts, stops):
        return [each if i % 2 else [Reply("no")] for i, each in enumerate(knows(prompts, stops))]
    [row] = probe(problems, [0.6], half)
    assert row["exact"][0] == row["answer"][0] == 0.5 and row["exact"][1] < 0.5 < row["exact"][2]


def test_a_problem_without_a_task_is_graded_by_its_final_answer():
    [row] = probe([Problem("What is 2 + 2?", "4")], [0.5], lambda prompts, stops: [[Reply(" 2? The answer is 4.")]])
    assert row["answer"][0] == 1 and row["exact"][0] == 0 and row["rouge_l"][0] == 0.5


def test_as_many_questions_are_cut_as_are_asked():
    """Of worlds and needles so many as --problems says, of every other task so many as --limit does, also if it is endless."""
    args = argparse.Namespace(problems=5, limit=3, seed=0, contamination=[0.5], max_new_tokens=8, rows=4)
    tasks = {spec: open_task(spec) for spec in ("world:ops=1", "needle:length=64", "instructions:ops=1")}
    found = probe_all(tasks, lambda prompts, limits, **how: [[Reply("no")] for _ in prompts], args)
    assert [found[f"contamination:{spec}"]["rows"][0]["problems"] for spec in tasks] == [5, 5, 3]


def test_the_questions_that_are_cut_are_those_that_are_asked(tmp_path):
    file, asked = tmp_path / "q.jsonl", []
    rows = [{"question": f"What is {i} and {i}?", "answer": f"#### {2 * i}"} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = argparse.Namespace(limit=4, seed=3, contamination=[0.5], shots=2)
    cut_ones = [p.question for p in shown(str(file), open_task(str(file)), args)]
    with mock.patch.object(questions, "replies_to", lambda m, t, prompts, *_, **how: [[Reply("no")] for _ in prompts]):
        model = SimpleNamespace(head=SimpleNamespace(device="cpu"))
        questions.file_accuracy(model, None, str(file), limit=4, shots=2, seed=3, chat=True,
                                on_answer=lambda problem, text, right: asked.append(problem.question))
    assert asked == cut_ones and len(set(asked)) == 4 and not {"What is 0 and 0?", "What is 1 and 1?"} & set(asked)

"""The loaders of questions, and prompts; the answer check has tests of its own (test_answers.py)."""
import gzip
import json

import pytest
from conftest import real_file

from tasks.answers import check_answer
from tasks.problems import load_problems
from tasks.questions import format_question
from tasks.task import Problem


def test_no_calculator_annotation_is_left():
    items = load_problems(str(real_file("gsm8k/test.jsonl")))
    assert items[0].answer == "18" and items[0].solution.startswith("Janet sells 16 - 3 - 4 = 9 duck eggs a day.\n")
    assert not any("<<" in item.solution or "," in item.answer for item in items)


def write(path, *records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return str(path)


def test_load_the_three_forms(tmp_path):
    gsm, math, plain = load_problems(write(
        tmp_path / "mixed.jsonl",
        {"question": "How many?", "answer": "It is 2*600=<<2*600=1200>>1,200.\n#### 1,200"},
        {"problem": "What?", "solution": r"Easily $\boxed{\frac{1}{2}}$."}, "",
        {"question": "Which?", "answer": 7}))
    assert (gsm.question, gsm.answer, gsm.solution) == ("How many?", "1200", "It is 2*600=1,200.\n#### 1,200")
    assert (math.question, math.answer, math.solution) == ("What?", r"\frac{1}{2}", r"Easily $\boxed{\frac{1}{2}}$.")
    assert (plain.question, plain.answer, plain.solution) == ("Which?", "7", "")
    assert plain.source.endswith("mixed.jsonl")


def test_columns_of_public_data_sets_and_long_numbers(tmp_path):
    long, rated = load_problems(write(
        tmp_path / "a.jsonl", {"question": "How many?", "answer": 10 ** 400, "solution": ""},
        {"problem": "What?", "answer": "4", "problem_type": "Algebra", "domain": ["Maths"], "year": "2024", "solve_rate": 0.5,
         "messages": [], "data_source": "x", "extra_info": {"split": "train"}}))
    assert long.answer == "1" + 400 * "0" and (rated.question, rated.answer) == ("What?", "4")


def test_load_gzip(tmp_path):
    path = tmp_path / "some.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"question": "q", "answer": "1"}\n')
    assert [p.answer for p in load_problems(str(path))] == ["1"]
    path.write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"some\.jsonl\.gz, after line 0: cannot be read"):
        load_problems(str(path))


def test_limit_is_a_seeded_sample_without_replacement(tmp_path):
    path = write(tmp_path / "many.jsonl", *({"question": f"q{i}", "answer": str(i)} for i in range(100)))
    drawn = [[p.answer for p in load_problems(path, limit=20, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert [p.answer for p in load_problems(path, limit=1000)] == [str(i) for i in range(100)]
    with pytest.raises(ValueError, match="limit must be at least 1; got 0"):
        load_problems(path, limit=0)


GOOD = {"question": "q", "answer": "1"}


@pytest.mark.parametrize("lines, message", [
    ([], r"bad\.jsonl: the file is empty"),
    (["", ""], r"bad\.jsonl: no problems"),
    ([GOOD, '{"question": '], r"bad\.jsonl, line 2: not valid JSON"),
    ([GOOD, "", "[1]"], r"bad\.jsonl, line 3: expected a JSON object, got list"),
    ([{"answer": "1"}], r"bad\.jsonl, line 1: no field 'question'"),
    ([GOOD, {"question": "q"}], r"bad\.jsonl, line 2: no field 'answer'"),
    ([{"problem": "q", "solution": "none"}], r"bad\.jsonl, line 1: no field 'answer'"),
    ([{"question": "q", "answer": "working\n#### "}], r"bad\.jsonl, line 1: the answer is empty"),
])
def test_bad_files(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message) as error:
        load_problems(write(tmp_path / "bad.jsonl", *lines))
    assert "\n" not in str(error.value)


def test_missing_and_undecodable_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.jsonl: no such file"):
        load_problems(str(tmp_path / "absent.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "caf\xe9", "answer": "1"}\n')
    with pytest.raises(ValueError, match=r"latin\.jsonl, after line 0: cannot be read"):
        load_problems(str(tmp_path / "latin.jsonl"))


def test_world_problems():
    items = load_problems("world:ops=2,contexts=zoo,split=test", limit=5)
    assert len(items) == 5 and {item.ops for item in items} == {2} and {item.context for item in items} == {"zoo"}
    for item in items:
        assert check_answer(item.solution, item.answer)
        verdict = item.task.verify(item, item.solution)
        assert verdict.answer_ok and verdict.process_ok
    assert items == load_problems("world:ops=2,contexts=zoo,split=test", limit=5)
    with pytest.raises(ValueError, match="a world is endless; set a limit"):
        load_problems("world:ops=2")


def test_format_question():
    asked = Problem("How many? ", "3", "unused")
    assert format_question(asked) == "Question: How many?\nAnswer:"
    shots = [Problem("One?", "1", "It is 1.\n#### 1"), Problem("Two?", "2"), Problem("Four?", "4", "Twice two."),
             Problem("Half?", "0.5", r"So \boxed{0.5}."), Problem("Lions?", "7", "lions = 3 + 4 = 7\nAnswer: 7")]
    assert format_question(asked, shots) == (
        "Question: One?\nAnswer: It is 1.\n#### 1\n\n"
        "Question: Two?\nAnswer: #### 2\n\n"
        "Question: Four?\nAnswer: Twice two.\n#### 4\n\n"
        "Question: Half?\nAnswer: So \\boxed{0.5}.\n\n"
        "Question: Lions?\nAnswer: lions = 3 + 4 = 7\nAnswer: 7\n\n"
        "Question: How many?\nAnswer:")

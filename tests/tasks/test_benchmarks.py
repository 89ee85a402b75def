"""The thirteen benchmarks: a row of each by hand, in every form that its files have; prompts, checks and scores."""

import json
import re

import pytest
from conftest import real_file, script
from helpers import refusal, write_rows

import evaluate
from sampler import Completion, Sampler
from tasks.benchmarks import ask, read
from tasks.benchmarks.checks import check_choice, check_near
from tasks.benchmarks.entries import BENCHMARKS
from tasks.benchmarks.read import choices_in, open_benchmark, split_choices
from tasks.benchmarks.score import chosen, print_scores, score
from tasks.benchmarks.shots import SHOTS
from tasks.task import Reply

# {benchmark: [(row, question, answer, choices)]}. Each row has the fields of a public file; the texts are made up.
ROWS = {
    "amc23": [({"id": 3, "answer": "27", "question": "What is $3^3$?", "url": "https://x"}, "What is $3^3$?", "27", ()),
              ({"id": 3, "problem": "What is $3^3$?", "answer": 27.0, "url": "u", "question": "What is $3^3$?"},
               "What is $3^3$?", "27", ())],
    "asdiv": [({"body": "There are two pens and five caps", "question": "How many things are there?", "formula": "2+5=7",
                "solution_type": "Addition", "answer": "7 (things)", "idx": 0},
               "There are two pens and five caps. How many things are there?", "7", ()),
              ({"body": "Ann has 3 nuts.", "question": "Who has nuts?", "solution_type": "", "answer": "Ann", "formula": ""},
               "Ann has 3 nuts. Who has nuts?", "Ann", ())],
    "gsm8k": [({"question": "How much?", "answer": "It is 2*600=<<2*600=1200>>1,200.\n#### 1,200"}, "How much?", "1200", ()),
              ({"question": "How much?", "answer": "-7", "cot": "3-10=-7", "id": "x"}, "How much?", "-7", ())],
    "math500": [({"problem": "Halve $1$.", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "answer": "\\frac{1}{2}", "level": 2,
                  "subject": "Algebra", "unique_id": "test/1.json"}, "Halve $1$.", "\\frac{1}{2}", ())],
    "math": [({"problem": "Halve $1$.", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
              "Halve $1$.", "\\frac{1}{2}", ())],
    "sat_math": [({"id": "0", "question": "What is $2^3$?", "options": "A) 6 B) $8$ C) 9 D) 23", "Answer": "B"},
                  "What is $2^3$?", "B", ("6", "$8$", "9", "23")),
                 ({"Question": "What is $2^3$?", "Possible Answers": "A. 6 B. 8 C. 9, or less D. 23", "Answer": "B"},
                  "What is $2^3$?", "B", ("6", "8", "9, or less", "23"))],
    "mathqa": [({"Problem": "what is 3 / 4 of 8 ?", "Rationale": "8 * 3 / 4 = 6 answer c", "correct": "c",
                 "options": "a ) 2 , b ) 4 , c ) 6 , d ) 8 , e ) none", "annotated_formula": "f", "linear_formula": "f",
                 "category": "general"}, "what is 3 / 4 of 8 ?", "C", ("2", "4", "6", "8", "none")),
               ({"problem": "what is 3 / 4 of 8 m ?", "rationale": "r", "options": "['a ) 2 m', 'b ) 6 m']", "correct": "b",
                 "annotated_formula": "f", "linear_formula": "f", "type": "gain"},
                "what is 3 / 4 of 8 m ?", "B", ("2 m", "6 m")),
               ({"problem": "p", "options": "a ) a ) 6 , b ) b ) 8", "correct": "a"}, "p", "A", ("6", "8"))],
    "mawps": [({"input": "Joe had 3 and lost 1.", "target": 2.0, "type": "singleop", "idx": 1}, "Joe had 3 and lost 1.", "2", ()),
              ({"question": "Share 2 among 3.", "answer": "2/3\n#### 0.6666666667"}, "Share 2 among 3.", "0.6666666667", ())],
    "mmlu_stem": [({"question": "Which is a gas?", "choices": ["iron", "helium", "salt", "tin"], "subject": "college_chemistry",
                    "answer": 1}, "Which is a gas?", "B", ("iron", "helium", "salt", "tin")),
                  ({"question": "Which is a gas?", "options": ["iron", "helium"], "answer": "B", "topic": "astronomy", "id": 0},
                   "Which is a gas?", "B", ("iron", "helium"))],
    "ocw": [({"problem": "Find $E$.", "solution": "So $E=\\boxed{4.5e33}$ ergs.", "type": "Astronomy", "idx": 1}, "Find $E$.",
             "4.5e33", ()),
            ({"question": "Find the angle.", "answer": "np.arcsin(10/13)"}, "Find the angle.", "arcsin(10/13)", ())],
    "olympiadbench": [({"id": 1, "subfield": "Algebra", "context": None, "question": "Solve.", "solution": ["Long."],
                        "final_answer": ["$2$,$-1$."], "is_multiple_answer": True, "unit": None, "answer_type": "Numerical",
                        "error": None}, "Solve.", "$2$,$-1$", ()),
                      ({"context": "Let $x=1$.", "question": "Measure it.", "final_answer": ["4.2"], "unit": "%", "error": "1e-1",
                        "solution": [], "difficulty": "c", "language": "English", "modality": "Text-only"},
                       "Let $x=1$.\nMeasure it.", "4.2", ())],
    "svamp": [({"ID": "chal-1", "Body": "Eva has 9 keys", "Question": "How many has she after losing 4?", "Answer": 5.0,
                "Equation": "( 9.0 - 4.0 )", "Type": "Subtraction", "question_concat": "x"},
               "Eva has 9 keys. How many has she after losing 4?", "5", ())],
    "tabmwp": [({"question": "Which day has more?", "choices": ["Monday", "Friday"], "answer": "Friday", "unit": None,
                 "table_title": "Visitors", "table": "Day | Number\nMonday | 3\nFriday | 8", "table_for_pd": {"Day": ["Monday"]},
                 "row_num": 3, "column_num": 2, "solution": "8 is more than 3.", "ques_type": "multi_choice",
                 "ans_type": "extractive_text", "grade": 2, "split": "test"},
                "Table: Visitors\nDay | Number\nMonday | 3\nFriday | 8\nWhich day has more?", "B", ("Monday", "Friday")),
               ({"question": "What is the price?", "choices": None, "answer": "1,002.50", "unit": "$", "table_title": None,
                 "table": "a | b\nc | d", "row_num": 2, "column_num": 2, "solution": "s"},
                "Table:\na | b\nc | d\nWhat is the price? (in $)", "1,002.50", ())],
}


def one(name, row, tmp_path):
    """The task of a benchmark whose file has this row."""
    (tmp_path / name).mkdir(exist_ok=True)
    write_rows(tmp_path / name / "test.jsonl", [row])
    return open_benchmark(name, str(tmp_path))


def reply(task, text):
    return task.grade(task.problem(0), Reply(text)).right


def test_there_are_thirteen_and_every_one_has_a_row():
    assert len(BENCHMARKS) == 13 and set(ROWS) == set(BENCHMARKS)
    assert len({b.title for b in BENCHMARKS.values()}) == 13 and all("/" in b.hub for b in BENCHMARKS.values())


@pytest.mark.parametrize("name, row, question, answer, choices", [(name, *case) for name in ROWS for case in ROWS[name]])
def test_a_row_is_read_and_its_answer_is_right(name, row, question, answer, choices, tmp_path):
    task = one(name, row, tmp_path)
    [problem] = task.problems
    assert (problem.question, problem.answer, problem.choices) == (question, answer, choices)
    assert task.source == str(tmp_path / name / "test.jsonl") and task.count == 1 and task.skipped == 0
    said = f"({answer})" if choices else answer
    assert reply(task, f"So we see. The answer is {said}.") and reply(task, f"Hence $\\boxed{{{answer}}}$.")
    assert not reply(task, "The answer is 123456.") and not reply(task, "\\boxed{J}") and not reply(task, "")


def test_rows_that_are_no_question_are_left_out_and_counted(tmp_path):
    for name, row in (("asdiv", {"body": "b", "question": "q", "answer": "3 (m); 4 (n)"}),
                      ("mmlu_stem", {"question": "q", "choices": ["a", "b"], "answer": 0, "subject": "world_religions"})):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "test.jsonl", [row, ROWS[name][0][0]])
        task = open_benchmark(name, str(tmp_path))
        assert (task.count, task.skipped) == (1, 1) and task.problem(0).answer == ROWS[name][0][2]


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refused(name, row):
        with pytest.raises(ValueError) as error:
            one(name, row, tmp_path)
        assert "\n" not in str(error.value)
        return str(error.value)
    assert "line 1: no question of SVAMP: the field \"question\" is missing" in refused("svamp", {"Body": "b", "Answer": 1})
    assert 'no answer: the field "answer" is missing, and no \\boxed{} is in the solution' in refused("math", {"problem": "p"})
    assert 'the key "hint" has no meaning in a question of GSM8K' in refused("gsm8k", {"question": "q", "answer": "1",
                                                                                       "hint": "h"})
    assert "the answer '5' is none of the 2 choices" in refused("mmlu_stem", {"question": "q", "choices": ["x", "y"],
                                                                              "answer": 5})
    assert "have no letters A), B)" in refused("sat_math", {"question": "q", "options": "6 or 8", "answer": "A"})
    assert "choice B is empty" in refused("mmlu_stem", {"question": "q", "choices": ["x", ""], "answer": 0})
    assert "'question' and 'problem' differ" in refused("amc23", {"question": "q", "problem": "p", "answer": 1})
    assert '"answer" stands there twice' in refused("svamp", {"Answer": 1, "answer": 2, "question": "q"})
    assert "must be text or a number; it is True" in refused("mawps", {"input": "q", "target": True})
    assert "expected a JSON object, got list" in refused("mawps", [1])
    refusals = ["must be a number of at least 0; it is '0.1,0.2'", "must be a number of at least 0; it is 'nan'"]
    for margin, why in zip(("0.1,0.2", "nan"), refusals, strict=True):
        assert f'line 1: "error" {why}' in refused("olympiadbench", {"question": "q", "final_answer": ["4"], "error": margin})
    assert """line 1: the choices "['it's a" are no list""" in refused("mathqa", {"problem": "p", "options": "['it's a",
                                                                                  "correct": "a"})
    with pytest.raises(ValueError, match='^here: "target" must be text or a number; it is inf'):
        read.as_text(float("inf"), "here", "target")
    assert "has no question of ASDiv" in refused("asdiv", {"body": "b", "question": "q", "answer": "1; 2"})
    monkeypatch.setenv("NANOTHINK_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=r"no ocw/test\.jsonl .* in .*data or .*--benchmark-data FOLDER, or "
                                                r"--benchmark-data hub for hf:math-ai/minervamath"):
        open_benchmark("ocw")


def test_files_are_found_under_the_names_they_go_by(tmp_path, monkeypatch):
    row = ROWS["ocw"][0][0]
    for file in ("ocw/test.jsonl", "minerva_math/test.jsonl", "ocw.jsonl"):
        folder = tmp_path / file.replace("/", "_")
        (folder / file).parent.mkdir(parents=True)
        write_rows(folder / file, [row])
        assert open_benchmark("ocw", str(folder)).source == str(folder / file)
    monkeypatch.setenv("NANOTHINK_DATA", str(tmp_path / "ocw.jsonl"))
    assert open_benchmark("ocw").problem(0).answer == "4.5e33"


def test_rows_of_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, **options: asked.append((path, options)) or iter(
        [ROWS[name][0][0] for name in BENCHMARKS if BENCHMARKS[name].hub.startswith(path)]))
    for name in ("gsm8k", "asdiv", "olympiadbench", "svamp"):
        task = open_benchmark(name, "hub")
        assert task.problem(0).answer == ROWS[name][0][2] and task.source == f"hf:{BENCHMARKS[name].hub}"
    assert asked == [
        ("openai/gsm8k", {"split": "test", "streaming": True, "name": "main"}),
        ("EleutherAI/asdiv", {"split": "validation", "streaming": True, "revision": "refs/convert/parquet"}),
        ("Hothan/OlympiadBench", {"split": "train", "streaming": True, "name": "OE_TO_maths_en_COMP"}),
        ("ChilleD/SVAMP", {"split": "test", "streaming": True})]


def test_choices_are_split_where_their_letters_follow_each_other():
    assert split_choices("A) f(x) B) see A) C) 4. D) x") == ["A) f(x)", "B) see A)", "C) 4.", "D) x"]
    assert choices_in("(A) 1 (B) 2, 3 (C) 4", "w") == ("1", "2, 3", "4")
    assert choices_in("a ) 1 / 2 , b ) $ 4 , c ) a . e ) x", "w") == ("1 / 2", "$ 4", "a . e ) x")
    assert choices_in(["(A)-10", "(B)x"], "w") == ("(A)-10", "(B)x") and choices_in(None, "w") == ()


CHOICES = ("9", "12 seconds", "$\\frac{1}{2}$", "a bee, or a wasp")
CHOSEN = [("A", "The answer is (A)."), ("A", "\\boxed{A}"), ("A", "\\boxed{9}"), ("A", "Answer: A) 9"), ("A", "\\boxed{(a)}"),
          ("B", "The answer is 12."), ("B", "The correct choice is B"), ("B", "<answer>B</answer>"), ("B", "#### B"),
          ("B", "\\boxed{\\text{(B) } 12}"), ("C", "The answer is 0.5."), ("C", "The answer is (C) \\frac12."), ("C", "Option C"),
          ("D", "The answer is a bee, or a wasp."), ("D", "The answer is (D) A bee, or a wasp."), ("D", "\\boxed{D}")]
NOT_CHOSEN = ["The answer is A or B.", "The answer is (A) 12.", "The answer is not A.", "(A) 9 (B) 12", "The answer is 10.", "",
              "The answer is (E).", "<think>The answer is A.", "\\boxed{A, B}", "It is 9 or 12.", "\\boxed{A \\text{ or } B}",
              "The answer is A?", "The answer is A. No: \\boxed{?}", "The answer is (D) 9."]


@pytest.mark.parametrize("gold, text", CHOSEN)
def test_a_choice_by_its_letter_or_its_text(gold, text):
    assert check_choice(text, gold, CHOICES)
    assert not any(check_choice(text, other, CHOICES) for other in "ABCD" if other != gold)


@pytest.mark.parametrize("text", NOT_CHOSEN)
def test_traps_of_choices(text):
    assert not any(check_choice(text, letter, CHOICES) for letter in "ABCD")


def test_a_letter_is_a_letter_even_where_it_is_another_choice():
    choices = ("L", "R", "1/C", "C")
    assert check_choice("The answer is C.", "C", choices) and check_choice("\\boxed{D}", "D", choices)
    assert not check_choice("The answer is 3.", "A", ("3", "4", "3"))                       # two choices say so


NEAR = [("1.6", "1.6"), ("1.61", "1.6"), ("1.59 cm", "1.6"), ("4.52 \\times 10^{33}", "4.5e33"), ("4.48e33 erg/s", "4.5e33"),
        ("-0.332", "-1./3"), ("160", "1.6e2"), ("1.6 m", "160 cm"), ("x = 1.605", "1.6"), ("0", "0"), ("arcsin(10/13)", "0.877")]
NOT_NEAR = [("1.62", "1.6"), ("-1.6", "1.6"), ("1.6 or 1.7", "1.6"), ("1.59-1.61", "1.6"), ("0.001", "0"), ("1.6x", "1.6"),
            ("1.6 m", "1.6 kg"), ("1.6 s", "1.6 m"), ("4.5e32", "4.5e33"),
            ("160", "1.6"), ("\\frac{1}{2}x", "0.5"), ("1e999999", "1.6")]


@pytest.mark.parametrize("said, gold, right", [(*pair, True) for pair in NEAR] + [(*pair, False) for pair in NOT_NEAR])
def test_numbers_within_one_percent(said, gold, right):
    for text in (f"The answer is ${said}$.", f"Thus $\\boxed{{{said}}}$."):
        assert check_near(text, gold, 0.01) == right, text
    assert check_near(f"\\boxed{{{said}}}", gold) == (right and said in ("1.6", "160", "1.6 m", "0"))       # without tolerance


def test_a_margin_is_absolute_and_comes_from_the_row(tmp_path):
    task = one("ocw", ROWS["ocw"][0][0], tmp_path)
    assert reply(task, "\\boxed{4.54e33}") and not reply(task, "\\boxed{4.6e33}")               # its tolerance is a share
    assert not reply(one("mawps", ROWS["mawps"][0][0], tmp_path), "\\boxed{2.001}")           # other benchmarks have none
    task = one("olympiadbench", ROWS["olympiadbench"][1][0], tmp_path)
    assert task.problem(0).margin == 0.1
    assert reply(task, "\\boxed{4.29}") and reply(task, "\\boxed{4.1\\%}") and not reply(task, "\\boxed{4.31}")
    assert not reply(one("olympiadbench", ROWS["olympiadbench"][0][0], tmp_path), "\\boxed{2.05, -1}")


def test_gold_words_count_if_they_are_said_word_for_word():
    for gold in ("Mrs. Hill", "Vendor 2", "They are equal"):
        assert check_near(f"The answer is {gold}.", gold) and check_near(f"\\boxed{{\\text{{{gold}}}}}", gold)
        assert not check_near(f"The answer is not {gold}.", gold)
        assert not check_near(f"The answer is {gold}.\nOr \\boxed{{3}}", gold)
    assert not check_near("The answer is 2.", "Vendor 2") and not check_near("The answer is Vendor 2.", "Vendor 3")


# The golds of the worked examples, computed here.
GOLDS = {"gsm": [6 * 8 - 31, 5 * 14 + 2 * 25, 2 * 7 + 5 * 4, 240 / (15 - 3), 12 - 6, 80 * 0.75 - 9, 45 - 45 / 3 - 12,
                 9 / 0.75 * 2],
         "math": [3 * 3 ** 2 - 4 * 3, 5 / (1 - 1 / 3), sum(n // 10 + n % 10 == 9 for n in range(10, 100)), 10 ** 0.5 / 2],
         "sat": [18 / 2, (1 - 4) / 6, 36 / 150 * 2000, None], "mathqa": [180 / 15, 5 * 24 - 4 * 22, None, 1 / (1 / 10 + 1 / 15)],
         "mmlu_stem": [10 * 3 ** 2 / 2, next(b for b in range(20) if 2 ** b >= 200), None, 3],
         "ocw": [2e-3 * 500e-9 / (6.6e-34 * 3e8), None, 0.6931 / 0.035, None]}


def test_worked_examples_are_right_and_as_many_as_they_should_be():
    assert {name: len(shots) for name, shots in SHOTS.items()} == {
        "gsm": 8, "math": 4, "sat": 4, "mathqa": 4, "mmlu_stem": 4, "ocw": 4}
    assert {name: len(SHOTS.get(b.shots, ())) for name, b in BENCHMARKS.items()} == {
        "amc23": 0, "asdiv": 8, "gsm8k": 8, "mawps": 8, "svamp": 8, "tabmwp": 8, "math": 4, "math500": 4, "olympiadbench": 4,
        "sat_math": 4, "mathqa": 4, "mmlu_stem": 4, "ocw": 4}
    for name, shots in SHOTS.items():
        for shot, gold in zip(shots, GOLDS[name], strict=True):
            text = ask.worked(shot)
            if shot.choices:
                letter = shot.answer.strip("()")
                assert check_choice(text, letter, shot.choices)
                said = re.sub(r"\\text\w*|\$", "", shot.choices["ABCDE".index(letter)])
            else:
                assert check_near(text, shot.answer)
                said = shot.answer
            assert gold is None or check_near(f"\\boxed{{{said}}}", f"{gold:.6g}", 0.013), (said, gold)
    letters = [[s.answer for s in shots] for shots in SHOTS.values() if shots[0].choices]
    assert all(sorted(each) == ["(A)", "(B)", "(C)", "(D)"] for each in letters)            # no letter is favoured


def test_no_worked_example_is_a_question_of_a_benchmark():
    for name in ("gsm8k/train.jsonl", "gsm8k/test.jsonl", "math500/test.jsonl"):
        known = {" ".join((row.get("question") or row["problem"]).lower().split())
                 for row in map(json.loads, real_file(name).read_text().splitlines())}
        assert not known & {" ".join(s.question.lower().split()) for shots in SHOTS.values() for s in shots}


def test_prompts(tmp_path, monkeypatch):
    shot = ask.Shot("What is 1 + 1?", "1 + 1 = 2.", "(B)", ("1", "2"))
    monkeypatch.setitem(SHOTS, "sat", (shot, shot))
    task = one("sat_math", ROWS["sat_math"][0][0], tmp_path)
    [problem] = task.problems
    example = "Question: What is 1 + 1?\n(A) 1\n(B) 2\nAnswer: 1 + 1 = 2. The answer is (B).\n\n"
    choices = "(A) 6\n(B) $8$\n(C) 9\n(D) 23"
    assert task.prompt(problem, "plain") == f"{example}{example}Question: What is $2^3$?\n{choices}\nAnswer:"
    asked = f"What is $2^3$?\n{choices}\n\nThink step by step, and put the letter of the right choice in \\boxed{{}}."
    assert task.prompt(problem, "chat") == [{"role": "user", "content": asked}]
    assert task.prompt(problem, "think")[0]["content"] == f"{asked} /think"
    assert ask.dialogue_prompt(problem) == f"User: {asked}\n\nAssistant:"
    task = one("amc23", ROWS["amc23"][0][0], tmp_path)
    assert task.prompt(task.problem(0), "plain") == "Question: What is $3^3$?\nAnswer:"
    assert task.prompt(task.problem(0), "chat")[0]["content"].endswith("?\n\nThink step by step, and put the final answer in "
                                                                       "\\boxed{}.")


def gsm_file(folder, count=10):
    (folder / "gsm8k").mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(count)]
    write_rows(folder / "gsm8k" / "test.jsonl", rows)
    return str(folder)


def test_scores_of_both_templates(tmp_path, capsys):
    """Few-shot solves the questions 0 to 5, and says more behind its answer; the chat solves the even ones."""
    task, calls = open_benchmark("gsm8k", gsm_file(tmp_path)), []

    def answer(prompts, stops):
        calls.append((prompts, tuple(stops)))
        said = []
        for prompt in prompts:
            chat = not isinstance(prompt, str)
            i = int(re.findall(r"What is (\d+) \+ 1", prompt[0]["content"] if chat else prompt)[-1])
            ok = i % 2 == 0 if chat else i < 6
            text = f" The answer is {i + ok}.\n\nQuestion: What is 7?\nAnswer: \\boxed{{{i + 1}}}"
            text = f"It is \\boxed{{{i + ok}}}." if chat else text
            said.append([Reply(text, tokens=5 if chat else 9, limit=9, finish="stop" if chat else "length")])
        return said
    def answer_dialogue(prompts, stops):
        calls.append((prompts, tuple(stops)))
        return [[Reply("The answer is 1.")] for _ in prompts]
    shown = []
    found = score(task, answer, on_answer=lambda *each: shown.append(each))
    (few, few_stops), (chats, chat_stops) = calls
    assert few_stops == ("\nQuestion:",) and chat_stops == () and all(isinstance(p, str) for p in few)
    assert few[3] == task.prompt(task.problem(3), "plain") and chats[3] == task.prompt(task.problem(3), "chat")
    assert found["few-shot"]["accuracy"]["pass@1"][0] == 0.6 and found["rl"]["accuracy"]["pass@1"][0] == 0.5
    assert found["gap"][0] == 0.1 and found["gap"][1] < 0.1 < found["gap"][2]               # paired, by question
    assert found["right"] == {"few-shot": [[1, 1]] * 6 + [[0, 1]] * 4, "rl": [[1, 1], [0, 1]] * 5}
    assert (found["few-shot"]["tokens"], found["few-shot"]["cut_off"], found["rl"]["cut_off"]) == (9, 1, 0)
    assert (found["few-shot"]["asked"], found["rl"]["asked"]) == ("8 shots", "chat")
    assert (found["benchmark"], found["problems"], found["skipped"]) == ("GSM8K", 10, 0)
    assert len(shown) == 20 and shown[7][1:] == (" The answer is 7.\n", False) and shown[10][1:] == ("It is \\boxed{1}.", True)
    print_scores([found, found | {"benchmark": "Other"}])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and "0.600 [" in table[1] and "+0.100 [" in table[1] and table[1].endswith("8 shots, chat")
    assert table[3].split() == ["mean", "20", "0.600", "0.500", "+0.100"]
    found = score(task, answer_dialogue, ["rl"], chat=False)
    assert calls[-1][0][0].startswith("User: What is 0") and calls[-1][1] == ("\nUser:",)
    assert found["rl"]["asked"] == "dialogue" and "gap" not in found and "few-shot" not in found


def test_a_limit_takes_a_seeded_sample_in_the_order_of_the_file(tmp_path):
    task = open_benchmark("gsm8k", gsm_file(tmp_path, 50))
    drawn = [[int(p.answer) for p in chosen(task, 8, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 8 and drawn[0] == sorted(drawn[0])
    assert [int(p.answer) for p in chosen(task)] == list(range(1, 51))


def test_evaluate_measures_benchmarks_and_contamination(toy_run, tmp_path, monkeypatch):
    """The prompts and stop texts that reach the sampler, and the last line. The model knows the questions by heart."""
    folder, asked = gsm_file(tmp_path / "data", 6), []

    def generate(self, prompts, n=1, limits=0, *_, stop_texts=(), **options):
        texts = [self.tokenizer.decode(p) for p in prompts]
        asked.append((texts, stop_texts, limits))
        said = []
        for text in texts:
            cut = re.search(r"^What is( \d+)?( \+)?$", text)
            i = re.findall(r"What is (\d+)", text)[-1:] or ["3"]
            rest = f"{'' if cut[2] else ' +'} 1?" if cut else ""
            said.append(f"{rest} The answer is {int(i[0]) + 1}.")
        return [[Completion(p, self.tokenizer.encode(text), finish="stop")] for p, text in zip(prompts, said)]
    monkeypatch.setattr(Sampler, "generate", generate)
    done = script("evaluate.py", "--init", toy_run, "--benchmark", "gsm8k", "--benchmark-data", folder, "--limit", 4,
                  "--max-new-tokens", 33, "--think", "off", "--contamination", "0.6,0.8", "--out", tmp_path / "out.json")
    few, rl, sixty, eighty = asked
    assert few[0][0].startswith("Question: A baker fills 6 trays") and few[0][0].endswith(" + 1?\nAnswer:")
    assert few[1] == [("\nQuestion:",)] * 4 and few[2] == [33] * 4
    assert rl[0][0].endswith("</think>\n\n") and "\\boxed{}.<|im_end|>" in rl[0][0] and rl[1] == [()] * 4
    assert all(re.fullmatch(r"What is \d+", text) for text in sixty[0])
    assert all(re.fullmatch(r"What is \d+ \+", text) for text in eighty[0])
    found = done.json[str(toy_run)]
    assert found["benchmark:gsm8k"]["few-shot"]["accuracy"]["pass@1"][0] == 1.0 and found["benchmark:gsm8k"]["gap"] == [0, 0, 0]
    assert "right" not in found["benchmark:gsm8k"]
    rows = found["contamination:gsm8k"]
    assert [(r["share"], r["problems"], r["exact"][0], r["answer"][0]) for r in rows] == [(0.6, 4, 1, 1), (0.8, 4, 1, 1)]
    kept = json.loads((tmp_path / "out.json").read_text())["results"][str(toy_run)]["benchmark:gsm8k"]
    assert kept["right"] == {"few-shot": [[1, 1]] * 4, "rl": [[1, 1]] * 4} and "few-shot minus rl" in done.stdout


def test_flags_of_benchmarks_that_cannot_be(toy_run, tmp_path):
    assert "gsm9k: no such benchmark; use all, or some of amc23, " in refusal(evaluate, "--init", toy_run, "--benchmark", "gsm9k")
    assert "names one twice" in refusal(evaluate, "--init", toy_run, "--benchmark", "ocw,ocw")
    assert "no ocw/test.jsonl" in refusal(evaluate, "--init", toy_run, "--benchmark", "ocw", "--benchmark-data", tmp_path)
    assert "use shares between 0 and 1" in refusal(evaluate, "--init", toy_run, "--data", "world:ops=1", "--contamination", "60")


@pytest.mark.parametrize("name, file, count", [("gsm8k", "gsm8k/test.jsonl", 1319), ("math500", "math500/test.jsonl", 500)])
def test_real_files(name, file, count):
    """Every gold answer is accepted, and none for its neighbour."""
    task = open_benchmark(name, str(real_file(file).parent.parent))
    assert task.count == count
    for p, other in zip(task.problems, task.problems[1:]):
        assert task.grade(p, Reply(f"Thus $\\boxed{{{p.answer}}}$.")).right
        assert task.grade(p, Reply(f"Thus $\\boxed{{{other.answer}}}$.")).right == (
            p.answer == other.answer or check_near(f"\\boxed{{{p.answer}}}", other.answer))


def test_usual_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("NANOTHINK_DATA", gsm_file(tmp_path))
    assert read.file_of("gsm8k") == tmp_path / "gsm8k" / "test.jsonl"

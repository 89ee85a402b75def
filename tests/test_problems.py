"""The answer check against tables written by hand and against real gold answers; the loaders; nasty inputs."""
import gzip
import json
import os
import random
import time
from pathlib import Path

import pytest

import answers
from problems import Problem, check_answer, extract_answer, format_question, load_problems, same_answer

DATA = Path(os.environ.get("NANOTHINK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

EQUAL = [
    # fractions, decimals, mixed numbers
    (r"\frac{1}{2}", "1/2"), (r"\dfrac12", "0.5"), (r"\tfrac{3}{4}", ".75"), (r"\frac 59", "5/9"),
    (r"\frac43", r"\frac{4}{3}"), (r"\frac9{19}", "9/19"), (r"\frac{270}7", "270/7"),
    (r"-\frac{35}{9}", r"\frac{-35}{9}"),
    (r"2\frac{1}{2}", "5/2"), ("2 1/2", "2.5"), (r"137 \frac{1}{2}", "137.5"), (r"-2\frac12", "-2.5"),
    (r"1\frac{4}{5}", "9/5"), ("6/4", "3/2"), ("5.0", "5"), ("5.", "5"), ("007", "7"), (r"\frac{\frac12}{3}", "1/6"),
    # signs, thousands, money, percent
    ("−3", "-3"), ("–3", "-3"), ("+3", "3"), ("1,234", "1234"), ("1{,}234", "1234"), (r"1\,234", "1234"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"), (r"10,\!080", "10080"), ("$1,234.50", "1234.5"),
    (r"\$32,\!348", "32348"),
    (r"\$18.90", "18.9 dollars"), ("€5", "5"), ("-$5", "-5"), ("50%", "50"), (r"50\%", "0.5"), ("50 percent", "50%"),
    (r"12.5\%", "12.5"), ("1,000,000", "10^6"),
    # units and words
    ("12 apples", "12"), (r"5.4 \text{ cents}", "5.4"), (r"15\mbox{ cm}^2", "15"),
    (r"864 \mbox{ inches}^2", "864 square inches"),
    ("5 cm", "5"), ("5cm", "5"), (r"5\text{ m}", "5"), (r"5\ \mathrm{m}^{2}", "5"), ("3 miles per hour", "3"),
    (r"90^\circ", "90"), (r"90^{\circ}", "90 degrees"), ("90°", "90"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    (r"2\sqrt{5} \text{ units}", r"\sqrt{20}"), (r"12\pi \text{ cm}^3", r"12\pi"), ("**18**", "18"), ("$5$", "5"),
    (r"\(5\)", "5"),
    (r"18 \, \text{cm}", "18"), ("18~\\text{cm}", "18"), (r"\frac{1}{2} \text{ hour}", "0.5"),
    (r"1,000 \text{ m}", "1000"),
    # roots, constants, powers, functions
    (r"\sqrt2", r"\sqrt{2}"), ("√13", r"\sqrt{13}"), ("sqrt(13)", r"\sqrt{13}"), (r"70 \sqrt{2}", r"70\sqrt2"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), (r"3\sqrt{13}", r"\sqrt{117}"), (r"\sqrt[3]{-8}", "-2"),
    ("2π", r"2 \pi"),
    (r"\frac{\pi}{6}", r"\pi/6"), (r"\frac\pi2", "pi/2"), ("2^{10}", "1024"), ("2**10", "1024"), (r"2^{-1}", "1/2"),
    ("4^{1/2}", "2"),
    (r"3 \times 10^5", "300000"), ("1.5e3", "1500"), (r"6.02 \cdot 10^{-2}", "0.0602"), ("5!", "120"),
    (r"\sin \frac{\pi}{6}", "1/2"),
    (r"\ln e", "1"), (r"\left(\frac{3}{5}\right)^2", "9/25"), ("(-2)^3", "-8"), ("-2^2", "-4"),
    (r"(-\sqrt{2})^2", "2"), (r"(\cos 3)^2", r"\cos^2 3"), (r"\frac{1}{-\sqrt{2}}", r"-\frac{\sqrt2}{2}"),
    # expressions with variables
    ("2x", r"x \cdot 2"), ("(a+5)(b+2)", "ab + 2a + 5b + 10"), ("2k+2", "2(k+1)"), ("x^5 - x^4", "x^4(x-1)"),
    ("p - q", "-q+p"),
    (r"\frac{11+9a}{20}", "(9a + 11)/20"), ("6+9i", "9i + 6"), (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\sin^2 x", "1 - (cos(x))^2"),
    ("xy", "yx"), ("x_1 + x_2", "x_{2} + x_{1}"), (r"\frac{x^2-1}{x-1}", "x+1"), (r"\sqrt{x}", "x^{1/2}"),
    (r"3R^2", r"3 R^{2}"),
    # equations
    ("x = 5", "5"), ("x=5", r"x = \frac{10}{2}"), ("y = 2x + 3", "2x+3"), ("y=2x+3", "y - 2x = 3"),
    ("2x + 4y = 6", "x + 2y - 3 = 0"),
    ("2 + 3 = 5", "5"), (r"\theta = 30^\circ", "30"), ("A = 12", "12"), (r"x \in [-2,7]", "[-2, 7]"),
    # sets, lists, tuples, intervals, matrices
    ("1,-2", "-2, 1"), (r"\{1, 2\}", "2, 1"), ("3, 5, 7", "3,5,7"), ("3 and 5", "5, 3"), ("x = 1 or x = 2", "1, 2"),
    (r"\{5\}", "5"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"), (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1 - \sqrt5, 1 + \sqrt5\}"),
    (r"\left( 3, \frac{\pi}{2} \right)", "(3, pi/2)"), ("(x, y) = (1, 2)", "(1,2)"),
    ("(0.5, 2)", r"\left(\frac12,2\right)"),
    (r"(-\infty, 0]", r"\left(-\infty , 0\right]"), ("(−∞, 2) ∪ (3, ∞)", r"(3,\infty) \cup (-\infty,2)"),
    ("(1,2),(3,4)", "(3,4), (1,2)"),
    (r"\left(\frac{3}{5},\frac{8}{3}\right]", "(0.6, 8/3]"), (r"x \ge \frac12", r"x\geq 0.5"),
    ("1 < x <= 3", r"1<x\le 3"),
    (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix}-\frac13\\\frac23\end{bmatrix}"),
    (r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
    # words and letters
    (r"\text{Evelyn}", "evelyn"), (r"\text{even}", "Even."), (r"\text{(C)}", "C"), ("(C)", "C"),
    (r"\textbf{(C)}", r"\text{C}"),
    ("6:15 PM", r"6\!:\!15\text{ pm}"), ("4210_{5}", "4210_5"), ("3:4", "3 : 4"), (r"\text{Navin}", r"\mathrm{Navin}"),
]
UNEQUAL = [
    ("12", "120"), ("3", "-3"), ("1/2", "1/3"), ("(1,2)", "(2,1)"), ("[0,1)", "[0,1]"), ("", "5"), (" ", "5"),
    ("5 or 6", "5"), ("x", "y"),
    ("12", "1.2"), ("0.33", "1/3"), ("1 2", "12"), ("1,2", "12"), ("(1,234)", "1234"), ("1,23", "123"), ("5x", "5"),
    ("5 x", "5"), ("5 a", "5"),
    ("3 ab", "3 cd"), ("x", "X"), ("east", "seat"), ("abc", "abd"), ("cm", "mc"), ("5 million", "5"),
    ("5 dozen", "5"), ("4 a.m.", "4 p.m."),
    ("6:15", "6:51"), ("4210_5", "4210_6"), ("12_8", "12"), ("12_8", "10"), ("50%", "5"), ("50%", "0.05"),
    ("0.5%", "50%"),
    (r"\frac12", "12"), (r"2\frac12", "1"), (r"\sqrt{2}", "2"), (r"\sqrt2", "1.414"), (r"\pi", "3.14"),
    (r"\pi", "22/7"), ("10^20", "10^20+1"),
    ("100000000000000000000", "100000000000000000001"), ("1e-15", "2e-15"), ("9**9**9", "5"),
    ("10^{10^{10}}", "10^{10^{11}}"),
    ("1e999999", "1e999998"), ("99999!", "99998!"), ("1/0", "0"), ("1/0", "2/0"), (r"\infty", r"-\infty"),
    ("x^2", "2x"), ("x+1", "x-1"),
    ("(x+1)^2", "x^2+1"), (r"\sqrt{x^2}", "x"), ("x=5", "y=5"), ("x+y=5", "5"), ("y=2x+3", "y=2x-3"),
    ("2x+4y=6", "2x+4y=7"),
    ("1,2", "1,2,3"), ("1,1,2", "1,2,2"), (r"\{1,2\}", "(1,2)"), ("(1,2)", "[1,2]"), ("(1,2,3)", "(1,2)"),
    (r"1\pm 2", "3"),
    (r"(0,1) \cup (2,3)", "(0,1)"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"), ("x > 5", "x < 5"),
    (r"x \ge 5", "x > 5"),
    ("x < 5", "5"), ("A", "B"), (r"\text{(C)}", r"\text{(D)}"), ("Evelyn", "Eve"), ("even", "odd"), ("yes", "no"),
    ("6-5i", "6+5i"),
    ("5x", "x^5"), ("-2^2", "4"), ("2 3", "6"), ("12 apples", "13 apples"), ("5 squared", "5"),
    ("(a+5)(b+2)", "(a+2)(b+5)"),
]
EXTRACT = [
    (r"so \boxed{5} no \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\fbox{7}", "7"), (r"is $\boxed 5$.", "5"),
    (r"\boxed{5} and then \boxed{6", "5"), (r"\boxed{\text{(C)}}", r"\text{(C)}"),
    (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
    ("<answer> 12 </answer> 13", "12"), ("a <answer>1</answer><answer>2</answer>", "2"), ("#### 18", "18"),
    ("#### 1\n#### 2\nbye 3", "2"),
    ("The answer is 1. No, the Answer is: 2.5. Done, 7 times.", "2.5"), ("Answer: 42", "42"),
    ("ANSWER:\n\n 42\nmore 3", "42"),
    ("the final answer is **12 apples**!", "12 apples"), ("The answer is 5, since 3 + 2 = 5.", "5"),
    (r"The answer is \$18.90.", r"\$18.90"),
    ("we get 3 and then 1,234.5 in all", "1,234.5"), ("from 7-3", "3"), ("it is -3 now", "-3"), ("costs $5.", "$5"),
    ("a half, 1/2.", "1/2"),
    ("no number here", None), ("", None), ("<think>maybe 5</think> It is 6.", "6"),
    ("<think>the answer is 5</think>", None),
    ("<think>\\boxed{5}", None), ("\\boxed{4}</think>\\boxed{5}", "5"), ("5</think>well", None),
    (r"\boxed{} 12", "12"), ("####", None),
]


@pytest.mark.parametrize("a, b", EQUAL)
def test_equal(a, b):
    assert same_answer(a, b) and same_answer(b, a)
    assert check_answer(rf"Hence the answer is $\boxed{{{a}}}$.", b)


@pytest.mark.parametrize("a, b", UNEQUAL)
def test_unequal(a, b):
    assert not same_answer(a, b) and not same_answer(b, a)


@pytest.mark.parametrize("text, answer", EXTRACT)
def test_extract(text, answer):
    assert extract_answer(text) == answer


def test_choice_letter_with_its_text():
    assert same_answer(r"\textbf{(C)}\ 12", "C") and same_answer("B. 7 apples", r"\text{(B)}")
    assert not same_answer(r"\textbf{(C)}\ 12", "D") and not same_answer("C) 12", "(B)")


def test_long_answers_are_compared_as_strings():
    assert same_answer("1" * 600, "1" * 600)
    assert not same_answer("1" * 599 + "2", "1" * 600)
    assert not same_answer("x+" * 300 + "x", "301x")


# Real files.

def real_problems(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return load_problems(str(path))


@pytest.mark.parametrize("name, count", [("math500/test.jsonl", 500), ("gsm8k/test.jsonl", 1319)])
def test_real_golds_and_solutions(name, count):
    items = real_problems(name)
    assert len(items) == count
    for item in items:
        assert check_answer(rf"The answer is \boxed{{{item.answer}}}.", item.answer), item.answer
        assert check_answer(f"So it is.\n#### {item.answer}", item.answer), item.answer
        assert not check_answer(f"#### {item.answer}", "no such answer")
    wrong = [item.answer for item in items if not check_answer(item.solution, item.answer)]
    print(f"{name}: {1 - len(wrong) / count:.4f} of the gold solutions check")
    assert len(wrong) <= 0.01 * count, wrong


@pytest.mark.parametrize("name, alike", [("math500/test.jsonl", {("5", "x=5")}), ("gsm8k/test.jsonl", set())])
def test_neighbouring_golds_differ(name, alike):
    golds = [item.answer for item in real_problems(name)]
    for a, b in zip(golds, golds[1:]):
        if same_answer(a, b):
            assert a.replace(" ", "") == b.replace(" ", "") or (a, b) in alike, (a, b)


def test_gsm8k_numbers_differ_from_their_neighbours():
    for item in real_problems("gsm8k/test.jsonl")[:300]:
        number = int(item.answer)
        assert check_answer(f"The answer is ${number:,}.00 in all.", item.answer)
        for other in (number + 1, number - 1, number * 10 + 1, -number if number else 1):
            assert not check_answer(f"The answer is {other:,}.", item.answer)


def test_no_calculator_annotation_is_left():
    items = real_problems("gsm8k/test.jsonl")
    assert items[0].answer == "18" and items[0].solution.startswith("Janet sells 16 - 3 - 4 = 9 duck eggs a day.\n")
    assert not any("<<" in item.solution or "," in item.answer for item in items)


# Nasty inputs.

def seconds(function, *arguments):
    """The shortest of up to three tries, so that another process cannot fail the test."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        assert function(*arguments) in (True, False)
        best = min(best, time.perf_counter() - start)
        if best < 0.05:
            break
    return best


PIECES = r"""
    { } ( ) [ ] \frac \frac{ \sqrt \sqrt[ \boxed{ \boxed #### </think> <answer> </answer> ^ ^{ 9**9**9 ! , \pm \cup
    = x xy \pi % $ \text{ - + / * \\ & \begin{pmatrix} \end{pmatrix} . \{ \} _ \sin \left( 1,234 1e999999 \le < ² ٣
    10^{10^{10}} 2\frac12 e i 7 abc _5 1/0""".split()
PIECES += [" ", "\n", "\0", "😀", "\ud800", "9" * 50, " answer is ", " and ", "\\"]


def test_fuzz():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choice(PIECES) * rng.choice([1, 1, 1, 2, 7, 60]) for _ in range(rng.randint(1, 20)))
        other = text[:500] + rng.choice(PIECES)
        assert seconds(check_answer, text, "5") < 0.1, text
        assert seconds(same_answer, text[:510], other) < 0.1, text
        assert same_answer(text, "") is False and same_answer("", text) is False


HOSTILE = [
    r"\frac{" * 500, "(" * 500, "^" * 500, "-" * 500, "x^" * 250, "2^" * 250 + "2", "9**9**9", "7^{9999999}",
    "10^{10^{10}}",
    "99999!", "100!" * 120,
    "3!!!!!!!!", "1e999999", "x*" * 255 + "x", "x^2+" * 127 + "x", "x^9" * 170, "1," * 255, "x," * 255 + "y",
    r"\pm1," * 100,
    r"\sin x" * 85, "1.37*" * 100 + "x", "(x+1)/y*" * 60 + "z", " " * 500 + "a",
    "a " * 255, "5 " + "a " * 250, r"\sqrt" * 100 + "2",
    r"\begin{pmatrix}" + "1&" * 240, "{" * 250 + "}" * 250, r"\{" * 100 + "1" + r"\}" * 100,
    "[" * 29 + "x" + "]" * 29, "e^" * 29 + "e",
    "x=" * 250, "10^{500} = \\pi", "10^{500}x = \\pi", "(1-1)^{-1}", "0^0", r"\ln 0", r"\sqrt{-1}", r"\cot 0",
    r"\sqrt[0]{2}", "170!",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile(text):
    text = text[:answers.MAX_ANSWER]
    for other in ("5", text[:-1] + "2", text[:-2] + "+0", "x=5", r"10^{400}\pi"):
        assert seconds(same_answer, text, other) < 0.1
        assert seconds(same_answer, other, text) < 0.1
    assert seconds(check_answer, rf"\boxed{{{text}}}", "5") < 0.1
    assert not check_answer(rf"\boxed{{{text}}}", "123456789")


MANY = ["a", "{", "1", " ", r"\boxed{", "<think>", "####", "answer is ", "1,", "-", "\\", "1 \n", "</think>"]


@pytest.mark.parametrize("piece", MANY)
def test_a_megabyte_is_quick(piece):
    text = piece * (1_000_000 // len(piece))
    assert seconds(check_answer, text, "5") < 0.2
    assert seconds(check_answer, "5", text) < 0.2
    assert check_answer(text.replace("<think>", "") + r" \boxed{5}", "5")


# Loading and prompts.

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
    assert plain.ops is None and plain.source.endswith("mixed.jsonl")


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
    pytest.importorskip("world")
    items = load_problems("world:ops=2,contexts=zoo,split=test", limit=5)
    assert len(items) == 5 and {item.ops for item in items} == {2} and {item.context for item in items} == {"zoo"}
    for item in items:
        assert check_answer(item.solution, item.answer)
        verdict = item.world.verify(item.world_problem, item.solution)
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

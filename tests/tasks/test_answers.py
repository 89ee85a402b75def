"""The answer check against our own cases and against real gold answers; and that no input makes it work for long.

No test reads a clock: a check may do MAX_STEPS operations on numbers, whose size is bounded, and the function calls that it
makes are counted. Times are measured by `python bench.py answers`."""
import itertools
import random
import re
import string
import sys

import pytest
from answer_cases import EQUAL, EXTRACT, RIGHT, UNEQUAL, WRONG
from conftest import real_file

from benchmarks import answers as bench_answers
from tasks import answers, equivalence, expression
from tasks.answers import check_answer, count_answers, extract_answer, same_answer
from tasks.problems import load_problems

MAX_CALLS = 150_000     # of functions, in Python or C, in one check


@pytest.mark.parametrize("a, b", EQUAL)
def test_equal(a, b):
    assert same_answer(a, b) and same_answer(b, a)
    assert check_answer(rf"Hence the answer is $\boxed{{{a}}}$.", b)


@pytest.mark.parametrize("a, b", UNEQUAL)
def test_unequal(a, b):
    assert not same_answer(a, b) and not same_answer(b, a)


@pytest.mark.parametrize("text, gold", RIGHT)
def test_right(text, gold):
    assert check_answer(text, gold), extract_answer(text)


@pytest.mark.parametrize("text, gold", WRONG)
def test_wrong(text, gold):
    assert not check_answer(text, gold), extract_answer(text)


@pytest.mark.parametrize("text, answer", EXTRACT)
def test_extract(text, answer):
    assert extract_answer(text) == answer


def test_there_are_many_cases_and_many_traps():
    traps, others = len(UNEQUAL) + len(WRONG), len(EQUAL) + len(RIGHT)
    assert traps + others >= 300 and traps >= (traps + others) / 3


def test_choice_letter_with_its_text():
    assert same_answer(r"\textbf{(C)}\ 12", "C") and same_answer("B. 7 apples", r"\text{(B)}")
    assert not same_answer(r"\textbf{(C)}\ 12", "D") and not same_answer("C) 12", "(B)") and not same_answer("C) 12", "C) 13")


def test_a_decimal_comma_in_the_completion_only():
    assert same_answer("1000,99", "1000.99") and not same_answer("1.22", "1,22") and not same_answer("1,2", "1.2")


def test_long_answers_are_compared_as_strings():
    assert same_answer("1" * 600, "1" * 600)
    assert not same_answer("1" * 599 + "2", "1" * 600)
    assert not same_answer("x+" * 300 + "x", "301x")


def test_a_gold_that_is_a_whole_solution():
    assert check_answer(r"\boxed{5}", r"We add. So $x = \boxed{5}$.")
    assert not check_answer(r"\boxed{5}", r"So $5 + 1 = \boxed{6}$.")
    assert check_answer(r"\boxed{5}", "We add. " * 100 + "The answer is 5.")


def test_headings_are_not_counted_as_answers():
    assert count_answers("#### Step 1\nAdd.\n#### Step 2\nSubtract.") == 0
    assert count_answers("#### Step 1\nAdd.\n#### 5") == 1 and count_answers("#### 4\n#### 5") == 2
    assert count_answers(r"\boxed{1} and \boxed{2}") == 2


LETTERS = [letter for letter in string.ascii_letters if letter != "e"]
NAMES = LETTERS + [rf"\{greek}" for greek in expression.GREEK.split("|")[:18]]


@pytest.mark.parametrize("x", NAMES)
def test_every_variable_is_somewhere_negative_large_small_and_no_integer(x):
    for a, b in ((rf"\sqrt{{{x}^2}}", x), (f"|{x}|", x), (f"|{x}|", f"-{x}"), (f"|{x} - 100|", f"100 - {x}"),
                 (f"|{x} - 1|", f"{x} - 1"), (f"|{x} + 1|", f"{x} + 1"), (rf"\lfloor {x} \rfloor", x), (rf"\cos(2\pi {x})", "1"),
                 (rf"\sin(\pi {x})", "0")):
        assert not same_answer(a, b), (a, b)
    assert same_answer(f"|{x}|", rf"\sqrt{{{x}^2}}")


def test_any_two_letters_differ_in_sign_and_size():
    for x, y in itertools.combinations(LETTERS, 2):
        assert not same_answer(f"|{x} {y}|", f"{x} {y}") and not same_answer(rf"\sqrt{{({x}-{y})^2}}", f"{x}-{y}"), (x, y)
        assert not same_answer(f"{x}+1", f"{y}+1"), (x, y)


# Hedges: a completion that offers several answers is right for none of them.

HEDGES = ["either {0} or {1}", "{0} or {1}", "{0}, {1}", "{0} and {1}", "{0}/{1}", "{0}-{1}", "{0} to {1}", "between {0} and {1}",
          "not {0}, not {1}", "{0}? {1}?", "{0}, maybe {1}", "[{0}, {1}]", r"{0} \text{{ or }} {1}", r"\{{{0}, {1}\}}",
          "{0} = {1}", "{0}; {1}", "x = {0} or x = {1}", "{0} is wrong, {1} is wrong", "{0} (or {1})",
          r"{0} \cup {1}", r"{0} \pm {1}"]
PLACES = ["{}", "So it is {}.", "The answer is {}.", "Answer: {}", "#### {}", r"\boxed{{{}}}", "<answer>{}</answer>",
          "The answer is ${}$.", "${}$"]


@pytest.mark.parametrize("hedge", HEDGES)
def test_hedges_earn_nothing(hedge):
    for (a, b), place in itertools.product([("3", "4"), ("12", "30"), ("1", "2")], PLACES):
        text = place.format(hedge.format(a, b))
        assert not check_answer(text, a) and not check_answer(text, b), (text, extract_answer(text))


@pytest.mark.parametrize("join", [" or ", ", ", " and ", " ", r" \text{ or } ", " papers and "])
def test_several_boxes_are_one_answer(join):
    text = join.join(rf"\boxed{{{n}}}" for n in (3, 4, 5))
    assert check_answer(text, "3, 4, 5") and not any(check_answer(text, gold) for gold in ("3", "4", "5", "3, 4"))


# Real files.

def real_problems(name):
    return load_problems(str(real_file(name)))


@pytest.mark.parametrize("name, count", [("math500/test.jsonl", 500), ("gsm8k/test.jsonl", 1319)])
def test_real_golds_and_solutions(name, count):
    items = real_problems(name)
    assert len(items) == count
    for item in items:
        assert check_answer(rf"The answer is \boxed{{{item.answer}}}.", item.answer), item.answer
        assert check_answer(f"So it is.\n#### {item.answer}", item.answer), item.answer
        assert check_answer(f"The answer is ${item.answer}$.", item.answer), item.answer
        assert not check_answer(f"#### {item.answer}", "no such answer")
    wrong = [item.answer for item in items if not check_answer(item.solution, item.answer)]
    print(f"{name}: {1 - len(wrong) / count:.4f} of the gold solutions check")
    assert len(wrong) <= 0.01 * count, wrong


SAME = [("-2,1", "1,-2"), ("120", r"120^\circ"), ("30", r"30^\circ"), ("90", r"90^\circ"), ("5", "x=5"), ("36", r"36^\circ"),
        ("36", r"\$36"), ("15", r"15\mbox{ cm}^2")]
SAME = {frozenset(pair) for pair in SAME}


def test_gold_answers_of_other_problems_differ():
    """Each against the next forty in the alphabet, where the likest stand; all pairs are in bench.py answers."""
    golds = sorted({item.answer for item in real_problems("math500/test.jsonl")})
    for i, a in enumerate(golds):
        for b in golds[i + 1:i + 41]:
            alike = re.sub(r"[ !\\,{}]", "", a) == re.sub(r"[ !\\,{}]", "", b)
            assert not same_answer(a, b) or frozenset((a, b)) in SAME or alike, (a, b)


@pytest.mark.parametrize("place", ["${}$", "So it is ${}$.", "\\[{}\\]", "Hence {}.", "The answer is {}.", "It is\n$$ {} $$"])
def test_a_number_in_an_expression_is_not_the_answer(place):
    """An expression without a box must not earn the gold answer of another problem, of which it holds the number."""
    golds = sorted({item.answer for item in real_problems("math500/test.jsonl")})
    for gold in golds:
        text = place.format(gold)
        for number in set(re.findall(r"\d+", gold)):
            assert not check_answer(text, number) or same_answer(gold, number), (text, number, extract_answer(text))


def test_gsm8k_numbers_differ_from_their_neighbours():
    for item in real_problems("gsm8k/test.jsonl")[:300]:
        number = int(item.answer)
        assert check_answer(f"The answer is ${number:,}.00 in all.", item.answer)
        assert check_answer(f"So she has {number:,} of them.", item.answer)
        for other in (number + 1, number - 1, number * 10 + 1, -number if number else 1):
            assert not check_answer(f"The answer is {other:,}.", item.answer)


# Inputs that are made to take long.

def calls(function, *arguments):
    """How many functions a check calls. Its result must be True or False."""
    count = 0

    def called(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")
    before = sys.getprofile()
    sys.setprofile(called)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(before)
    assert result in (True, False)
    return count


@pytest.fixture
def budgets(monkeypatch):
    """The budgets of operations that checks have begun; no operation gets past one."""
    begun = []

    class Counted(expression.Steps):
        def __init__(self, left=expression.MAX_STEPS):
            super().__init__(left)
            assert left <= expression.MAX_STEPS
            begun.append(self)
    for module in (answers, equivalence):
        monkeypatch.setattr(module, "Steps", Counted)
    return begun


PIECES = r"""
    { } ( ) [ ] \frac \frac{ \sqrt \sqrt[ \boxed{ \boxed #### </think> <answer> </answer> ^ ^{ 9**9**9 ! , \pm \cup
    = x xy \pi % $ \text{ - + / * \\ & \begin{pmatrix} \end{pmatrix} . \{ \} _ \sin \left( 1,234 1e999999 \le < ² ٣
    10^{10^{10}} 2\frac12 e i 7 abc _5 1/0 \approx | ° \[ \] \( \) $$ \boxed{1} \log_ \binom \overline{3} million km/h f(
    \begin{array}{cc} \lfloor \rceil \mp""".split()
PIECES += [" ", "\n", "\0", "😀", "\ud800", "9" * 50, " answer is ", " and ", "\\", " or ", " not ", "Answer:", " is ", " m",
           "a b ", "(is", ", so"]


def test_fuzz(budgets):
    rng = random.Random(0)
    for _ in range(700):
        text = "".join(rng.choice(PIECES) * rng.choice([1, 1, 1, 2, 7, 60]) for _ in range(rng.randint(1, 20)))
        other = text[:500] + rng.choice(PIECES)
        for arguments in ((check_answer, text, "5"), (same_answer, text[:510], other)):
            budgets.clear()
            assert calls(*arguments) < MAX_CALLS, text
            assert len(budgets) <= 2
        assert same_answer(text, "") is False and same_answer("", text) is False


HOSTILE = [
    r"\frac{" * 500, "(" * 500, "^" * 500, "-" * 500, "x^" * 250, "2^" * 250 + "2", "9**9**9", "7^{9999999}", "10^{10^{10}}",
    "99999!", "100!" * 120, "3!!!!!!!!", "1e999999", "x*" * 255 + "x", "x^2+" * 127 + "x", "x^9" * 170, "1," * 255,
    "x," * 255 + "y", r"\pm1," * 100, r"\sin x" * 85, "1.37*" * 100 + "x", "(x+1)/y*" * 60 + "z", " " * 500 + "a", "a " * 255,
    "5 " + "a " * 250, r"\sqrt" * 100 + "2", r"\begin{pmatrix}" + "1&" * 240, "{" * 250 + "}" * 250,
    r"\{" * 100 + "1" + r"\}" * 100, "[" * 29 + "x" + "]" * 29, "e^" * 29 + "e", "x=" * 250, "10^{500} = \\pi",
    "10^{500}x = \\pi", "(1-1)^{-1}", "0^0", r"\ln 0", r"\sqrt{-1}", r"\cot 0", r"\sqrt[0]{2}", "170!", "|" * 500, "|x" * 250,
    r"\lfloor" * 80, r"\binom{200}{100}" * 30, "0.(" + "9" * 490 + ")", "9" * 490 + "...", r"f(" * 250, r"\log_" * 100, "°" * 500,
    "5 km/" * 100, "5 kg^9" * 80, "a-" * 250, "1-" * 250, "one hundred " * 40, r"\approx 1" * 60, "<" * 500, "x;" * 250,
    r"1\cup" * 100, "(1,2)," * 80, r"\boxed{" * 70, "x=1,y=2;" * 60, "1/2+" * 120, "((x+1)^9)^9", "x^{99}+y^{99}",
    "(x+y)^{30}" * 40,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile(text, budgets):
    text = text[:equivalence.MAX_ANSWER]
    for other in ("5", text[:-1] + "2", r"10^{300}\pi"):
        for pair in ((text, other), (other, text)):
            budgets.clear()
            assert calls(same_answer, *pair) < MAX_CALLS and len(budgets) <= 1
    for place in (r"\boxed{{{}}}", "The answer is {}.", "${}$", "{}"):
        assert calls(check_answer, place.format(text), "5") < MAX_CALLS
        assert not check_answer(place.format(text), "123456789")


def test_a_check_ends_when_its_operations_are_used_up():
    for text in ("x^2+" * 127 + "x", "1+" * 200 + "1", "(x+1)/y*" * 60 + "z"):
        steps = expression.Steps(100)
        assert expression.evaluate(text, steps) is None and steps.left < 0
    assert not same_answer("x+x", "2x", expression.Steps(10)) and same_answer("x+x", "2x", expression.Steps(50))


def test_numbers_are_refused_before_they_are_large():
    largest = 0

    def watched(value, bounded=expression._bounded):
        nonlocal largest
        if value is not None and not isinstance(value, float):
            largest = max(largest, value.numerator.bit_length() + value.denominator.bit_length())
        return bounded(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expression, "_bounded", watched)
        for text in (*HOSTILE, "2^{1023}*2^{1023}", "100!*100!", "(2^{900})^{900}", r"\binom{200}{100}^{9}", "9" * 300 + "^2"):
            same_answer(text[:equivalence.MAX_ANSWER], "5x")
    assert 0 < largest <= 2 * expression.MAX_BITS + 2     # a product of two bounded numbers, before it is refused


MANY = ["a", "{", "1", " ", r"\boxed{", "<think>", "####", "answer is ", "1,", "-", "\\", "1 \n", "</think>", "\n",
        r"\boxed{1} and ", "answer to ", r"\(", "$", "#### 1\n", "is ", "(", ", so ", "5 or "]


@pytest.mark.parametrize("piece", MANY)
def test_a_megabyte(piece):
    """What is read of a long text is bounded, and an answer at its end, or in a box long before its end, is found."""
    text = piece * (1_000_000 // len(piece))
    assert calls(check_answer, text, "5") < MAX_CALLS and calls(check_answer, "5", text) < MAX_CALLS
    assert check_answer(text.replace("<think>", "") + r" But in the end it is this: \boxed{5}", "5")
    assert check_answer(r"\boxed{5}" + "." + (" no box" * 9000)[:answers.MAX_TEXT - 100], "5")


# The bench's reading of others' cases.

def test_other_cases_are_read_or_refused(tmp_path):
    file = tmp_path / "cases.jsonl"
    file.write_text('{"text": "It is 5.", "gold": "5", "right": true}\n{"a": "1/2", "b": "0.5", "right": true, "suite": "x"}\n')
    cases = bench_answers.cases_of(str(file))
    assert cases == [("text", "It is 5.", "5", True), ("pair", "1/2", "0.5", True)]
    assert bench_answers.judged(bench_answers.ours, cases)[0]["right"] == 2
    for row in ('{"text": "5", "gold": 5, "right": true}', '{"a": "1", "right": true}', '{"a": "1", "b": "1", "right": 1}',
                "[1]"):
        file.write_text(row + "\n")
        with pytest.raises(ValueError, match='line 1: use {"text"'):
            bench_answers.cases_of(str(file))

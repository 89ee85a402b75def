"""Decides whether two answers are mathematically the same number, set, interval, matrix, equation, ...

    same_answer("\\frac12", "0.5")       True

It is a pipeline of small pure functions:

1. tasks/notation.py normalises the notation.
2. _read splits the text into a tree of sets, tuples, intervals, matrices and relations, with single expressions as leaves.
   tasks/expression.py computes the values of these, and tasks/units.py reads their units.
3. _same compares two such trees.

The answers come from models that are rewarded for being right, so in doubt two answers are different. eval is never called, every
size is limited, and no input raises an exception.

What it simplifies:
- A unit counts only if both answers have one: 5 cm is 5, but not 5 m, and 1 hour is 60 minutes.
- A percent sign is dropped, but 50% also equals 0.5.
- i is a variable, so i^2 is not -1.
- A decimal equals a fraction only if it has ten digits or repeating digits: 0.33 is not 1/3.
- Words are compared letter by letter.
"""

import itertools
import math
import re
from dataclasses import dataclass, field
from fractions import Fraction

from tasks.expression import FUNCTIONS, GREEK, MAX_DEPTH, Steps, Unreadable, evaluate
from tasks.notation import PLAIN, normalise
from tasks.units import NOT_UNITS, split_unit

MAX_ANSWER = 512   # characters of an answer; longer ones are only compared as strings
MAX_PARTS = 64     # elements of a set that are compared in any order


def same_answer(candidate: str | None, gold: str, steps: Steps | None = None) -> bool:
    """Whether two answers are mathematically the same. Symmetric, except that 1000,99 answers a gold 1000.99.

    steps: the budget of operations; without it a check has its own."""
    if candidate is None or not candidate.strip() or not gold.strip():
        return False
    if max(len(candidate), len(gold)) > MAX_ANSWER:
        return candidate.strip() == gold.strip()
    candidate, gold = normalise(candidate), normalise(gold)
    if candidate == gold:
        return gold != ""
    if re.fullmatch(r"-?\d+\.\d\d", gold) and candidate == gold.replace(".", ","):   # a decimal comma
        return True
    choices = [re.fullmatch(r"\(?([A-J])\)?", text) for text in (candidate, gold)]
    texts = [_CHOICE.fullmatch(text) for text in (candidate, gold)]
    if any(choices) and all(texts):                                                  # (C) 12 and option C are C
        return texts[0][1] == texts[1][1]
    steps = steps or Steps()
    try:
        return _same(_read(candidate, steps), _read(gold, steps), steps)
    except Unreadable:                                                               # more operations than a check may do
        return False


# A choice with what it stands for: "(C) 12", "option C"; but not "(C) or (D)", "(C)?".
_REST = (r" (?!.*\b[A-J][).:])(?! ?(?:[,;?!/*+<>=^_|~&']|\\(?:cup|pm|to|ne|le|ge)\b|(?:or|and|is|not|nor|but|wrong)\b)).*")
_CHOICE = re.compile(rf"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer) ?\(?|\()?([A-J])(?:[).:](?:{_REST})?|(?= [A-Z][a-z]){_REST})?")


def is_readable(text: str, steps: Steps) -> bool:
    """Whether a text is an answer in itself: a value, with or without unit, a list, a relation, ...; not a sentence."""
    if not text.strip() or len(text) > MAX_ANSWER:
        return False
    text = normalise(text)
    if re.fullmatch(r"(?:[Oo]ption |[Cc]hoice )?\(?[A-J]\)?|[Yy]es|[Nn]o", text):
        return True
    try:
        return _readable(_read(text, steps))
    except Unreadable:
        return False


def _readable(answer) -> bool:
    if answer.parts:
        return all(map(_readable, answer.parts))
    written = re.fullmatch(r"\d+(_\d+|:\d+(:\d+)?( ?[ap]m)?)", answer.text, re.IGNORECASE)      # 204_5, 6:15 PM, 3:4
    return bool(answer.readings or answer.range or answer.equation or written)


# Reading.

@dataclass
class _Answer:
    kind: str                     # "one" expression, or what holds the parts together: "set", "()", "[)", "relation", ...
    parts: list                   # of _Answer; empty for "one"
    text: str = ""                # "one" only, as are the following
    readings: list = field(default_factory=list)    # of (values, Unit or None); none where it is not an expression but words
    name: str = ""                # x in x = 5
    equation: list | None = None  # left minus right side at each point, where it is an equation
    range: tuple = ()             # (10, 15) in 10-15
    percent: bool = False
    order: str = ""               # "relation" only: "<", "\\le \\le", ...
    interval: object = None       # "relation" only: 1 < x <= 3 as an _Answer (1, 3], where it is one


def _read(text: str, steps: Steps, depth: int = 0) -> _Answer:
    """An answer as a tree of sets, tuples, intervals, matrices and relations over single expressions."""
    text = text.strip()
    if depth > MAX_DEPTH:
        return _Answer("one", [], text)

    def parts(kind, pieces):
        return _Answer(kind, [_read(piece, steps, depth + 1) for piece in pieces])

    name, _, right = text.partition("=")
    if "=" not in right and re.fullmatch(r"\\?[A-Za-z]+(_\w+)?'*|\([\w, ]+\)|\\vec ?\{?\w\}?", name.strip()) and \
            re.search(r"[,;&]", right):
        text = right.strip()                                                            # (x, y) = (1, 2)
    if text.startswith("(\\begin") and text.endswith(")") and _closes_at_end(text):
        text = text[1:-1].strip()
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix["rows"].strip(" ;").split(";")]
        if len(rows) == len(rows[0]) == 1:
            return _read(rows[0][0], steps, depth + 1)
        kind = "determinant" if matrix["name"] in ("vmatrix", "Vmatrix") else "cases" if matrix["name"] == "cases" else "matrix"
        return parts(f"{kind} {[len(row) for row in rows]}", [cell for row in rows for cell in row])
    if len(pieces := _split(text, "\\cup")) > 1:
        return parts("union", pieces)
    if re.fullmatch(r"<[^<>]*,[^<>]*>", text):                                          # a vector
        text = f"({text[1:-1]})"
    lists = _split(text, ";")
    if len(lists) > 1 and all(re.fullmatch(r"[^=,]*=[^=,]*(,[^=,]*=[^=,]*)+", piece) for piece in lists):
        values = [",".join(one.partition("=")[2] for one in piece.split(",")) for piece in lists]
        return parts("set", [f"({value})" for value in values])                         # p=5,q=2; p=7,q=2
    pieces = [both for one in lists for piece in _split(one, ",") for both in _plus_and_minus(piece)]
    if len(pieces) > 1:
        return parts("set", pieces)
    if text.startswith(("\\{", "{")) and text.endswith("}") and _closes_at_end(text):
        inner = text.lstrip("\\")[1:-1].removesuffix("\\")
        elements = _read(inner, steps, depth + 1)
        return elements if elements.kind == "set" or not inner.strip() else _Answer("set", [elements])
    if text.startswith(("(", "[")) and text.endswith((")", "]")) and _closes_at_end(text):
        pieces = _split(text[1:-1], ",")
        pieces = pieces if len(pieces) > 1 else _split(text[1:-1], ";")
        if len(pieces) > 1:
            return parts(text[0] + text[-1], pieces)
    if 1 < len(pieces := re.split(r"(\\(?:le|ge|ne)(?![A-Za-z])|[<>])", text)) < 20:
        return _relation(pieces[0::2], pieces[1::2], steps, depth)
    return _read_one(text, steps)


_MATRIX = re.compile(r"(?:[\[(] ?)?\\begin\{(?P<name>[pbvBV]?(?:small)?matrix|array|cases)\}(?: ?\{[lcr| ]*\})?(?P<rows>.*)"
                     r"\\end\{(?P=name)\}(?: ?[\])])?")


def _split(text: str, separator: str) -> list[str]:
    """Split where no bracket or environment is open. All brackets count alike, since [0, 1) is an interval."""
    if separator not in text:
        return [text]
    pieces, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "\\":
            depth += text.startswith("\\begin{", at) - text.startswith("\\end{", at)
        if depth == 0 and text.startswith(separator, at):
            pieces.append(text[start:at])
            start = at + len(separator)
    return pieces + [text[start:]]


def _plus_and_minus(text: str) -> list[str]:
    """3 \\pm 2 stands for 3 + 2 and 3 - 2. Inside the brackets of a set or a tuple it is left for later."""
    if "\\pm" not in text or text.startswith(("\\{", "{", "(", "[")) and _closes_at_end(text):
        return [text]
    return [text.replace("\\pm", sign).replace("\\mp", opposite) for sign, opposite in ("+-", "-+")]


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text is closed by its last character: no for (a+1)(b+2)."""
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text.lstrip("\\"))
    return next((at for at, depth in enumerate(depths, 1) if depth == 0), 0) == len(text.lstrip("\\"))


def _relation(sides: list[str], signs: list[str], steps: Steps, depth: int) -> _Answer:
    """Inequalities, turned so that they ascend: 5 > x is x < 5. What bounds one name is an interval as well."""
    if all(sign in (">", "\\ge") for sign in signs):
        sides, signs = sides[::-1], [{">": "<", "\\ge": "\\le"}[sign] for sign in signs[::-1]]
    answer = _Answer("relation", [_read(side, steps, depth + 1) for side in sides], order=" ".join(signs))
    if len(sides) == 2 and signs[0] != "\\ne":
        if _is_name(sides[0]):
            sides, signs = ["-\\infty", *sides], ["<", *signs]
        elif _is_name(sides[1]):
            sides, signs = [*sides, "\\infty"], [*signs, "<"]
    if len(sides) == 3 and _is_name(sides[1]) and set(signs) <= {"<", "\\le"}:
        kind = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
        answer.interval = _Answer(kind, [_read_one(sides[0], steps), _read_one(sides[2], steps)])
    if len(answer.parts) == 2:
        answer.equation = _difference(*(part.readings[0][0] if part.readings else None for part in answer.parts))
    return answer


_CAPITALS = re.compile(r"\\(?:angle|triangle|overline|overrightarrow|vec|frac|measuredangle|widehat|hat|bar|odot)"
                       r"(?![A-Za-z])|m(?= ?\\)|_\{[^{}]*\}|_\w+|[{}|:/ ()°]")


_NAME = re.compile(
    rf"(?:[A-Za-z]|\\(?:{GREEK}))(?:_\w+|_\{{[^{{}}]*\}})?'*(?:\^\{{-1\}})?(?: ?\([^()]*\))?|"      # x_1, f(x), f^{-1}(x)
    rf"\\?(?:{'|'.join(FUNCTIONS)}) ?(?:\\?[A-Za-z]+|\(\\?[A-Za-z]+\)|\{{[A-Za-z]+\}}|\\angle ?[A-Z]+)")       # \tan A


def _is_name(text: str) -> bool:
    """Whether the left side of x = 5 only names what has the value: a variable, f(x), |AB|, \\angle ABC, the total cost."""
    text = text.strip()
    if _NAME.fullmatch(text) or re.fullmatch(r"[A-Z]{1,6}", _CAPITALS.sub("", text)):
        return True
    words = re.findall(r"[A-Za-z]+", text)                                              # the total cost
    return re.fullmatch(r"[A-Za-z '()-]+", text) is not None and not any(word.lower() in NOT_UNITS for word in words) \
        and any(len(word) > 2 and re.search("[aeiou]", word) for word in words)


def _read_one(text: str, steps: Steps) -> _Answer:
    """A single expression with its unit: evaluated where it is one, else kept as words. "x = 5" is an equation and a 5."""
    percent = "%" in text
    # a space only tells letters or digits apart: "6 : 15 PM" and "6:15PM" are the same words, "1 2" and "12" are not
    words = re.sub(r"(?<![^\W\d]) (?!\d)|(?<!\d) (?![^\W\d])|(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)", "", text)
    exact, *rounded = re.split(r"\\approx(?![A-Za-z])", text.replace("%", ""))
    if not exact.strip() and rounded:                                                   # \approx 3.14
        exact = rounded.pop()
    left, *rights = exact.split("=")
    name, equation, expression = "", None, exact
    if rounded and not rights and _is_name(left):
        left, rights, rounded = left, rounded[:1], rounded[1:]
    if rights:
        expression = rights[-1]
        if _is_name(left):
            name = re.sub(r" |\([^()]*\) ?$", "", left)
        else:
            number = (split_unit(expression) or [expression])[0]
            sides = [evaluate(side, steps) for side in (left, *rights[:-1], number)]
            if len(rights) == 1:
                equation = _difference(*sides)
            if not _all_agree(sides) and not (len(rights) > 1 and _all_agree(sides[1:])):
                expression = ""                                                         # x + y = 5 is not a 5, nor 4 = 5
    readings, bounds = _values(expression, steps) if expression.strip() else ([], ())
    if name and len(rights) == 1 and readings:
        equation = _difference(evaluate(left, steps), readings[0][0])
    if rounded and readings and not PLAIN.fullmatch(expression.strip()):                # 1/3 \approx 0.33
        near, digits = evaluate(rounded[-1], steps), len(rounded[-1].strip().partition(".")[2])
        if near and all(x is not None and y is not None and math.isclose(x, y, rel_tol=0, abs_tol=0.51 * 10.0 ** -min(digits, 99))
                        for x, y in zip(near, readings[0][0])):
            readings.append((near, None))
    words = words.rpartition("=")[2] if name else words
    return _Answer("one", [], words, readings, name, equation, bounds, percent)


def _difference(left: list | None, right: list | None) -> list | None:
    """Left minus right side of an equation or inequality in variables: 5 = 6 and 1 < 2 are none."""
    if not left or not right:
        return None
    try:
        values = [None if x is None or y is None else x - y for x, y in zip(left, right)]
    except OverflowError:
        return None
    return values if len({value for value in values if value is not None}) > 1 else None


def _all_agree(sides: list) -> bool:
    """Whether all are numbers, and the same."""
    return all(side and None not in side and len(set(side)) == 1 and _agree(side, sides[0]) for side in sides)


_RANGE = re.compile(r"(\d[\d.,/]*)( ?)- ?(\d[\d.,/]*)")


def _values(text: str, steps: Steps) -> tuple[list, tuple]:
    """The readings of an expression, and the ends of a range. 10-15 is a range and no -5; 10 - 15 may be either."""
    found = split_unit(text)
    number = found[0] if found else text
    readings, bounds = [], ()
    if ends := _RANGE.fullmatch(number.strip(" ()")):
        bounds = tuple(evaluate(end, steps) for end in (ends[1], ends[3]))
    if not bounds and re.fullmatch(r"\d+(-\d+)+", number.strip()) or bounds and not ends[2]:
        return [], bounds
    if values := evaluate(text, steps):
        readings.append((values, None))
    with_unit = found if not readings else None
    if found is None:
        with_unit = split_unit(text, letters=True)                                      # "5 m" may be 5 times m or 5 metres
    if with_unit and (values := evaluate(with_unit[0], steps)):
        if values[0] is not None and values[1:] == values[:-1]:                         # 5 apples, but not x apples
            readings.append(([value * with_unit[1] for value in values], with_unit[2]))
    return readings, bounds


def numbers_in(text: str, steps: Steps) -> list[tuple]:
    """The number that an answer is, with its Unit or None; two of these where "5 m" has two readings. [] for anything else: a
    list, a range, an expression with variables."""
    if not text.strip() or len(text) > MAX_ANSWER:
        return []
    try:
        answer = _read(normalise(text), steps)
    except Unreadable:
        return []
    return [] if answer.range else [(values[0], unit) for values, unit in answer.readings
                                    if values[0] is not None and len(set(values)) == 1]


# Comparing.

def _same(a: _Answer, b: _Answer, steps: Steps) -> bool:
    """Compare two trees: in any order for sets and unions, in order for everything else."""
    if a.interval and b.kind != "relation":
        a = a.interval
    if b.interval and a.kind != "relation":
        b = b.interval
    if {a.kind, b.kind} == {"set", "union"}:                                            # x < 1 or x > 4
        a, b = (_Answer("union", [p.interval for p in x.parts]) if all(p.interval for p in x.parts) else x for x in (a, b))
    if a.kind != b.kind:
        one, other = (a, b) if a.kind == "set" else (b, a)
        if one.kind == "set" and other.kind == "()" and _named(one):                    # x = 1, y = 2 is (1, 2)
            return len(one.parts) == len(other.parts) and all(_same(x, y, steps) for x, y in zip(one.parts, other.parts))
        return one.kind == "set" and len(one.parts) == 1 and _same(one.parts[0], other, steps)  # {5} is 5
    if a.kind == "one":
        steps.take(4)       # as much work as a few operations
        return _same_one(a, b)
    if a.kind == "relation":
        return _same_relation(a, b, steps)
    if len(a.parts) != len(b.parts):
        return False
    if a.kind not in ("set", "union") or len(a.parts) > MAX_PARTS or _named(a) != _named(b):   # x = 1, y = 2 is not 2, 1
        return all(_same(x, y, steps) for x, y in zip(a.parts, b.parts))
    unmatched = list(b.parts)
    for part in a.parts:
        match = next((other for other in unmatched if _same(part, other, steps)), None)
        if match is None:
            return False
        unmatched = [other for other in unmatched if other is not match]
    return True


def _named(answer: _Answer) -> bool:
    """Whether the parts have names that differ."""
    names = [part.name for part in answer.parts]
    return len(names) > 1 and all(names) and len(set(names)) == len(names)


def _same_relation(a: _Answer, b: _Answer, steps: Steps) -> bool:
    if a.order != b.order:
        return False
    if a.equation and b.equation:       # x < 1 is -x > -1: the same up to a factor, which is positive unless the sign is "not"
        factor = _factor(a.equation, b.equation)
        return factor is not None and (factor > 0 or a.order == "\\ne")
    return len(a.parts) == len(b.parts) and all(_same(x, y, steps) for x, y in zip(a.parts, b.parts))


def _same_one(a: _Answer, b: _Answer) -> bool:
    if a.name and b.name and a.name != b.name:      # y = 5 is not x = 5, but y = x is x = y
        return bool(a.equation and b.equation) and _factor(a.equation, b.equation) is not None
    if a.text == b.text:
        return a.text != ""
    if a.range and b.range:
        return all(x and y and _agree(x, y) for x, y in zip(a.range, b.range))
    if a.equation and b.equation and not (a.name and a.name == b.name):
        return _factor(a.equation, b.equation) is not None
    if a.readings and b.readings:
        return any(_same_value(x, y, a.percent, b.percent) for x in a.readings for y in b.readings)
    return not a.readings and not b.readings and len({re.sub(r"^(?:an?|the) ", "", x.text.casefold()) for x in (a, b)}) == 1


def _same_value(a: tuple, b: tuple, a_percent: bool, b_percent: bool) -> bool:
    (a, a_unit), (b, b_unit) = a, b
    if a_unit and b_unit:
        if a_unit.powers != b_unit.powers:
            return False
        return _agree(a, b, a_unit.factor / b_unit.factor)
    return _agree(a, b) or a_percent != b_percent and (
        _agree(a, b, Fraction(1, 100)) if a_percent else _agree(b, a, Fraction(1, 100)))


def _factor(a: list, b: list):
    """The number that b is multiplied with to give a, at every point where either has a value; None where there is none, or it
    is zero."""
    pairs = [(x, y) for x, y in zip(a, b) if x is not None or y is not None]
    if any(None in pair for pair in pairs):
        return None
    try:
        factor = next((x / y for x, y in pairs if x and y), None)
        return factor if factor is not None and all(_close(x, y * factor) for x, y in pairs) else None
    except OverflowError:
        return None


def _agree(a: list, b: list, scale: Fraction = Fraction(1)) -> bool:
    """Whether two expressions have the same value at every point where they have one at all."""
    pairs = [(x, y) for x, y in zip(a, b) if x is not None or y is not None]
    return bool(pairs) and all(None not in pair and _close(pair[0] * scale, pair[1]) for pair in pairs)


def _close(x, y) -> bool:
    """Exact for fractions; to nine digits where a root or a constant made it a float. A decimal that is rounded to ten digits or
    more stands for a fraction that has no end."""
    try:
        if isinstance(x, float) or isinstance(y, float):
            return math.isclose(x, y, rel_tol=1e-9, abs_tol=0 if x and y else 1e-12)
        if x == y or (10 ** 200 % x.denominator == 0) == (10 ** 200 % y.denominator == 0):
            return x == y
        return f"{float(x):.9e}" == f"{float(y):.9e}" or math.isclose(x, y, rel_tol=1e-10)
    except OverflowError:
        return False

"""The equations inside a solution in words: "he sold 48/2 = 24 clips" has 48/2 = 24, which holds.

    equations("2 boxes * 3 pens = 6 pens, and 6 - 1 = 4")       [2*3=6, which holds; 6-1=4, which does not]

An equation has an operation on at least one side and numbers alone on both (tasks/expression.py evaluates them). Where GSM8K's
calculator marks stand, <<48/2=24>>, these are the equations, and no others. What cannot be read for certain is left out and
never called wrong: variables, words in the place of numbers, units that differ (2 hours + 30 minutes = 150 minutes).
"""

import re
from dataclasses import dataclass
from itertools import pairwise

from tasks.expression import Steps, evaluate
from tasks.units import split_unit

MAX_TEXT = 32_768     # characters that are read
MAX_EQUATIONS = 500   # that are read
MAX_TOKENS = 40       # numbers, operators and brackets on one side
TOLERANCE = 1e-3      # 10 / 3 = 3.333 holds and 10 / 3 = 3.33 does not (RFT, arXiv 2308.01825)

_MARKED = re.compile(r"<<([^<>]*)>>")
_EQUALS = re.compile(r"(?<![<>!=:~])=(?![=>])")
_TOKEN = re.compile(r"\\frac(?=[{\d])|\d+(?:\.\d+)?|\.\d+|[-+*/^()\[\]{}]")
_TIMES, _DIVIDED, _MINUS = (re.compile(pattern) for pattern in (r"×|∗|·|\\times|\\cdot", r"÷|\\div(?![a-z])", "[−–]"))
_LETTER_X = re.compile(r"(?<=[\d)%])\s*[xX]\s*(?=[($€£\d.])")
_PART_OF = re.compile(r"(?<=[\d%])\s+of\s+(?=[$€£(]?\s?\d)")
_NOISE = re.compile(r"\\?[$€£]|\\(?:left|right|[()\[\],;! ])|\*\*|\\quad|&")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*\\?%")
_GROUP = re.compile(r"\d{3}")                              # of 409 500, perhaps
# behind a number: an operation, a bracket or a letter at its side, more digits, or dots for these
_GOES_ON = re.compile(r"\s*[-+*/^]|[([{A-Za-z]|\s+\d|\.\.|…")
_LIST_MARK = re.compile(r"^\s*[-*•+]\s+")
# words behind a number and before an operation, as in "2 boxes * 3 pens per box = 6"
_UNIT = re.compile(r"(?<=[\d)])(\s?/?\s?[A-Za-z]+(?:\s/?\s?[A-Za-z]+|/[A-Za-z]+){0,3})(?=\s*[-+*/=](?!\w*[A-Za-z]))")


@dataclass(frozen=True)
class Equation:
    """Two expressions without spaces, such as 48/2 and 24, and whether they are equal."""
    left: str
    right: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.left}={self.right}"


def equations(text: str) -> list[Equation]:
    """The equations of a text, in order. a = b = c is two of them."""
    text, found = text[:MAX_TEXT], []
    for line in _MARKED.findall(text) or text.split("\n"):
        if "=" in line:
            found += _in_line(line)
        if len(found) >= MAX_EQUATIONS:
            break
    return found[:MAX_EQUATIONS]


def _in_line(line: str) -> list[Equation]:
    """The equations of one line."""
    sides, found = _EQUALS.split(_plain(_LIST_MARK.sub("", line))), []
    units = [None] * len(sides)
    for i, side in enumerate(sides[:-1]):
        sides[i], units[i] = _without_units(side + "=")
    for (left, unit), (right, _) in pairwise(zip(sides, units)):
        if unit == "mixed":
            continue
        a, b = _last_expression(left), _first_expression(right)
        if a and b and any(re.search(r"[^-+*/^]\s*[-+*/^]|frac", side) for side in (a, b)):
            found.append(Equation(_tidy(a), _tidy(b), _equal(a, b)))
    return found


def _plain(line: str) -> str:
    """One spelling for the signs of arithmetic; currency is left out, 20% becomes (20/100)."""
    line = _TIMES.sub("*", line)
    line = _MINUS.sub("-", _DIVIDED.sub("/", line))
    line = _NOISE.sub("", _LETTER_X.sub(" * ", line))
    line = _THOUSANDS.sub("", _PART_OF.sub(" * ", line))
    return _PERCENT.sub(r"(\1/100)", line)


def _without_units(side: str) -> tuple[str, str | None]:
    """A side (with the = behind it) without the units behind its numbers. "mixed" beside it where they cannot just be dropped:
    a number of things that is none (2 dozen), or one kind of measure in two sizes (hours and minutes)."""
    sizes, mixed = {}, False

    def drop(found: re.Match) -> str:
        nonlocal mixed
        read = split_unit(f"1 {found[1].strip().lstrip('/ ')}")
        if read is None:                                  # no unit: the words stay, and end the expression
            return found[0]
        _, scale, measure = read
        mixed = mixed or scale != 1
        if measure:
            mixed = mixed or sizes.setdefault(measure.powers, measure.factor) != measure.factor
        return " "
    return _UNIT.sub(drop, side).removesuffix("="), "mixed" if mixed else None


def _last_expression(side: str) -> str | None:
    """The longest expression that ends a side, as 3 + 4 in "in 2019 3 + 4"; None where an operation before it has an operand that
    is no number."""
    tokens, end = [], len(side)
    for token in reversed(list(_TOKEN.finditer(side))):
        if side[token.end():end].strip():
            break
        tokens.insert(0, token)
        end = token.start()
    after_word = bool(re.search(r"[A-Za-z]\s*$", side[:end]))
    for first in range(max(0, len(tokens) - MAX_TOKENS), len(tokens)):
        here, before = tokens[first][0], tokens[first - 1][0] if first else ""
        if before and before in "+-*/^([{" or before == "\\frac":
            continue
        if before[-1:].isdigit() and _GROUP.fullmatch(here) or not first and after_word and here in "+-*/^":
            return None                                   # 350 000 * 2, or "the apples - 3"
        text = side[tokens[first].start():tokens[-1].end()]
        if _value(text) is not None:
            return text
        if here in "+-*/^":
            return None
    return None


def _first_expression(side: str) -> str | None:
    """The longest expression that begins a side, as 24 in "24 clips"; None where what follows belongs to it and is no number."""
    tokens, end = [], 0
    for token in _TOKEN.finditer(side):
        if side[end:token.start()].strip() or len(tokens) == MAX_TOKENS:
            break
        tokens.append(token)
        end = token.end()
    for last in range(len(tokens), 0, -1):
        text, rest = side[tokens[0].start():tokens[last - 1].end()], side[tokens[last - 1].end():]
        if _value(text) is not None:
            return None if _GOES_ON.match(rest) else text
    return None


def _value(text: str) -> float | None:
    value = evaluate(text, Steps(400))
    return None if value is None or value[0] is None else float(value[0])


def _equal(left: str, right: str) -> bool:
    """Equal up to the tolerance. A percentage on the right may be meant as a number of percent: 10 / 50 * 100 = 20%."""
    a, b = _value(left), _value(right)
    percent = bool(re.fullmatch(r"\([\d.]+/100\)", right))
    return abs(a - b) < TOLERANCE or percent and abs(a - 100 * b) < TOLERANCE


def _tidy(text: str) -> str:
    """Without spaces, and numbers in one spelling: 3.0 is 3, .5 is 0.5."""
    def number(found: re.Match) -> str:
        whole, point, rest = found[0].partition(".")
        rest = rest.rstrip("0")
        return (whole.lstrip("0") or "0") + (f".{rest}" if point and rest else "")
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(r"\d+(?:\.\d+)?|\.\d+", number, text))

"""Comparing answers: is the final answer of a completion the same number, set, interval, ... as the gold answer?

    extract_answer(completion)           the final answer in a text, None where there is none
    same_answer("\\frac12", "0.5")       whether two answers are mathematically the same
    check_answer(completion, gold)       both in one

The check is a pipeline of small pure functions: extract_answer finds the final answer in a text, _normalise removes
LaTeX cosmetics, _read splits it into sets, tuples, intervals and matrices down to single expressions, and an
expression is evaluated by a small parser over exact fractions. An expression with variables is evaluated at fixed
pseudo-random points: two polynomials that agree there are taken as equal. Texts come from models, so nothing here
calls eval, every size is bounded, and no input raises.

What it simplifies: units are dropped, not converted (5 cm = 5); a bare one-letter unit reads as a variable; a percent
sign is dropped, but 50% also equals 0.5; decimals are exact (0.33 is not 1/3); i is a variable, so i^2 is not -1;
inequalities and words are compared side by side, not understood.
"""
import itertools
import math
import re
from dataclasses import dataclass
from fractions import Fraction

from expression import MAX_DEPTH, evaluate

MAX_TEXT = 4096    # characters at the end of a completion in which an answer is sought
MAX_ANSWER = 512   # characters of an answer; longer ones are only compared as strings
MAX_PARTS = 64     # elements of a set that are compared in any order


# Finding the answer in a completion.

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s?")
_PHRASE = re.compile(r"\banswer(?: is|:)[:*\s]*", re.IGNORECASE)
_MARKED = _BOX, re.compile(r"<answer>"), re.compile(r"####"), _PHRASE


def check_answer(text: str, gold: str) -> bool:
    """Whether the final answer of a completion equals the gold answer."""
    return same_answer(extract_answer(text), gold)


def after_thinking(text: str) -> str | None:
    """What a completion says once it has thought: all behind the last </think>; None while a <think> is still open."""
    rest = text.rpartition("</think>")[2]
    return None if "<think>" in rest else rest


def extract_answer(text: str) -> str | None:
    """The final answer of a completion: the last \\boxed{}, else <answer>, else ####, else "answer is", else the last
    number. After a </think>, only what follows it counts; a <think> that never ends has no answer yet (None)."""
    tail = (after_thinking(text) or "")[-MAX_TEXT:]
    for find in (boxed, _tagged, _after_hashes, _after_phrase, _last_number):
        answer = (find(tail) or "").strip(" \t\r\n*")
        if answer:
            return answer
    return None


def count_answers(text: str) -> int:
    """How often the text, thinking left out, gives a final answer in the strongest form that it uses: \\boxed{}, else
    <answer>, else ####, else "answer is"; 0 where it only mentions numbers. "The answer is \\boxed{5}" gives one."""
    tail = (after_thinking(text) or "")[-MAX_TEXT:]
    return next((len(found) for pattern in _MARKED if (found := pattern.findall(tail))), 0)


def boxed(text: str) -> str | None:
    """Content of the last \\boxed{...} or \\fbox{...} whose braces balance, or the word after `\\boxed `."""
    boxes = list(_BOX.finditer(text))
    for box in reversed(boxes[-8:]):
        if not text.startswith("{", box.end()):
            return re.match(r"[^\s$]*", text[box.end():])[0].rstrip(".,;")
        depth = 0
        for brace in re.finditer(r"\\.|[{}]", text[box.end():], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)  # \{ and \} are not counted
            if depth == 0 and brace[0] == "}":
                return text[box.end() + 1:box.end() + brace.start()]
    return None


def _tagged(text: str) -> str | None:
    _, tag, rest = text.rpartition("<answer>")
    return rest.split("</answer>")[0] if tag and "</answer>" in rest else None


def _after_hashes(text: str) -> str | None:
    _, hashes, rest = text.rpartition("####")
    return rest.strip().split("\n")[0] if hashes else None


def _after_phrase(text: str) -> str | None:
    """What follows the last "answer is" or "Answer:", up to the end of the sentence or line."""
    phrases = list(_PHRASE.finditer(text))
    return re.split(r"[.!?](?=[*\s]|$)|\n|,?\s(?:because|since)\s", text[phrases[-1].end():])[0] if phrases else None


def _last_number(text: str) -> str | None:
    numbers = re.findall(r"(?:(?<![\w)}])[-−])?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?%?", text)
    return numbers[-1] if numbers else None


# Comparing two answers.

def same_answer(candidate: str | None, gold: str) -> bool:
    """Whether two answers are mathematically the same. Symmetric, except that "(C) 12" answers a gold "C"."""
    if candidate is None or not candidate.strip() or not gold.strip():
        return False
    if max(len(candidate), len(gold)) > MAX_ANSWER:
        return candidate.strip() == gold.strip()
    candidate, gold = _normalise(candidate), _normalise(gold)
    if candidate == gold:
        return gold != ""
    choice, chosen = re.fullmatch(r"\(?([A-J])\)?", gold), re.match(r"\(?([A-J])[).:]\s", candidate)
    if choice and chosen:
        return chosen[1] == choice[1]
    return _same(_read(candidate), _read(gold))


_SPELLINGS = [  # applied in this order
    ("\\\\", ";"), ("\\!", ""), ("{,}", ""), ("\\$", "$"), ("\\%", "%"), (" percent", "%"), ("−", "-"), ("–", "-"),
    ("×", "*"), ("·", "*"), ("÷", "/"), ("**", "^"), ("π", "\\pi "), ("∞", "\\infty "), ("√", "sqrt"), ("²", "^2"),
    ("³", "^3"), ("±", "\\pm "), ("∪", "\\cup "), ("∈", "\\in "), ("≤", "\\le "), ("≥", "\\ge "), ("≠", "\\ne "),
    ("<=", "\\le "), (">=", "\\ge "), ("\\lbrace", "\\{"), ("\\rbrace", "\\}"),
]
_LATEX = [(re.compile(pattern), replacement) for pattern, replacement in [
    (r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|math(?:rm|bf|it|sf)|operatorname)\s*(?=\{)", r"\\text"),
    (r"(?<=[\d}])(?:\\[,; ]|\s)*\\text\{\s*[gmshLNJVW]\s*\}(?:\^\d|\^\{\d\})?", ""),  # 5\text{ m}^2: a one-letter unit
    (r"\\text\{([^{}]*)\}", r" \1 "),
    (r"(?<=\d)\\,(?=\d{3})", ""),                                                       # 1\,234
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])\.?", ""),
    (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
    (r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])|°", ""),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
    (r"\\div(?![A-Za-z])", "/"),
    (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1 "),
    (r"\\[()\[\]]|[$€£¥]", ""),                                                         # delimiters and currencies
    (r"_\s*\{\s*(\w+)\s*\}", r"_\1"),
    (r"\s+", " "),
    (r",? (?:and|or) ", ", "),
    (r"^ ?[A-Za-z] ?\\in ", ""),                                                        # x \in [0, 1]
]]


def _normalise(text: str) -> str:
    """One spelling for what is written in many ways: dashes, spaces, fonts, units in \\text, thousands separators."""
    text = re.sub(r",\\!\s*", "", text.strip(" *`\"'"))                                   # 11,\! 100
    for old, new in _SPELLINGS:
        text = text.replace(old, new)
    for pattern, new in _LATEX:
        text = pattern.sub(new, text)
    if not re.search(r"[(\[{]", text):  # inside brackets a comma separates: (1,234) is a pair
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)", lambda number: number[0].replace(",", ""), text)
    return text.strip().rstrip(" .,;:")


@dataclass
class _Answer:
    kind: str                     # "one" expression, or what holds the parts together: "set", "()", "[)", "<", ...
    parts: list                   # of _Answer; empty for "one"
    text: str = ""                # "one" only, as are the following
    values: list | None = None    # at each random point; None where it is not an expression but words
    equation: list | None = None  # left minus right side at each point, where it is an equation
    percent: bool = False


def _read(text: str, depth: int = 0) -> _Answer:
    """An answer as a tree of sets, tuples, intervals, matrices and inequalities over single expressions."""
    text = text.strip()
    if depth > MAX_DEPTH:
        return _Answer("one", [], text)

    def parts(kind, pieces):
        return _Answer(kind, [_read(piece, depth + 1) for piece in pieces])

    name, _, right = text.partition("=")
    if "=" not in right and re.fullmatch(r"\w|\([\w, ]+\)", name.strip()) and re.search(r"[,;&]", right):
        text = right.strip()                                                            # (x, y) = (1, 2)
    if matrix := re.fullmatch(r"\\begin\{([pbvBV]?)matrix\}(.*)\\end\{\1matrix\}", text):
        rows = [row.split("&") for row in matrix[2].strip(" ;").split(";")]
        return parts(f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row])
    if len(pieces := _split(text, "\\cup")) > 1:
        return parts("union", pieces)
    pieces = [both for piece in _split(text, ",") for both in _plus_and_minus(piece)]
    if len(pieces) > 1:
        return parts("set", pieces)
    if text.startswith(("\\{", "{")) and text.endswith("}") and _closes_at_end(text):
        inner = text.lstrip("\\")[1:-1].removesuffix("\\")
        elements = _read(inner, depth + 1)
        return elements if elements.kind == "set" or not inner.strip() else _Answer("set", [elements])
    if text.startswith(("(", "[")) and text.endswith((")", "]")) and _closes_at_end(text):
        pieces = _split(text[1:-1], ",")
        if len(pieces) > 1:
            return parts(text[0] + text[-1], pieces)
    if len(pieces := re.split(r"(\\(?:le|ge|ne)(?![A-Za-z])|[<>])", text)) > 1:
        return parts(" ".join(pieces[1::2]), pieces[0::2])
    return _read_one(text)


def _split(text: str, separator: str) -> list[str]:
    """Split where no bracket is open. All brackets count alike, since [0, 1) is an interval."""
    pieces, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and text.startswith(separator, at):
            pieces.append(text[start:at])
            start = at + len(separator)
    return pieces + [text[start:]]


def _plus_and_minus(text: str) -> list[str]:
    """3 \\pm 2 stands for 3 + 2 and 3 - 2. Inside brackets it is left for later."""
    if len(_split(text, "\\pm")) == 1:
        return [text]
    return [text.replace("\\pm", sign).replace("\\mp", opposite) for sign, opposite in ("+-", "-+")]


def _closes_at_end(text: str) -> bool:
    """Whether the bracket that opens the text is closed by its last character: no for (a+1)(b+2)."""
    depths = itertools.accumulate((char in "([{") - (char in ")]}") for char in text.lstrip("\\"))
    return next((at for at, depth in enumerate(depths, 1) if depth == 0), 0) == len(text.lstrip("\\"))


def _read_one(text: str) -> _Answer:
    """A single expression: evaluated where it is one, else kept as words. "x = 5" is both an equation and a 5."""
    percent, equation = "%" in text, None
    # a space only tells letters or digits apart: "6 : 15 PM" and "6:15PM" are the same words, "1 2" and "12" are not
    words = re.sub(r"(?<![^\W\d]) (?!\d)|(?<!\d) (?![^\W\d])|(?<=\d) (?=[^\W\d])|(?<=[^\W\d]) (?=\d)", "", text)
    left, *rights = text.replace("%", "").split("=")
    expression = rights[-1] if rights else left
    values = evaluate(expression) or evaluate(_without_unit(expression))
    if rights:
        equation = evaluate(f"({left})-({expression})") if len(rights) == 1 else None
        if re.search(r"[A-Za-z]", left) and not re.fullmatch(r" ?\\?[A-Za-z]+(_\w+)?(\(\w\))? ?", left):
            values = None                                                               # x + y = 5 is not a 5
    return _Answer("one", [], words, values, equation, percent)


_NOT_UNITS = {"am", "pm", "dozen", "hundred", "thousand", "million", "billion", "trillion", "squared", "cubed"}


def _without_unit(text: str) -> str:
    """Drop the words after a number: 12 apples, 5 cm^2, 3 miles per hour. Not 5 million, and not 5 x."""
    unit = re.search(r"(?<![A-Za-z\\])[A-Za-z][A-Za-z /.-]*(?: ?\^ ?(?:\d|\{\d\}))? ?$", text)
    words = re.findall(r"[A-Za-z]+", unit[0]) if unit else ["x"]
    is_unit = len(words[0]) > 1 and words[0].lower() not in _NOT_UNITS and all(len(w) > 1 or w == "a" for w in words)
    return text[:unit.start()].rstrip() if is_unit else text


def _same(a: _Answer, b: _Answer) -> bool:
    """Compare two trees: in any order for sets and unions, in order for everything else."""
    if a.kind != b.kind:
        one, other = (a, b) if a.kind == "set" else (b, a)
        return one.kind == "set" and len(one.parts) == 1 and _same(one.parts[0], other)  # {5} is 5
    if a.kind == "one":
        return _same_one(a, b)
    if len(a.parts) != len(b.parts):
        return False
    if a.kind not in ("set", "union") or len(a.parts) > MAX_PARTS:
        return all(map(_same, a.parts, b.parts))
    unmatched = list(b.parts)
    for part in a.parts:
        match = next((other for other in unmatched if _same(part, other)), None)
        if match is None:
            return False
        unmatched = [other for other in unmatched if other is not match]
    return True


def _same_one(a: _Answer, b: _Answer) -> bool:
    if a.text == b.text:
        return a.text != ""
    if a.equation and b.equation:  # the same line, up to a factor
        pairs = [pair for pair in zip(a.equation, b.equation) if None not in pair]
        try:
            factor = next((x / y for x, y in pairs if x and y), None)
            return factor is not None and all(_close(x, y * factor) for x, y in pairs)
        except OverflowError:
            return False
    if a.values and b.values:
        return _agree(a.values, b.values) or a.percent != b.percent and (
            _agree(a.values, b.values, Fraction(1, 100)) if a.percent else _agree(b.values, a.values, Fraction(1, 100)))
    return not a.values and not b.values and a.text.casefold() == b.text.casefold()


def _agree(a: list, b: list, scale: Fraction = Fraction(1)) -> bool:
    """Whether two expressions have the same value at every point where they have one at all."""
    pairs = [(x, y) for x, y in zip(a, b) if x is not None or y is not None]
    return bool(pairs) and all(None not in pair and _close(pair[0] * scale, pair[1]) for pair in pairs)


def _close(x, y) -> bool:
    """Exact for fractions; to nine digits where a root or a constant made it a float."""
    if isinstance(x, float) or isinstance(y, float):
        try:
            return math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)
        except OverflowError:
            return False
    return x == y

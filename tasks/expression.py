"""Computes the value of a mathematical expression in LaTeX or plain text, with a small parser and exact fractions.

Texts come from models, so eval is never used. Nesting is limited, the size of every number is limited before it is computed, and
the number of operations in a check is limited (Steps).

An expression with variables is evaluated at fixed pseudo-random points, so that two forms of the same function have the same
values. A value is therefore a list with a number for each point (None if it is undefined there, as 1/0), or with a single number
if there are no variables.
"""

import functools
import math
import operator
import random
import re
from fractions import Fraction

MAX_DEPTH = 30     # nested brackets, signs and exponents
MAX_BITS = 1024    # size of an exact number
MAX_STEPS = 2000   # operations on numbers in one check; answers of MATH-500 and GSM8K need at most a few hundred
POINTS = 8         # at which expressions with variables are compared

FUNCTIONS = {name: getattr(math, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")}
FUNCTIONS |= {"arcsin": math.asin, "arccos": math.acos, "arctan": math.atan, "ln": math.log, "log": math.log10,
              "lg": math.log10, "cot": lambda x: 1 / math.tan(x), "sec": lambda x: 1 / math.cos(x),
              "csc": lambda x: 1 / math.sin(x)}
INVERSES = {"sin": math.asin, "cos": math.acos, "tan": math.atan}
_UNITS = {"cm", "mm", "km", "kg", "mg", "ml", "ft", "yd", "lb", "lbs", "hr", "hrs", "mph", "kph", "sq", "st", "nd", "rd", "th"}
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_REPEATED = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar) ?\{(\d+)\}|\\dot ?\{?(\d)\}?(?:(\d*)\\dot ?\{?(\d)\}?)?|"
                       r"\((\d+)\)|(\d)\8\8+ ?…)")
_COMMAND, _WORD, _DIGIT, _SUBSCRIPT = map(re.compile, (r"\\([A-Za-z]+)", r"[A-Za-z]+", r"\d", r"_\w+"))
_MIXED = re.compile(r" ?\\frac ?(?:\{(\d+)\}|(\d)) ?(?:\{(\d+)\}|(\d))| (\d+)/(\d+)")
GREEK = "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|chi|psi|" \
        "omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell|infty"
_VARIABLE = re.compile(rf"\\(?:{GREEK}|pi)(?![A-Za-z])|[A-Za-z](?![A-Za-z])")


class Unreadable(Exception):
    """Not an expression, or one too large to evaluate."""


class Steps:
    """The number of operations that a check may still do."""

    def __init__(self, left: int = MAX_STEPS):
        self.left = left

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise Unreadable


def evaluate(text: str, steps: Steps) -> list | None:
    """The value of an expression at each of the POINTS (None where it is undefined), or None if the text is not an expression."""
    try:
        value = _Parser(text, steps).parse()
    except Unreadable:
        return None
    return value if len(value) == POINTS else value * POINTS


@functools.lru_cache(maxsize=1024)
def _variable(name: str) -> list:
    """Fixed pseudo-random numbers, the same for a name wherever it occurs.

    |x| must not pass for x, nor |x - 100| for 100 - x, nor |x - y| for x - y, nor |xy| for xy. So the first point is large
    and positive and the second its negative; the signs at the other six are those of the bits of a letter's code, in which any
    two letters differ; and at the last three the number is a fraction below 1, so that floor(x) is not x."""
    rng = random.Random(name)
    bits = ord(name) & 63 if len(name) == 1 and name.isascii() else rng.randrange(64)
    signs = [1, -1] + [-1 if bits >> i & 1 else 1 for i in range(6)]
    sizes = 2 * [rng.randint(101, 199)] + [*rng.sample(range(5, 50), 3),
             *(Fraction(above, 101) for above in rng.sample(range(1, 101), 3))]
    return [sign * size for sign, size in zip(signs, sizes)]


def _bounded(value):
    """A number (int, Fraction or float) of bounded size; None where a float overflowed."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Unreadable
    return value


def _power(base, exponent):
    """base ** exponent, exact for whole exponents; refused before it is computed if the result would be too large. An odd
    root of a negative number is negative."""
    if not isinstance(exponent, float) and exponent.denominator == 1:
        bits = 1 if isinstance(base, float) else base.numerator.bit_length() + base.denominator.bit_length()
        if bits * abs(exponent) > MAX_BITS:
            raise Unreadable
        return (base if exponent >= 0 or isinstance(base, float) else Fraction(base)) ** exponent.numerator
    if base < 0:
        if isinstance(exponent, float) or exponent.denominator % 2 == 0:
            raise ValueError("an even root of a negative number")
        return (-1) ** exponent.numerator * float(-base) ** float(exponent)
    return float(base) ** float(exponent)


def _divide(a, b):
    return a / b if isinstance(a, float) or isinstance(b, float) else Fraction(a, b)


def _factorial(x):
    if x not in range(101):
        raise Unreadable
    return math.factorial(int(x))


def _binomial(n, k):
    if n not in range(201) or k not in range(201):
        raise Unreadable
    return math.comb(int(n), int(k))


class _Parser:
    """Recursive descent: sum > product > signed > power > atom. A LaTeX or plain expression, with 2x and 3(x+1)."""

    def __init__(self, text: str, steps: Steps):
        self.text, self.steps, self.at, self.depth = text, steps, 0, 0
        self.in_bars = self.in_angle = 0    # inside |...|, where a bar closes; and inside sin(...), where ° counts

    def parse(self) -> list:
        value = self.sum()
        if self.peek():
            raise Unreadable
        return value

    # Reading.

    def peek(self) -> str:
        while self.text.startswith(" ", self.at):
            self.at += 1
        return self.text[self.at:self.at + 1]

    def take(self, chars: str) -> str:
        """The next character if it is one of these, and step over it."""
        char = self.peek()
        if char and char in chars:
            self.at += 1
            return char
        return ""

    def match(self, pattern: re.Pattern):
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def nested(self, rule):
        """Apply a rule one level deeper; every recursion passes here."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable
        value = rule()
        self.depth -= 1
        return value

    def each(self, function, *values) -> list:
        """Apply a function of numbers at every point. Where it has no value there (1/0, an even root of -1) it gives None."""
        count = max(map(len, values))
        self.steps.take(count)
        result = []
        for point in range(count):
            numbers = [value[point % len(value)] for value in values]
            try:
                result.append(None if any(n is None for n in numbers) else _bounded(function(*numbers)))
            except (ArithmeticError, ValueError):
                result.append(None)
        return result

    # The grammar.

    def sum(self):
        value = self.product()
        while sign := self.take("+-"):
            value = self.each(operator.add if sign == "+" else operator.sub, value, self.product())
        return value

    def product(self):
        value = self.signed()
        while True:
            if sign := self.take("*/"):
                value = self.each(operator.mul if sign == "*" else _divide, value, self.signed())
            elif self.starts_factor():
                value = self.each(operator.mul, value, self.power())
            else:
                return value

    def starts_factor(self) -> bool:
        """Whether the next is multiplied without a sign, as in 2x. Not a digit: "1 2" is no product."""
        char = self.peek()
        if char == "\\":
            return not self.text.startswith(("\\rfloor", "\\rceil"), self.at)
        return char.isalpha() or char in ("(", "[", "{") or char == "|" and not self.in_bars

    def signed(self):
        if sign := self.take("+-"):
            value = self.nested(self.signed)
            return self.each(operator.neg, value) if sign == "-" else value
        return self.power()

    def power(self):
        base = self.atom()
        while self.take("!"):
            base = self.each(_factorial, base)
        if self.take("°"):
            return self.each(math.radians, base) if self.in_angle else base
        return self.each(_power, base, self.nested(self.signed)) if self.take("^") else base

    def atom(self):
        char = self.peek()
        if char in ("(", "[", "{", "|"):
            return self.nested(self.group)
        if number := self.match(_REPEATED):
            return self.repeated(*number.groups(default=""))
        if number := self.match(_NUMBER):
            return self.number(number[0])
        if command := self.match(_COMMAND):
            return self.nested(lambda: self.named(command[1]))
        if word := self.match(_WORD):
            word = word[0]
            if word in FUNCTIONS or word in ("sqrt", "pi", "infty"):
                return self.nested(lambda: self.named(word))
            product = set(word) <= set("abcxyz") or len(word) <= 3 and not set(word.lower()) & set("aeiou")
            if len(word) > 1 and (word in _UNITS or not product):  # words are not products of their letters
                raise Unreadable
            self.at -= len(word) - 1
            return [math.e] if word[0] == "e" else self.variable(word[0])
        raise Unreadable

    def group(self):
        """(...), [...], {...} or |...|, which is an absolute value."""
        bracket = self.take("([{|")
        bars, self.in_bars = self.in_bars, bracket == "|"
        value = self.sum()
        if not self.take({"(": ")", "[": "]", "{": "}", "|": "|"}[bracket]):
            raise Unreadable
        self.in_bars = bars
        return self.each(abs, value) if bracket == "|" else value

    def number(self, text: str):
        digits, _, exponent = text.lower().partition("e")
        if self.text.startswith("_", self.at) or len(exponent) > 4 or abs(int(exponent or 0)) > 300:
            raise Unreadable  # 12_8 is written in base 8
        if text.isdecimal():
            value = int(digits)
        else:
            value = _bounded(Fraction(digits)) * Fraction(10) ** int(exponent or 0)
        if text.isdecimal() and (mixed := self.match(_MIXED)):
            above, below = (int(digits) for digits in mixed.groups() if digits)
            return self.each(lambda a, b: value + Fraction(a, b), [above], [below])
        return [_bounded(value)]

    def repeated(self, whole, start, overline, dot, middle, last_dot, brackets, dots):
        """0.1\\overline{6}, 0.1(6), 0.\\dot{3} and 0.333..., whose last digits go on for ever."""
        digits = overline or brackets or dots or dot + middle + last_dot
        value = Fraction(int(start + digits) - int(start or 0), 10 ** len(start) * (10 ** len(digits) - 1))
        return [_bounded(int(whole or 0) + value)]

    def variable(self, name: str):
        subscript = self.match(_SUBSCRIPT)
        name += subscript[0] if subscript else ""
        if name[0] in "fgFGP" and self.text.startswith("(", self.at):    # an unknown function, not f times (2)
            return self.each(lambda x: _variable(f"{name}({format(x, '.9g') if isinstance(x, float) else x})")[0],
                             self.nested(self.group))
        return _variable(name)

    def named(self, name: str):
        """A constant, a variable or a function by name, the function with its argument."""
        if name == "pi":
            return [math.pi]
        if name == "frac":
            return self.each(_divide, self.digit_or_atom(), self.digit_or_atom())
        if name in ("binom", "dbinom", "tbinom"):
            return self.each(_binomial, self.digit_or_atom(), self.digit_or_atom())
        if name == "sqrt":
            degree = self.group() if self.peek() == "[" else [2]
            return self.each(lambda x, n: _power(x, _divide(1, n)), self.atom(), degree)
        if name in ("lfloor", "lceil"):
            value = self.nested(self.sum)
            self.peek()
            if not self.text.startswith("\\r" + name[1:], self.at):
                raise Unreadable
            self.at += 1 + len(name)
            return self.each(lambda x: math.floor(x) if name == "lfloor" else math.ceil(x), value)
        if name in FUNCTIONS:
            return self.function(name)
        if name in GREEK.split("|"):
            return self.variable(name)
        raise Unreadable

    def function(self, name: str):
        """\\sin^2 x, \\sin^{-1} x, \\log_2 8."""
        base = None
        if name == "log" and self.take("_"):
            base = self.digit_or_atom()
        exponent = self.nested(self.signed) if self.take("^") else [1]
        apply = FUNCTIONS[name]
        if exponent == [-1] and name in INVERSES:
            apply, exponent = INVERSES[name], [1]
        self.in_angle += 1
        value = self.argument()
        self.in_angle -= 1
        if base is not None:
            return self.each(lambda x, b, n: _power(math.log(x) / math.log(b), n), value, base, exponent)
        return self.each(lambda x, n: _power(apply(x), n), value, exponent)

    def digit_or_atom(self):
        """What \\frac takes: {12}, or a single digit, so that \\frac12 is a half."""
        self.peek()
        digit = self.match(_DIGIT)
        return [int(digit[0])] if digit else self.atom()

    def argument(self):
        """What a function is applied to: (x), {x}, x^2 or 2x."""
        if self.peek() in ("(", "{", "["):
            return self.atom()
        value = self.power()
        while self.peek() and _VARIABLE.match(self.text, self.at):
            value = self.each(operator.mul, value, self.power())
        return value

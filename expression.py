"""The value of a mathematical expression in LaTeX or plain text, by a small parser over exact fractions.

Texts come from models, so there is no eval, every number is bounded in size before it is computed, and the nesting is
bounded. An expression with variables is evaluated at fixed pseudo-random points, so that two forms of the same
polynomial give the same values.
"""

import functools
import math
import random
import re
from fractions import Fraction

MAX_DEPTH = 30     # nested brackets, signs and exponents
MAX_BITS = 2048    # size of an exact number
POINTS = 4         # random points at which expressions with variables are compared


_FUNCTIONS = {name: getattr(math, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")}
_FUNCTIONS |= {"arcsin": math.asin, "arccos": math.acos, "arctan": math.atan, "ln": math.log, "log": math.log10}
_FUNCTIONS |= {"cot": lambda x: 1 / math.tan(x), "sec": lambda x: 1 / math.cos(x), "csc": lambda x: 1 / math.sin(x)}
_UNITS = {"cm", "mm", "km", "kg", "mg", "ml", "ft", "yd", "lb", "lbs", "hr", "hrs", "mph", "kph", "sq", "st", "th"}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+))?")
_MIXED = re.compile(r" ?\\frac ?(?:\{(\d+)\}|(\d)) ?(?:\{(\d+)\}|(\d))| (\d+)/(\d+)")
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|psi|omega|infty"
_VARIABLE = re.compile(rf"\\(?:{_GREEK}|pi)(?![A-Za-z])|[A-Za-z](?![A-Za-z])")


class Unreadable(Exception):
    """Not an expression, or one too large to evaluate."""


def evaluate(text: str) -> list | None:
    """The value of an expression at each random point (None where it has none), or None if it is no expression."""
    values = []
    try:
        for point in range(POINTS):
            parser = _Parser(text, point)
            try:
                values.append(parser.parse())
            except (ArithmeticError, ValueError):  # 1/0, or the root of a negative number at this point
                values.append(None)
            if not parser.has_variables:
                return values * POINTS
    except Unreadable:
        return None
    return values


@functools.lru_cache(maxsize=1024)
def _variable(name: str, point: int) -> Fraction:
    """A fixed pseudo-random number, the same for a name wherever it occurs; negative at odd points for some names."""
    rng = random.Random(f"{name} {point}")
    return Fraction(rng.randint(2, 60), rng.choice([7, 11, 13])) * (rng.choice([1, -1]) if point % 2 else 1)


def _bounded(value):
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unreadable
    elif value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Unreadable
    return value


def _power(base, exponent):
    """base ** exponent, exact for whole exponents; refused before it is computed if the result would be too large."""
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = base.numerator.bit_length() + base.denominator.bit_length() if isinstance(base, Fraction) else 1
        if bits * abs(exponent) > MAX_BITS:
            raise Unreadable
        return base ** exponent.numerator
    if base < 0:
        raise ValueError("a real power of a negative number")
    return float(base) ** float(exponent)


class _Parser:
    """Recursive descent: sum > product > signed > power > atom. A LaTeX or plain expression, with 2x and 3(x+1)."""

    def __init__(self, text: str, point: int):
        self.text, self.point, self.at, self.depth, self.has_variables = text, point, 0, 0, False

    def parse(self):
        value = self.sum()
        if self.peek():
            raise Unreadable
        return value

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

    def match(self, pattern: str | re.Pattern):
        found = re.compile(pattern).match(self.text, self.at)
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

    def sum(self):
        value = self.product()
        while sign := self.take("+-"):
            term = self.product()
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def product(self):
        value = self.signed()
        while True:
            if operator := self.take("*/"):
                factor = self.signed()
                value = _bounded(value * factor if operator == "*" else value / factor)
            elif self.peek().isalpha() or self.peek() in ("(", "{", "\\"):  # no digit: "1 2" is not a product
                value = _bounded(value * self.power())
            else:
                return value

    def signed(self):
        if sign := self.take("+-"):
            value = self.nested(self.signed)
            return -value if sign == "-" else value
        return self.power()

    def power(self):
        base = self.atom()
        while self.take("!"):
            if base not in range(101):
                raise Unreadable
            base = Fraction(math.factorial(int(base)))
        return _bounded(_power(base, self.nested(self.signed))) if self.take("^") else base

    def atom(self):
        char = self.peek()
        if char in ("(", "[", "{"):
            return self.nested(self.group)
        if number := self.match(_NUMBER):
            return self.number(number)
        if command := self.match(r"\\([A-Za-z]+)"):
            return self.nested(lambda: self.named(command[1]))
        if word := self.match(r"[A-Za-z]+"):
            word = word[0]
            if word in _FUNCTIONS or word in ("sqrt", "pi"):
                return self.nested(lambda: self.named(word))
            product = set(word) <= set("abcxyz") or len(word) <= 3 and not set(word.lower()) & set("aeiou")
            if len(word) > 1 and (word in _UNITS or not product):  # words are not products of their letters
                raise Unreadable
            self.at -= len(word) - 1
            return math.e if word[0] == "e" else self.variable(word[0])
        raise Unreadable

    def group(self):
        close = {"(": ")", "[": "]", "{": "}"}[self.take("([{")]
        value = self.sum()
        if not self.take(close):
            raise Unreadable
        return value

    def number(self, number):
        exponent = number[2] or "0"
        if self.text.startswith("_", self.at) or len(exponent) > 4 or abs(int(exponent)) > 300:
            raise Unreadable  # 12_8 is written in base 8
        value = _bounded(Fraction(number[1])) * Fraction(10) ** int(exponent)
        if number[0].isdecimal() and (mixed := self.match(_MIXED)):
            above, below = (int(digits) for digits in mixed.groups() if digits)
            value += Fraction(above, below)
        return _bounded(value)

    def variable(self, name: str):
        self.has_variables = True
        subscript = self.match(r"_\w+")
        return _variable(name + (subscript[0] if subscript else ""), self.point)

    def named(self, name: str):
        """A constant, a variable or a function by name, the function with its argument."""
        if name == "pi":
            return math.pi
        if name == "frac":
            return _bounded(self.digit_or_atom() / self.digit_or_atom())
        if name == "sqrt":
            return self.root()
        if name in _FUNCTIONS:
            exponent = self.nested(self.signed) if self.take("^") else 1               # \sin^2 x
            return _bounded(_power(_FUNCTIONS[name](self.argument()), Fraction(exponent)))
        if name in _GREEK.split("|"):
            return self.variable(name)
        raise Unreadable

    def digit_or_atom(self):
        """What \\frac takes: {12}, or a single digit, so that \\frac12 is a half."""
        self.peek()
        digit = self.match(r"\d")
        return Fraction(digit[0]) if digit else self.atom()

    def root(self):
        degree = self.group() if self.peek() == "[" else Fraction(2)
        inside = self.atom()
        if inside < 0 and degree % 2 == 1:
            return -_power(-inside, 1 / degree)
        return _power(inside, 1 / degree)

    def argument(self):
        """What a function is applied to: (x), {x}, x^2 or 2x."""
        if self.peek() in ("(", "{"):
            return self.atom()
        value = self.power()
        while self.peek() and _VARIABLE.match(self.text, self.at):
            value = _bounded(value * self.power())
        return value

"""Checks of answers that a benchmark needs beside tasks/answers.py: the letter of a choice, and numbers within a tolerance.

As there, in doubt an answer is wrong: "A or B", "not C", and a letter beside the text of another choice.
"""

import re
from collections.abc import Sequence

from formats.chat import after_thinking
from tasks.answers import extract_answer
from tasks.benchmarks.ask import LETTERS
from tasks.equivalence import numbers_in, same_answer
from tasks.expression import Steps

_PHRASE = re.compile(r"(?i)answer(?: is|:)[ \t]*([^\n]+)")
_MARKED = re.compile(r"\\boxed|\\fbox|<answer>|####")
_ALONE = re.compile(r"\(?([A-J])[).]?")
_LETTER = re.compile(r"\(?([A-J])[).:]+\s+(\S.*)", re.DOTALL)


def check_choice(text: str, gold: str, choices: Sequence[str]) -> bool:
    """Whether the final answer of a completion is the choice with this letter: by its letter, by its text, or by both."""
    letter = chosen_letter(extract_answer(text), choices)
    if letter is None and (phrase := last_phrase(text)):
        letter = chosen_word_for_word(phrase, choices)
    return letter == gold


def chosen_letter(answer: str | None, choices: Sequence[str]) -> str | None:
    """The letter of the choice that an answer names; None if it names none, more than one, or a letter beside another's text."""
    if not answer:
        return None
    letters, steps = LETTERS[:len(choices)], Steps()
    if (alone := _ALONE.fullmatch(answer.strip())) and alone[1] in letters:      # even where "C" is the text of choice D
        return alone[1]
    if letter := chosen_word_for_word(answer, choices):
        return letter
    named = [letter for letter in letters if same_answer(answer, letter, steps)]
    by_text = texts_like(answer, choices, steps)
    if not named:
        small = re.fullmatch(r"\(?([a-j])\)?", answer.strip())
        named = [small[1].upper()] if small and small[1].upper() in letters and not by_text else by_text
        return named[0] if len(named) == 1 else None
    bare = re.sub(r"\\text\w*|[{}$\\]", "", answer)
    said = re.sub(r"^\W*(?:[Oo]ption|[Cc]hoice|[Aa]nswer)?[\s(]*[A-J][).:\s]*", "", bare).strip()
    others = texts_like(said, choices, steps)
    return named[0] if len(named) == 1 and (not others or named[0] in others) else None


def texts_like(answer: str, choices: Sequence[str], steps: Steps) -> list[str]:
    """The letters of the choices whose text is the same answer."""
    return [letter for letter, choice in zip(LETTERS, choices) if same_answer(answer, choice, steps)]


def chosen_word_for_word(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice that the answer repeats word for word, alone or behind its letter; else None."""
    found = _LETTER.fullmatch(answer.strip())
    said = [squeezed(answer)] + ([squeezed(found[2])] if found else [])
    letters = [letter for letter, choice in zip(LETTERS, choices) if squeezed(choice) in said]
    if found and found[1] in letters:
        return found[1]
    return letters[0] if len(letters) == 1 and not found else None


def squeezed(text: str) -> str:
    """Small letters without white space, and without the mark that ends a sentence."""
    return "".join(text.split()).casefold().rstrip(".!")


def last_phrase(text: str) -> str | None:
    """What follows the last "answer is" on its line; None where a box or another mark says which answer is the final one."""
    said = after_thinking(text) or ""
    phrases = _PHRASE.findall(said)
    return phrases[-1].strip() if phrases and not _MARKED.search(said) else None


def check_near(text: str, gold: str, tolerance: float = 0.0, margin: float = 0.0) -> bool:
    """Whether the final answer of a completion equals the gold answer, or is a number close to it: by at most this share of it
    (tolerance), or by at most so much (margin)."""
    if "\\boxed" in gold:
        gold = extract_answer(gold) or gold
    answer, steps = extract_answer(text), Steps()
    if same_answer(answer, gold, steps) or squeezed(last_phrase(text) or "") == squeezed(gold):
        return True
    if answer is None or not (tolerance or margin):
        return False
    return any(_close(x, y, tolerance, margin) for x in numbers_in(answer, steps) for y in numbers_in(gold, steps))


def _close(said: tuple, gold: tuple, tolerance: float, margin: float) -> bool:
    """(number, unit) of both: units count if both have one, as in tasks/equivalence.py."""
    (x, unit), (y, wanted) = said, gold
    if unit and wanted:
        if unit.powers != wanted.powers:
            return False
        x = x * unit.factor / wanted.factor
    try:
        return abs(x - y) <= max(tolerance * abs(y), margin)
    except OverflowError:                                 # a number too large for a float
        return False

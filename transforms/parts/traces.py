"""What is wrong with a reasoning trace, though its answer may be right: it loops, guesses, or changes the language.

Pure functions of texts. Each is careful in both directions: a solution that comes back to a line, a question about guesses, a
Greek letter in a formula are no reason to drop anything.
"""

import re
import unicodedata

LOOP = re.compile(r"(.{1,40}?)\1{9,}", re.DOTALL)         # the same few characters ten times in a row

# where an answer stands: what is left of a text without it is the working
_ANSWER = re.compile(r"(?i)\\boxed\s?\{.*?\}|<answer>.*?</answer>|#### .*|(?:the |final )*answer(?: is)?:? .*")
_GUESS = re.compile(r"(?i)\b(?:i(?:'ll| will| would|'d| must| have to| can only)? (?:just |simply )?guess|"
                    r"my (?:best |only )?guess|(?:wild|lucky|random|blind) guess)\b(?! and (?:check|test|verify))")


def loops(text: str) -> bool:
    """Whether a text repeats a few characters, a letter among them, ten times in a row. (Repeated words:
    filters.repeated_share.)"""
    return any(re.search(r"[^\W\d_]", found[1]) for found in LOOP.finditer(text))


def is_guess(reasoning: str | None, answer: str, question: str = "", least: int = 5) -> bool:
    """Whether an answer comes without reasoning: fewer than `least` words beside the answer itself, and no equation; or it says
    that it is a guess, in words that the question does not use."""
    said = f"{reasoning or ''}\n{answer}"
    if "guess" not in question.lower() and _GUESS.search(said):
        return True
    working = _ANSWER.sub(" ", answer) if not (reasoning or "").strip() else reasoning
    return len(re.findall(r"[^\W\d_]{2,}", working)) < least and "=" not in working


# languages, told by their scripts

JAPANESE = {"CJK", "HIRAGANA", "KATAKANA"}
SHORT = {"LATIN": 3, "GREEK": 3}                          # letters of these in a formula: cm, sin, αβ
NO_SCRIPT = {"MATHEMATICAL", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT", "DOUBLE", "BLACK", "SCRIPT", "FEMININE",
             "MASCULINE", "MICRO", "OHM", "KELVIN", "ANGSTROM", "CIRCLED", "PARENTHESIZED", "TURNED", "INFORMATION"}
_LETTERS = re.compile(r"[^\W\d_]+")
_FORMULA = re.compile(r"\\[A-Za-z]+|</?[a-z]+>|(?i:\banswer\b)")    # written in Latin letters whatever the language


def script_of(char: str) -> str:
    """LATIN, CYRILLIC, CJK ...: the first word of a letter's Unicode name; "" for letters of formulas."""
    name = unicodedata.name(char, "").split(" ")[0].split("-")[0]
    return "LATIN" if name == "FULLWIDTH" else "" if name in NO_SCRIPT else name


def scripts_in(text: str) -> set[str]:
    """The scripts of a text's words. One letter is no word, but for Chinese; nor are up to three Latin or Greek ones."""
    found = set()
    for word in _LETTERS.findall(_FORMULA.sub(" ", text)):
        lengths = {}
        for char in word:
            if script := script_of(char):
                lengths[script] = lengths.get(script, 0) + 1
        found |= {script for script, n in lengths.items() if script in JAPANESE or n > SHORT.get(script, 1)}
    return found


def mixes_languages(question: str, text: str) -> bool:
    """Whether a text has words in a script that the question does not use."""
    asked = scripts_in(question) or {"LATIN"}
    if asked & {"HIRAGANA", "KATAKANA"}:
        asked |= JAPANESE
    return bool(scripts_in(text) - asked)

"""Reads the words after a number: a noun that can be dropped, a unit, a scale, or words that must not be ignored.

    split_unit("12 apples")         ("12", 1, None)             a noun: dropped
    split_unit("5 km/h")            ("5", 1, Unit)              units are kept, so that 5 km is not 5 m
    split_unit("3 million people")  ("3", 1000000, None)        three million
    split_unit("4 tenths")          ("4", 1/10, None)
    split_unit("5 is wrong")        None                        a sentence is not a unit
"""

import re
from dataclasses import dataclass
from fractions import Fraction

SCALES = {"dozen": 12, "gross": 144, "hundred": 100, "thousand": 1000, "grand": 1000, "lakh": 10 ** 5, "million": 10 ** 6,
          "crore": 10 ** 7, "billion": 10 ** 9, "trillion": 10 ** 12, "quadrillion": 10 ** 15, "myriad": 10 ** 4,
          "lac": 10 ** 5, "mn": 10 ** 6, "bn": 10 ** 9}
SCALES |= {part: Fraction(1, n) for n, part in enumerate(
    "half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), 2)}
SCALES |= {"halve": Fraction(1, 2), "twentieth": Fraction(1, 20), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1000),
           "millionth": Fraction(1, 10 ** 6), "billionth": Fraction(1, 10 ** 9)}

NUMBERS = {word: n for n, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen".split())}
NUMBERS |= {word: n for n, word in zip(range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split())}

# If one of these words follows a number, it is not a number of things: they deny it, make a sentence, calculate, or offer a
# choice.
NOT_UNITS = set(NUMBERS) | set("""
    is are was were be been am pm isn aren wasn not no nope never neither nor none without wrong incorrect false untrue invalid
    mistaken right correct true maybe perhaps possibly possible impossible probably likely either or and but if then else unless
    whether plus minus times divided multiplied by over squared cubed factorial mod modulo remainder than less greater least most
    between to until through from versus vs equals equal should would could might may must can cannot will does do did don doesn
    didn has have had which that this because since so therefore hence thus except excluding couple score scores root power
    double triple twice thrice half base log ln sin cos tan e pi i instead rather actually wait hmm sorry approximately about
    nearly almost roughly quarter quarters kilo mega giga prime seem seems look looks fail fails become becomes make makes give
    gives work works think guess know sure hope try error mistake undefined unknown ish below above under
    negative""".split())

LENGTH, MASS, TIME, MONEY, VOLUME, ANGLE = "length", "mass", "time", "money", "volume", "angle"
_INCH, _POUND, _GALLON = Fraction("0.0254"), Fraction("453.59237"), Fraction("3.785411784")
MEASURES = {}       # name -> (what it measures, in which basic measure)
for _names, _kind, _factor in [
        ("mm millimeter millimetre", LENGTH, Fraction(1, 1000)), ("cm centimeter centimetre", LENGTH, Fraction(1, 100)),
        ("m meter metre", LENGTH, 1), ("km kilometer kilometre", LENGTH, 1000), ("in inch inche", LENGTH, _INCH),
        ("ft foot feet", LENGTH, 12 * _INCH), ("yd yard", LENGTH, 36 * _INCH), ("mi mile", LENGTH, 63360 * _INCH),
        ("mg milligram", MASS, Fraction(1, 1000)), ("g gram", MASS, 1), ("kg kilogram", MASS, 1000),
        ("lb pound", MASS, _POUND), ("oz ounce", MASS, _POUND / 16),
        ("s sec second", TIME, 1), ("min minute", TIME, 60), ("h hr hour", TIME, 3600), ("day", TIME, 86400),
        ("week", TIME, 604800), ("month", "month", 1), ("yr year", "month", 12),
        ("cent", MONEY, Fraction(1, 100)), ("dollar", MONEY, 1),
        ("ml milliliter millilitre", VOLUME, Fraction(1, 1000)), ("l L liter litre", VOLUME, 1),
        ("gallon", VOLUME, _GALLON), ("quart", VOLUME, _GALLON / 4), ("pint", VOLUME, _GALLON / 8),
        ("degree deg", ANGLE, 1), ("N newton", "force", 1), ("J joule", "energy", 1), ("W watt", "power", 1),
        ("V volt", "voltage", 1),
        ("celsius", "celsius", 1), ("fahrenheit", "fahrenheit", 1)]:
    MEASURES |= {_name: (_kind, Fraction(_factor)) for _name in _names.split()}
MEASURES |= {"mph": ("speed", 63360 * _INCH / 3600), "kph": ("speed", Fraction(1000, 3600))}
LETTERS = {name for name in MEASURES if len(name) == 1}


@dataclass(frozen=True)
class Unit:
    """A product of powers of measures."""
    powers: tuple       # of (what it measures, exponent), sorted
    factor: Fraction    # how many of the basic measures it is


# The words after the last digit or bracket, with / . - * and small powers. @ marks text from \text{...}: a letter in it is a
# unit, elsewhere a letter may be a variable.
_WORDS = re.compile(r"(?<![A-Za-z\\_@^{'])@?[A-Za-z][A-Za-z @/.*'-]*(?:\^ ?(?:-?\d|\{-?\d\})(?! ?\^)[A-Za-z @/.*'-]*){0,4}$")
_TOKEN = re.compile(r"@?([A-Za-z]+)(?: ?\^ ?\{?(-?\d)\}?)?|(/)")


def split_unit(text: str, letters: bool = False) -> tuple[str, Fraction, Unit | None] | None:
    """"5.4 cents" -> (the text before the words, the scale, the unit if it is known). None if the words are not a unit. letters:
    read "5 m" as five metres, and not as 5 times a variable m."""
    found = _WORDS.search(text)
    if not found or not text[:found.start()].strip():
        return None
    number, words = text[:found.start()].rstrip(), re.findall(r"(@?)([A-Za-z]+)", found[0])
    letter = not words[0][0] and len(words[0][1]) == 1
    if letter and not (letters and words[0][1] in LETTERS and text[found.start() - 1] == " ") or len(words) > 8:
        return None
    scale = Fraction(1)
    lower = [word.lower() for _, word in words]
    while lower and is_scale(lower[0]):
        scale *= SCALES.get(lower[0], SCALES.get(lower[0].removesuffix("s")))
        lower = lower[2:] if lower[1:2] == ["of"] else lower[1:]
    if any(word in NOT_UNITS or _counts(word.removesuffix("s")) for word in lower):
        return None
    if any(len(word) == 1 and word not in LETTERS and word != "a" for _, word in words):
        return None
    return number, scale, measure(found[0]) if scale == 1 else None


def is_scale(word: str) -> bool:
    """million, tenths, dozens"""
    return word.lower() in SCALES or word.lower().removesuffix("s") in SCALES


def _counts(word: str) -> bool:
    """Whether a word changes the number: million, tens, octillion, sixteenth."""
    return word in SCALES or word in NUMBERS or word.endswith(("illion", "illionth", "teenth", "tieth"))


def measure(text: str) -> Unit | None:
    """"square inches", "km/h", "miles per hour", "m s^{-1}" -> a Unit; None if a word is not a unit."""
    powers, factor, sign, times = {}, Fraction(1), 1, 1
    for word, exponent, slash in _TOKEN.findall(text):
        if slash or word == "per":
            sign = -1
        elif word in ("square", "sq", "cubic"):
            times = 3 if word == "cubic" else 2
        else:
            name = word if word in MEASURES else word.lower()
            name = name if name in MEASURES else name.removesuffix("s")
            if name not in MEASURES or len(name) == 1 and name != word:
                return None
            kind, size = MEASURES[name]
            power = sign * times * int(exponent or 1)
            powers[kind], factor, times = powers.get(kind, 0) + power, factor * size ** power, 1
            if kind == "speed":     # mph
                powers["length"], powers["time"] = powers.get("length", 0) + power, powers.get("time", 0) - power
                del powers["speed"]
    return Unit(tuple(sorted((kind, power) for kind, power in powers.items() if power)), factor)


_IN_WORDS = re.compile(rf"(?:(?:{'|'.join(NUMBERS)}|hundred|thousand|million|billion|and)(?![A-Za-z])[ -]?)+", re.IGNORECASE)


def words_to_digits(text: str) -> str:
    """"forty-two" -> "42", "three apples" -> "3 apples", "two hundred and five" -> "205"; anything else as it is."""
    found = _IN_WORDS.match(text)
    words = re.findall(r"[a-z]+", found[0].lower()) if found else []
    if words and words[-1] == "and":
        return text
    total = part = 0
    for at, word in enumerate(words):
        if word in NUMBERS:
            if part % 10 or part % 100 and NUMBERS[word] > 9 or at and words[at - 1] == "zero":     # "three four" is not a number
                return text
            part += NUMBERS[word]
        elif word == "hundred" and 0 < part < 10:
            part *= 100
        elif word in ("thousand", "million", "billion") and 0 < part:
            total, part = total + part * SCALES[word], 0
        elif word != "and" or not at:
            return text
    return f"{total + part} {text[found.end():]}".strip() if words else text

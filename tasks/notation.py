"""Normalises the notation of answers: LaTeX and Unicode, fonts, delimiters, dashes, thousands separators, number words.

    normalise("\\dfrac{1}{2}\\text{ cm}")       "\\frac{1}{2} cm"

Nothing is computed here, and no value changes: the result is the same answer in another notation. The patterns are applied in
the order of the lists.
"""

import functools
import re

from tasks.units import words_to_digits

PLAIN = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
_COMMANDS = "[dtc]?frac|sqrt|left|right|pi|text|boxed|cdot|times|infty|cup|leq?|geq?|neq?|pm|quad|circ|mathrm|begin|end"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_FIRST = [  # patterns with LaTeX characters that are removed later
    (r",\\!\s*|(?<=\d) ?\{ ?, ?\} ?(?=\d)", ""),                                         # 11,\! 100 and 14 {, }916
    (rf"(?<!\\)\\\\(?=(?:{_COMMANDS})(?![A-Za-z]))", r"\\"),                              # \\frac, escaped twice
    (r"(?<![\w)}*])\*\*([^*]{1,99})\*\*(?![\w(])", r"\1"),                               # **bold**
    (r"^(-?)\\\$ ?(-?\d[\d,]*(?:\.\d+)?)$", r"\1\2 dollars"),                            # \$5, which is not 5 cents
    (r"\\\\\[-?[\d.]+ ?(?:pt|em|ex|mm|cm)\]", r"\\\\"),                                  # a new row, with some space
]
_SPELLINGS = [
    ("\\\\", ";"), ("\\!", ""), ("{,}", ""), ("\\$", "$"), ("\\%", "%"), ("\\_", "_"), ("−", "-"), ("–", "-"), ("—", "-"),
    ("×", "*"), ("·", "*"), ("⋅", "*"), ("÷", "/"), ("**", "^"), ("π", "\\pi "), ("θ", "\\theta "), ("∞", "\\infty "),
    ("√", "sqrt"), ("½", " 1/2"), ("¼", " 1/4"), ("¾", " 3/4"), ("±", "\\pm "), ("∪", "\\cup "), ("∈", "\\in "),
    ("≤", "\\le "), ("≥", "\\ge "), ("≠", "\\ne "), ("≈", "\\approx "), ("≡", "\\equiv "), ("∅", "\\emptyset "),
    ("Ø", "\\emptyset "), ("<=", "\\le "), (">=", "\\ge "), ("!=", "\\ne "), ("\\lbrace", "\\{"), ("\\rbrace", "\\}"),
    ("’", "'"), ("...", "…"),
]
_STYLES = (r"text(?:bf|it|rm|sf|tt|sc|normal|up|md)?|emph|underline|ensuremath|[mh]box|math(?:rm|bf|it|sf|normal|tt)|"
           r"mathbb(?= ?\{[^R])|bm|boldsymbol|operatorname\*?")
_LATEX = [
    (r"\\(?:boxed|fbox|displaystyle|textstyle|scriptstyle|limits|phantom|big|rm|bf|it|sf|tt|[lL]arge|LARGE|[hH]uge|small|"
     r"hline|bfseries|itshape|normalsize|nonumber|notag)(?![A-Za-z])|\\(?:text)?color\s*\{[^{}]*\}", ""),
    (r"\\(?:begin|end)\{(?:align|aligned|equation|gather|gathered|split|multline)\*?\}|&(?= ?=)", ""),
    (rf"\\(?:{_STYLES})\s*(?=\{{)", r"\\text"),
    (rf"\\(?:{_STYLES})(?![A-Za-z])(?!\s*\{{)", ""),                                     # \mathbf 5
    (r"(?<=[\d}!)])((?:\\[,; ]|\s)*)\\text\{\s*([gmshlLNJVWKCF])\s*\}", r"\1@\2"),       # 5\text{ m}: a letter is a unit
    (r"\\text\{([^{}]*)\}", r" \1 "), (r"\\text\{([^{}]*)\}", r" \1 "),                 # twice: \textbf{\text{5}}
    (r"(?<=\d)\\,(?=\d{3})", ""),                                                      # 1\,234
    (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
    (r"\\[,;: ]|\\q?quad", " "),
    (r"\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\\degree(?![A-Za-z])", "°"),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"), (r"\\div(?![A-Za-z])", "/"),
    (r"\\(l|g)(?:eq?|eqslant|eqq)(?![A-Za-z])", r"\\\1e "), (r"\\(?:neq?|not ?=)(?![A-Za-z])", r"\\ne "),
    (r"\\lt(?![A-Za-z])", "<"), (r"\\gt(?![A-Za-z])", ">"), (r"\\(?:simeq|cong)(?![A-Za-z])", r"\\approx "),
    (r"\\[lr]?[vV]ert(?![A-Za-z])", "|"), (r"\\langle(?![A-Za-z])", "("), (r"\\rangle(?![A-Za-z])", ")"),
    (r"\\(?:emptyset|varnothing)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"), (r"\\mathbb\s*\{?R\}?", r"(-\\infty,\\infty)"),
    (r"\\arc(sin|cos|tan)", r" arc\1"), (r"\\[lc]?dots(?![A-Za-z])", "…"),
    (r"\\pmod\s*(?:\{(\w+)\}|(\w))", r" (mod \1\2)"), (r"\\b?mod(?![A-Za-z])", " mod "),
    (r"\\[()\[\]]", ""),                                                               # delimiters
    (r"^ ?\\?[A-Za-z]+(?:_\w+)? ?\\in(?![A-Za-z])", ""),                               # x \in [0, 1]
]
_WORDS = [
    (r"</?(?:b|i|u|em|strong|code)>", ""), (r"[$€£¥]", ""), (r"^ ?= ?", ""),
    (r"(?i)^ ?(?:about|approximately|approx\.?|roughly|around|exactly) (?=[\d\\(.-])", ""),
    (r"° ?C(?![A-Za-z])", " celsius"), (r"° ?F(?![A-Za-z])", " fahrenheit"), (r"\b[Dd]egrees? (?=[Cc]elsius|[Ff]ahrenheit)", ""),
    (r"(?i)^\s*(?:negative|minus)\s+(?=[\d\\])", "-"), (r"(?i)^ ?(?:all )?real numbers ?$", r"(-\\infty,\\infty)"),
    (r"(?<=\d) ?\^ ?\{? ?(?:st|nd|rd|th) ?\}?(?![A-Za-z])", ""),                         # 18^{th}
    (r"(?i)^ ?(?:the )?empty set ?$|^ ?no (?:real )?solutions? ?$", r"\\emptyset"),
    (r"(?<!\\log)_\s*\{\s*(\w+)\s*\}", r"_\1"),
    (r"(?<![A-Za-z])(?:per ?cent(?:age)?s?|pct)(?![A-Za-z])", "%"),
    (r"[\s~]+", " "), (r" %", "%"), (r" °", "°"),
    (r"(?<=\d) ?([AaPp])\. ?[Mm]\.?(?![A-Za-z])", r" \1m"),                            # 6 p.m.
    (r"(?<=\d) and a half\b", " 1/2"),
    (r"(?<=\d) ?[xX] ?(?=10 ?\^)", "*"),                                               # 3 x 10^5
    (r",? (?:and|or) |(?<=[\W\d])(?:and|or)(?=[\W\d])|,? (?:and|or)(?=[\W\d])", ", "), (r",(?: ?,)+", ","),
    (r"^ ?(-?\d+(?:\.\d+)?)° ?$", r"\1 degrees"),
    (r"^ ?(-?0),(?=\d{3,}$)", r"\1."),                                                 # 0,125
]
_FIRST, _LATEX, _WORDS = ([(re.compile(pattern), new) for pattern, new in table] for table in (_FIRST, _LATEX, _WORDS))
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


@functools.lru_cache(maxsize=1024)
def normalise(text: str) -> str:
    """The normalised notation of an answer."""
    if PLAIN.fullmatch(text):
        return text
    text = text.strip(" *`\n\t")
    while len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    text = words_to_digits(text)
    for pattern, new in _FIRST:
        text = pattern.sub(new, text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda power: f"^{{{power[0].translate(_SUPERSCRIPTS)}}}", text)
    for old, new in _SPELLINGS:
        text = text.replace(old, new)
    for pattern, new in (*_LATEX, *_WORDS) if "\\" in text else _WORDS:
        text = pattern.sub(new, text)
    if not re.search(r"[(\[{]", text):  # inside brackets a comma separates: (1,234) is a pair
        text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    if re.fullmatch(r" ?-?\d{1,3}(?: \d{3})+(?:\.\d+)? ?", text):                         # 1 000
        text = text.replace(" ", "")
    return words_to_digits(text.strip()).rstrip(" .,;:\\")

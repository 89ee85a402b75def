"""Checks answers: is the final answer of a completion the same number, set, interval, ... as the gold answer?

    extract_answer(completion)           the final answer in a text, or None
    same_answer("\\frac12", "0.5")       whether two answers are mathematically the same (tasks/equivalence.py)
    check_answer(completion, gold)       both together

A completion may give its answer in several forms. The first form in this list that it uses counts:

1. \\boxed{...}
2. <answer>...</answer>
3. #### of GSM8K
4. "the answer is ..."
5. mathematics between dollar signs, or a bare expression
6. the last number

Used as a reward, every mistake of this check is soon found by the model. So a choice ("3 or 4"), a denial ("not 5") and a range
are never reduced to a single number.

The forms and the gold answers are those of GSM8K (arXiv 2110.14168) and MATH (2103.03874). `python bench.py answers --cases FILE`
also runs cases of other projects' graders (Math-Verify, lighteval, Hendrycks MATH, open-instruct, TRL, NeMo-Skills,
Qwen2.5-Math).
"""

import itertools
import re

from formats.chat import after_thinking
from tasks.equivalence import MAX_ANSWER, is_readable, same_answer
from tasks.expression import Steps
from tasks.units import is_scale, measure

MAX_TEXT = 32_768  # characters at the end of a completion in which an answer is searched
MAX_TAIL = 4096    # characters at the end in which bare expressions and numbers are searched

__all__ = ["check_answer", "same_answer", "extract_answer", "boxed", "count_answers"]


def check_answer(text: str, gold: str) -> bool:
    """Whether the final answer of a completion equals the gold answer."""
    if "\\boxed" in gold or len(gold) > MAX_ANSWER:      # a complete solution
        gold = extract_answer(gold) or gold
    answer = extract_answer(text)
    chosen = _CHOSEN.fullmatch(answer or "")             # C. 12: the letter, or the number that it stands for
    if chosen and re.search(r"\d", answer) and same_answer(extract_answer(answer.partition(" ")[2]), gold):
        return True
    return same_answer(answer, gold)


def extract_answer(text: str) -> str | None:
    """The final answer of a completion, in the first form of the list above that it uses. If there is a </think>, only the text
    after it counts. A <think> that is never closed has no answer (None)."""
    tail, steps = (after_thinking(text) or "")[-MAX_TEXT:], Steps()
    for find in (_boxes, _tagged, _after_hashes, _after_phrase, _bare):
        answer = (find(tail, steps) or "").strip(" \t\r\n*")
        if answer:
            return answer
    return None


def count_answers(text: str) -> int:
    """How often the text (without thinking) gives a final answer, in the first of these forms that it uses: \\boxed{}, <answer>,
    ####, "answer is". 0 if it only mentions numbers. "The answer is \\boxed{5}" has one."""
    tail = (after_thinking(text) or "")[-MAX_TEXT:]
    counts = (len(_BOX.findall(tail)), tail.count("<answer>"), len(_hashes(tail, Steps())), len(_PHRASE.findall(tail)))
    return next((count for count in counts if count), 0)


# Boxes and marks.

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s?")
# What may be between two boxes that are one answer together: a comma or "and", a few words, the name of the next value.
_ANEW = re.compile(r"\b(?:so|thus|hence|therefore|wait|actually|total is)\b", re.IGNORECASE)      # the box behind it stands alone
_DENIAL = re.compile(r"\b(?:or|not|never)\b", re.IGNORECASE)
_BETWEEN = re.compile(r"(?:[\s$,;:=&]|\\[()\[\],; ]|\\q?quad|\\text\s?\{[^{}]{0,30}\}|[A-Za-z]++(?:_\{?\w\}?)?|\([a-z]\)){0,24}")


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} or \\fbox{...} with balanced braces, or the word after `\\boxed `."""
    box = next(_last_boxes(text), None)
    return box and box[0]


def _last_boxes(text: str):
    """The contents of the last boxes, with the start and the end of each; the last one first."""
    end = len(text)
    for _ in range(16):
        start = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if start < 0:
            return
        end = start
        if not (box := _BOX.match(text, start)):
            continue
        if not text.startswith("{", box.end()):
            word = re.compile(r"[^\s$]*").match(text, box.end())
            yield word[0].rstrip(".,;"), start, word.end()
            continue
        depth = 0
        for brace in itertools.islice(re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, box.end()), 4096):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)  # \{ and \} are not counted
            if depth <= 0:
                if brace[0] == "}":
                    yield text[box.end() + 1:brace.start()], start, brace.end()
                break


def _boxes(text: str, steps: Steps) -> str | None:
    """The last box, and the boxes before it if they are joined: \\boxed{1} and \\boxed{2} is "1, 2"."""
    contents, begin = [], None
    for content, start, end in _last_boxes(text):
        if contents:
            between = text[end:begin] if end <= begin else "-" * 99
            words = [word for word in re.findall(r"[A-Za-z]+", re.sub(r"\\(?:q?quad|text)", "", between)) if len(word) > 1]
            joined = re.search(r"[,;]|\b(?:and|or)\b", between) or not words
            if len(between) > 60 or not joined or len(words) > 4 or not _BETWEEN.fullmatch(between):
                break
            if _ANEW.search(between) and not _DENIAL.search(between):         # 2, so the total is 6; 5. Wait, 6
                break
        begin = start
        contents.append(content)
    if len(set(contents)) == 1:
        contents = contents[:1]
    return ", ".join(content.strip() for content in reversed(contents)) or None


def _tagged(text: str, steps: Steps) -> str | None:
    _, tag, rest = text.rpartition("<answer>")
    return rest.split("</answer>")[0] if tag and "</answer>" in rest else None


def _hashes(text: str, steps: Steps) -> list[str]:
    """The text after each "####" of GSM8K. A Markdown heading (#### with words, and text below it) does not count."""
    found = []
    for mark in list(re.finditer(r"(?<!#)####(?!#)[ \t]*\n?([^\n]*)", text))[-16:]:
        answer = mark[1].strip(" *:")
        if answer and (not text[mark.end():].strip() or is_readable(answer, steps)) and not _PHRASE.search(answer):
            found.append(answer)
    return found


def _after_hashes(text: str, steps: Steps) -> str | None:
    return (_hashes(text, steps) or [None])[-1]


# "The answer is ..."

def _pattern(*pieces: str, flags=re.IGNORECASE) -> re.Pattern:
    return re.compile("".join(pieces), flags)


_PHRASE = _pattern(   # "the answer is", "Answer:", "the answer to the first part should be"; and a heading "### Final Answer"
    r"(?:\banswers?(?:\*\*)?(?: (?:to|of|for) [^.:\n]{1,60}?)?\s?",
    r"(?:(?:is|are|was|equals|(?:would|should|must|will) be|comes (?:out )?to)(?![A-Za-z])|[=:])",
    r"|^[#* \t]{0,9}(?:the )?(?:final )?answer[* \t]{0,9}$)[:*\s]*", flags=re.IGNORECASE | re.MULTILINE)
_LEAD = _pattern(     # words before the answer that mean nothing
    r"(?:therefore|thus|hence|then|so|simply|just|exactly|approximately|about|around|roughly|clearly|indeed|now|also|equal to|",
    r"given by|always|obviously|of course|for sure|found to be|really|in fact|that|the number|the value|option|choice|",
    r"[,:*\s]|\\\[|\$\$)+(?![A-Za-z])")
_END = re.compile(r"(?<=\?)(?=\s|$)|[.!](?=[*\"')\s$]|$)(?!\s?\d)|\n|<\|")                # of a sentence
_ASIDE = re.compile(  # where an explanation begins
    r"\s?\((?=[A-Za-z]{2})|,?\s(?:because|since|as|which|where|so|when|for|i\.e\.|that is)\s|[,;]\s(?=[A-Za-z]{2})|"
    r"\s-\s(?=[A-Za-z]{2})")
_TAKEN_BACK = _pattern(  # an explanation that withdraws the answer or offers another; "5, not 6" does not
    r"^\W*(?:or|either|but|is|are|if|unless|no)\b|\b(?:wrong|incorrect|false|maybe|perhaps|possibly|wait|actually|",
    r"alternatively)\b|\?")
_DOUBT = _pattern(    # a sentence that offers more than one answer, or none
    r"\b(?:or|either|neither|nor|not|wrong|incorrect|false|maybe|perhaps|between|but|never|cannot|no|than|if|unless|except|",
    r"actually|wait)\b|n't\b|\?")
_NO_WORDS = re.compile(r"[\d\s.,+*/()%$^-]*=[\d\s.,+*/()%$^-]*")                          # 5 = 6: neither is the answer
_CHOICE = r"\(?[A-J][).:](?!.*\b[A-J](?:[):]|\.\s)) .*"                                     # (C) 12, but not (A) 5 (B) 6
_CHOSEN = re.compile(_CHOICE)
_PICKED = re.compile(rf"\b(?:option|choice)\sis:?\s\**({_CHOICE})")                         # the correct option is (C) 12


def _after_phrase(text: str, steps: Steps) -> str | None:
    """The text after the last "answer is" or "Answer:": the answer, or the number in a sentence."""
    phrases = list(_PHRASE.finditer(text))
    if not phrases:
        return None
    rest = text[phrases[-1].end():][:MAX_TAIL]
    if display := re.match(r"(?:[\w ,]{0,40}:)?\s*(?:\\\[|\$\$)(.*?)(?:\\\]|\$\$)", rest, re.DOTALL):
        return display[1].strip().rstrip(".,")
    lead = _LEAD.match(rest)
    phrase = rest[lead.end() if lead and not rest.startswith("$", lead.end() - 1) else 0:]
    phrase = _sentence(phrase).strip(" *")
    if is_readable(phrase, steps) or _NO_WORDS.fullmatch(phrase) or _CHOSEN.fullmatch(phrase):
        return phrase
    for cut in list(_ASIDE.finditer(phrase))[:4]:       # 18, because ... and 18 (six a day)
        head, aside = phrase[:cut.start()].strip(" *"), phrase[cut.start():]
        if is_readable(head, steps):
            return phrase if _TAKEN_BACK.search(aside) else head
    if _DOUBT.search(phrase):
        return phrase
    return _in_sentence(phrase, steps) or phrase


def _sentence(text: str) -> str:
    """The text up to the end of the sentence or line. A full stop inside $...$ or \\(...\\) does not end a sentence."""
    at = 0
    while end := _END.search(text, at):
        before = text[:end.start()]
        if before.count("$") % 2 and "$" in text[end.end():] and "\n\n" not in before:
            at = end.end() if end.end() > at else at + 1
            continue
        return before
    return text


def _in_sentence(sentence: str, steps: Steps) -> str | None:
    """The answer in a sentence such as "Tom has 14 apples" or "the area is $\\pi$": after the last "is", or the number."""
    for copula in list(re.finditer(r"\b(?:is|are|equals|equal to)\s", sentence))[:-5:-1]:
        said = sentence[copula.end():]
        said = said[lead.end():] if (lead := _LEAD.match(said)) else said
        if is_readable(said, steps):
            return said.strip()
    return _bare(sentence, steps)


# Without any mark.

_MATH = re.compile(r"\$\$([^$]+)\$\$|\\\[((?:(?!\\\[).)+?)\\\]|\\\(((?:(?!\\\().)+?)\\\)|(?<![\\$])\$([^$\n]+?)(?<!\\)\$(?!\d)",
                   re.DOTALL)
_PROSE = re.compile(r"(?<![\\{A-Za-z])[A-Za-z]{3,} [a-z]")      # in "$5 and gets back $" the signs are no delimiters
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+,\d\d(?![\d,])|\d+(?:\.\d+)?|\.\d+)"
_POWER = r"\s?(?:\\times|\\cdot|[*×x])\s?10\s?(?:\^\s?\{?[+-]?\d+\}?|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)"
_NUMBER = rf"\$?{_DIGITS}(?:[eE][+-]?\d+|{_POWER}| \d+/\d+(?![\d/])|/\d+|\s?[½¼¾]|(?::\d+){{1,2}}(?:\s?[ap]\.?m\b)?)?(?:\s?%)?"
_LAST = _pattern(     # a number, with the others of a range, a score, a list or a choice: 3-1, "3, 4 or 5"
    rf"(?<![A-Za-z\d.\\])(?:(?<![\w)}}$])[-−])?(?:{_NUMBER})",
    rf"(?:(?:\s?(?:[-–—;&|~×]|\+/-|\.\.\.?|x)\s?|,?\s+(?:(?:or|and|to|also|maybe|perhaps|possibly)\s+)+|,\s*| )(?:{_NUMBER})"
    r"(?![A-Za-z\d^]))*(?!\d)")
_DENIED = _pattern(   # before a number that is not the answer
    r"(?:[<≤≥]|(?<!>)>)\s*$|",                                               # but <<3*4=12>>12 of GSM8K is 12
    r"\b(?:(?:half|cube|square|root|multiple|factor|power) of|twice|double|triple|times|(?:divided|divisible|multiplied) by|",
    r"minus|negative|plus|over|under|below|above|up to|(?:far|different) from)\s[$\\(]*$|",
    r"(?:\b(?:at least|at most|not|never|no|neither|nor|than|or|without|vs|versus|isn't|either|except|cannot)|n't)",
    r"\s(?:[A-Za-z=\\]+\s){0,3}[$\\(\[]*$")
_DOUBTED = re.compile(r"[^.\n]{0,30}\?|\+(?![\d\w])|\s?(?:squared|cubed|factorial|or|plus|minus|divided)\b|"
                      r"\s?(?:is|are|was|ca|do)n['’]t\b|"
                      r"[^.\n]{0,12}\b(?:is|are|was|seems)\s(?:not|wrong|incorrect|impossible|false|too)\b")
_MEASURE = re.compile(r"\d\s?([A-Za-z]+),?\s(?:and\s)?$")                                  # before a number: 5 hours and 18 ...
_OPTIONS = re.compile(r"(?:^|\s)\(?[A-I][).:]\s.*\s\(?[B-J][).:]\s*[$\\(]*$", re.DOTALL)     # (A) 5 (B) 6
_PAIR = re.compile(r"[(\[](?:\\[a-z]+|[^()\[\]A-Za-z]){1,50},(?:\\[a-z]+|[^()\[\]A-Za-z]){1,50}[)\]]")     # (8, -2)
# Text around a number that is only a part of an expression without dollar signs: \frac{1}{3}, x^2 + 5, 3 \pm 4, 7x.
_BEFORE = re.compile(r"[{}^_√]$|(?:[|∪±]|\\[A-Za-z]+|(?:(?<![A-Za-z])[A-Za-z]|[)\]}\d])\s?[-+*/^])\s*$")
_BEHIND = re.compile(r"[{}^_]|\s?[π√]|\s?\\[A-Za-z(]|[A-Za-z](?<![gmshlLNJVW])(?![A-Za-z])|\s?[-+*/]\s?(?:\\|[A-Za-z]\b)")
_RUN = re.compile(r"(?:\\[A-Za-z]+|[-+*/^_{}()\[\]|=<>.,!\dπ√ ]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])){0,200}")
_ONE_SIDE = re.compile(r"(?:^|[^\d\s+*/.,)=($xX×÷−–-])\s*\$?(\d[\d.,]*)\s*=\s*$")                # of 3 = 4
_TERM = r"(?:\d+(?:\.\d+)?\s?)?(?<![A-Za-z])[A-Za-z]?(?:\^\d)?"
_SUM = re.compile(rf"(?:^|[\s-])(?=[^=]*[A-Za-z]){_TERM}(?:\s?[-+]\s?{_TERM}){{1,9}}\s?=\s?$")          # x + y = 5 is not a 5
_LETTER = re.compile(r"\b(?:is|it's|option|choice|choose|pick|select)\s\(?([A-J])\)?[.!]*$|^\(?([A-J])[).]\s(?!.*\b[A-J][).]\s)",
                     re.DOTALL)


def _bare(text: str, steps: Steps) -> str | None:
    """The text if all of it is an expression; else the last of: mathematics in $...$, a number, the letter of a choice."""
    text = re.sub(r",\\!\s*", ",", text[-MAX_TAIL:]).strip(" \n\t*")
    text = text if "$" in text else re.sub(r"\\text\w*\{([^{}]*)\}", r"\1", text)
    if "\n" not in text and (is_readable(text.rstrip("."), steps) or _NO_WORDS.fullmatch(text)):
        return text.rstrip(".")
    last = text[text.rfind("\n") + 1:]
    if (picked := _PICKED.search(last)) and not _DOUBT.search(last):
        return picked[1].rstrip(".*")
    inline = [found for found in _MATH.finditer(text) if not _PROSE.search(re.sub(r"\\text\w*\{[^{}]*\}", "", found[0]))]
    numbers = list(_LAST.finditer(text))
    number = numbers[-1] if numbers else None
    while number and inline and re.fullmatch(r"\W*[A-Za-z]\W*", inline[-1][0]):    # ... for every $n$
        inline.pop()
    if inline and (number is None or number.start() < inline[-1].end()):
        return _last_of_mathematics(text, inline)
    if number is None:
        letter = _LETTER.search(text)
        return letter and (letter[1] or letter[2])
    if _is_doubted(text, number.start(), number.end()):
        return None
    before = text[max(0, number.start() - 200):number.start()]
    if _OPTIONS.search(before) or _is_second_measure(before, text[number.end():]):
        return None
    for bracket in _PAIR.finditer(text, max(0, number.start() - 200)):
        if bracket.start() < number.start() < bracket.end():
            return bracket[0]
    if _BEFORE.search(text[max(0, number.start() - 20):number.start()]) or _BEHIND.match(text, number.end()):
        return _expression_around(text, number, steps)
    if (left := _ONE_SIDE.search(text[:number.start()][-60:])) and not same_answer(left[1], number[0], steps):
        return None                                      # 3 = 4
    if _SUM.search(text[max(0, number.start() - 60):number.start()]):
        return _expression_around(text, number, steps)
    scale = re.match(r" ([A-Za-z]+)", text[number.end():])                                # 4 million people
    return number[0].strip() + (scale[0] if scale and is_scale(scale[1]) else "")


def _is_doubted(text: str, start: int, end: int) -> bool:
    """Whether the words around a number deny it or offer a choice: "not 5", "3 apples or 4", "5?"."""
    return bool(_DENIED.search(text[max(0, start - 40):start]) or _DOUBTED.match(text[end:end + 60]))


def _is_second_measure(before: str, behind: str) -> bool:
    """Whether a number adds to the one before it: 18 in "5 hours and 18 minutes"."""
    first, second = _MEASURE.search(before), re.match(r"\s?([A-Za-z]+)", behind)
    units = [measure(word[1]) for word in (first, second) if word]
    return len(units) == 2 and None not in units and units[0].powers == units[1].powers


def _last_of_mathematics(text: str, inline: list) -> str | None:
    """The last $...$, and those before it that are joined by "and", "or" or a comma."""
    contents = []
    for i in range(len(inline) - 1, max(-1, len(inline) - 9), -1):
        if contents and not _JOINED.fullmatch(text, inline[i].end(), inline[i + 1].start()):
            break
        contents.append(next(filter(None, inline[i].groups())).strip().rstrip(".,"))
        first = inline[i]
    return None if _is_doubted(text, first.start(), inline[-1].end()) else ", ".join(reversed(contents))


_JOINED = re.compile(r"[.,]?\s?(?:,|or|and|to|,\s?or|,\s?and)\s?")


def _expression_around(text: str, number, steps: Steps) -> str | None:
    """The expression around a number that is only a part of it, if it can be parsed."""
    first = max(0, number.start() - 200)
    for start in list(re.finditer(r"[=:]|\\\[|(?<=\s)(?=[\\({\w√-])|^", text[first:number.start() + 1]))[-12:]:
        said = _RUN.match(text, first + start.end())[0].strip().rstrip(".,=")
        if first + start.end() + len(said) >= number.end() and is_readable(said, steps):
            return said
    return None

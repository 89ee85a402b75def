"""Cuts a text into segments: its lines, and the sentences in them (RLPT, arXiv 2509.19249: the units that are predicted).

    [text[a:b] for a, b in spans("It rained. Dr. Ng stayed.\nlions 3 + 4 = owls 7\n")]
    ["It rained.", "Dr. Ng stayed.", "lions 3 + 4 = owls 7"]

The paper uses NLTK's sentences. These rules are simpler: a sentence ends in . ! or ?, with marks that close behind it, if white
space follows and then anything but a small letter; not behind a single capital letter or one of a few abbreviations.
"""

import re
import unicodedata

LINE = re.compile(r"[^\n]+")
END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+(?![a-z]))|[。！？]+")
NO_END = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|cf|No|Fig|Eq|approx))\.$")
WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+|[^\w\s]")
MARKS = set(".!?…。！？\"'“”‘’")             # that may be left out


def spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each segment, in order, without the white space around it."""
    found = []
    for line in LINE.finditer(text):
        start = line.start()
        for end in [*END.finditer(text, line.start(), line.end()), None]:
            stop = end.end() if end else line.end()
            if end and NO_END.search(text, start, stop):
                continue
            part = text[start:stop]
            if part.strip():
                first = start + len(part) - len(part.lstrip())
                found.append((first, first + len(part.strip())))
            start = stop
    return found


def words(text: str) -> list[str]:
    """The words of a text in one spelling: texts with equal lists differ in capital letters, white space, forms of Unicode,
    quotes and marks that end a sentence, and in nothing else."""
    return [word for word in WORD.findall(unicodedata.normalize("NFKC", text).casefold()) if word not in MARKS]

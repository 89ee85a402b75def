"""Whether a text shares runs of words with texts that must not be learned: those by which a model is judged.

A run of 13 words in common is the usual rule (GPT-3, arXiv 2005.14165, appendix C). Case and punctuation do not count. A
text of fewer words counts where it stands whole in the other.
"""

import functools
import re
from collections.abc import Iterable

from formats.texts import read_texts
from sources.kinds import kind_of
from tasks.problems import load_problems
from transforms.parts.filters import grams

GRAM = 13          # words in a row
SHORTEST = 4       # words of a text that is looked for at all

_WORD = re.compile(r"\w+")


class Overlap:
    """Runs of words of some texts."""

    def __init__(self, texts: Iterable[str], n: int = GRAM):
        self.n, self.grams = n, {}                        # {number of words: runs}
        for text in texts:
            words = _WORD.findall(text.lower())
            size = min(n, len(words))
            if size >= min(n, SHORTEST):
                self.grams.setdefault(size, set()).update(map(" ".join, grams(words, size)))

    def touches(self, text: str) -> bool:
        """Whether a text shares a run with one of them."""
        words = _WORD.findall(text.lower())
        return any(gram in known for size, known in self.grams.items() for gram in map(" ".join, grams(words, size)))


@functools.lru_cache(maxsize=4)
def overlap_with(files: tuple[str, ...], n: int = GRAM) -> Overlap:
    """Of files: their questions, or their texts. FileNotFoundError, or ValueError that says what is wrong."""
    texts = []
    for file in files:
        kind = kind_of(file)
        if kind == "world":
            raise ValueError(f"{file}: a world has no end; its splits share no problem, so choose another split= instead")
        texts += [p.question for p in load_problems(file)] if kind == "questions" else read_texts(file)
    return Overlap(texts, n)

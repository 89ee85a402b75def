"""Documents in memory: each is token ids and loss weights.

A source of documents is any object with `get(i)` and `count`. `get(i)` returns document i as (tokens (n,), loss weights (n,)).
`count` is the number of documents in an epoch; None: endless. sources/open.py opens a source from its SPEC.
"""

import sys
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from tokenizer import Tokenizer


class Documents:
    """Documents as one array of tokens, and offsets where each begins. weights is None (all 1) or an array like tokens."""

    def __init__(self, parts: list[tuple]):
        self.parts = parts                               # [(tokens, offsets, weights)], in memory or mapped
        self.firsts = np.cumsum([0] + [len(offsets) - 1 for _, offsets, _ in parts])
        self.count = int(self.firsts[-1])
        self.tokens = int(sum(offsets[-1] for _, offsets, _ in parts))

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Document i: tokens (n,) int64 and loss weights (n,) float32."""
        part = int(np.searchsorted(self.firsts, i, side="right")) - 1
        tokens, offsets, weights = self.parts[part]
        a, b = offsets[i - self.firsts[part]:i - self.firsts[part] + 2]
        return tokens[a:b].astype(np.int64), (np.ones(b - a, np.float32) if weights is None else
                                              weights[a:b].astype(np.float32))


def document(text: str, tokenizer: Tokenizer, name: str, begins: bool = True, ends: bool = True) -> np.ndarray:
    """The token ids of a text and the end-of-document token, (n + 1,) int32; of a piece of a text without what stands at its
    beginning or at its end. `name` is for error messages."""
    try:
        ids = tokenizer.encode_document(text) if begins else tokenizer.encode(text)
        return np.array(ids + [tokenizer.eot] * ends, np.int32)
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from None


def empty_size(tokenizer: Tokenizer) -> int:
    """The number of tokens of a document without text: those that the tokenizer puts first, and the end-of-document token."""
    return len(tokenizer.encode_document("")) + 1


def tokenise(texts: Iterable[str], tokenizer: Tokenizer, name: str) -> Documents:
    """Texts as documents in memory. `name` is for error messages."""
    ids = [document(text, tokenizer, name) for text in texts]
    full = [d for d in ids if len(d) > empty_size(tokenizer)]
    report_empty(name, len(ids) - len(full), len(ids))
    return Documents([(np.concatenate(full), np.cumsum([0] + [len(d) for d in full]), None)])


def report_empty(name: str, empty: int, count: int) -> None:
    """Reports how many documents of a source are left out because they have no text. ValueError if all are empty: such a source
    would never fill a row."""
    if empty == count:
        raise ValueError(f"{name}: holds no text, all of its {count} documents are empty")
    if empty:
        tqdm.write(f"{name}: {empty} of {count} documents are empty and left out", file=sys.stderr)

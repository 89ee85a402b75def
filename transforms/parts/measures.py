"""Numbers of a corpus: how varied its texts are, how complex, how often right, how often with reasoning.

phi-4 asks four things of synthetic data (arXiv 2412.08905, section 2.1): diversity, nuance and complexity, accuracy, chain of
thought. Pure functions of lists of texts; `python augment.py measure FILE` reports them.

Most of these numbers depend on how much text there is (a longer corpus has fewer new n-grams). So compare files of one size, or
give --words, which measures the first so many words of each.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

from transforms.parts.filters import grams

MINHASHES = 128        # hash functions of a signature
SHINGLE = 5            # words in a row that two near-duplicates are compared by
NEAR = 0.8             # share of these that they have in common, from which on they count as near-duplicates

_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Words and signs in lower case."""
    return _WORD.findall(text.lower())


def first_words(texts: Iterable[str], most: int) -> list[str]:
    """The first texts that have together at least `most` words; all with 0."""
    taken, words = [], 0
    for text in texts:
        if most and words >= most:
            break
        taken.append(text)
        words += len(words_of(text))
    return taken


def distinct_ngrams(texts: Sequence[str], n: int) -> float | None:
    """The number of different runs of n words, divided by the number of runs: 1 where none comes twice (arXiv 1510.03055)."""
    found = Counter(gram for text in texts for gram in grams(words_of(text), n))
    return len(found) / found.total() if found else None


def compression_ratio(texts: Sequence[str]) -> float | None:
    """Bytes of all texts together, divided by those that zlib makes of them: the higher, the more they repeat (arXiv
    2403.00553)."""
    data = "\n".join(texts).encode("utf-8", "replace")
    return len(data) / len(zlib.compress(data, 9)) if data else None


def coverage(texts: Sequence[str], topics: Sequence[str]) -> dict:
    """How many of the topics occur, and how evenly: `effective` is exp of the entropy of the topics over the texts that name
    them, as many as there would be if all were equally frequent. A topic is a word or a phrase; case does not count."""
    found = Counter()
    for topic in dict.fromkeys(topics):
        pattern = re.compile(rf"(?<!\w){re.escape(topic)}(?!\w)", re.IGNORECASE)
        found[topic] = sum(bool(pattern.search(text)) for text in texts)
    total = found.total()
    entropy = -sum(n / total * math.log(n / total) for n in found.values() if n)
    return {"topics": len(found), "covered": sum(n > 0 for n in found.values()), "effective": math.exp(entropy) if total else 0.0}


def near_duplicates(texts: Sequence[str], near: float = NEAR) -> int:
    """How many texts have a near-duplicate among the texts before them: one with which they share `near` of all their runs of
    five words (Jaccard). Candidates come from MinHash with locality-sensitive hashing (Broder 1997) and are then compared in
    full, so what is counted is one; a few may be missed."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise ValueError("near-duplicates are found by datasketch, which is not installed; run pip install datasketch") from None
    index, shingles, found = MinHashLSH(threshold=near * 0.9, num_perm=MINHASHES), [], 0
    for number, text in enumerate(texts):
        own = {" ".join(gram) for gram in grams(words_of(text), SHINGLE)} or {" ".join(words_of(text))}
        signature = MinHash(num_perm=MINHASHES, seed=1)
        signature.update_batch([shingle.encode("utf-8", "replace") for shingle in own])
        others = (shingles[other] for other in index.query(signature))
        found += any(len(own & other) >= near * len(own | other) for other in others)
        index.insert(number, signature)
        shingles.append(own)
    return found


def spread(values: Sequence[float]) -> dict | None:
    """Mean, and the tenth, fiftieth and ninetieth of a hundred in order of size; None where there are none."""
    if not values:
        return None
    ordered, n = sorted(values), len(values)
    return {"mean": sum(values) / n} | {f"p{q}": ordered[min(n - 1, q * n // 100)] for q in (10, 50, 90)}

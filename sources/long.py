"""Long documents: those of a length, and rows that belong together, joined: long:SOURCE,tokens=1k-8k,by=book

    long:books.jsonl,tokens=4k-32k              the documents of these lengths; the others are left out
    long:pages.jsonl,by=book                    the rows with the same "book" are one document, in the order of the file
    long:pages.jsonl,by=book,tokens=4k-32k      the same, ended before a row that would make it longer than 32k tokens
    long:shards/,tokens=4k-32k                  any source that ends: files, shards, knowledge:...

    python pretrain.py --init runs/base --data long:pages.jsonl,by=book,tokens=8-256@0.3 world:ops=1-3@0.7 --out runs/long \
        --steps 10 --seq-len 256 --batch-tokens 1024

A model learns to look far back only from documents in which far back there is something to see: text that follows itself, not
neighbours in a row, which attention does not cross. A row of --seq-len T has room for a document of T + 1 tokens. So where no
document of the mixture has more, none is cut: the packer (data.py) fills rows with whole documents, by best fit.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from formats.rows import read_rows
from formats.texts import row_text
from sources import texts
from sources.documents import empty_size, tokenise
from sources.open import open_source
from tasks.options import need, set_apart, token_count
from tokenizer import Tokenizer

OPTIONS = ("tokens", "by")
BETWEEN = "\n\n"                     # what stands between rows that were joined


class LongDocuments:
    """The documents of a source that have `least` to `most` tokens, with the end-of-document token (sources/documents.py)."""

    def __init__(self, source: object, name: str, least: int, most: float):
        need(source.count is not None, f"{name}: its source never ends, so its documents cannot be chosen by length; give the "
             "length as an option of that source, as in needle:length=1k-4k")
        lengths = np.array([len(source.get(i)[0]) for i in range(source.count)])
        self.source, self.kept = source, np.flatnonzero((lengths >= least) & (lengths <= most))
        self.count, self.tokens = len(self.kept), int(lengths[self.kept].sum())
        need(self.count, f"{name}: none of {len(lengths):,} documents has so many tokens; they have {lengths.min():,} to "
             f"{lengths.max():,}")
        tqdm.write(f"{name}: {self.count:,} of {len(lengths):,} documents, with {self.tokens:,} of {lengths.sum():,} tokens",
                   file=sys.stderr)

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.source.get(int(self.kept[i]))


def open_documents(spec: str, tokenizer: Tokenizer) -> object:
    name, least, most, by = read_spec(spec)
    if by:
        source = tokenise(joined(name, by, tokenizer, most), tokenizer, name)
    else:
        source = open_source(name, tokenizer)
    return LongDocuments(source, spec, least, most) if (least, most) != (0, np.inf) else source


def sample_texts(spec: str, count: int) -> Iterator[str]:
    return texts.sample_texts(read_spec(spec)[0])


def parts_of(spec: str) -> tuple[str, ...]:
    """The source within (see sources/fingerprint.py)."""
    return (read_spec(spec)[0],)


def read_spec(spec: str) -> tuple[str, int, float, str]:
    """"long:pages.jsonl,tokens=1k-4k,by=book" -> ("pages.jsonl", 1024, 4096, "book"). ValueError for options that do not fit."""
    rest, given = set_apart(spec, OPTIONS)
    name, by, text = rest.removeprefix("long:"), given.get("by", ""), given.get("tokens", "")
    need(name and given, f"{spec}: use long:SOURCE,tokens=1k-8k, or by=FIELD for rows that belong together, or both")
    need("by" not in given or by, f"{spec}: by= names no field")
    low, dash, high = text.partition("-")
    try:
        least, most = (token_count(low) if low else 0), (token_count(high) if high else np.inf)
    except ValueError:
        least, most = 1, 0
    need(least <= most and (not text or dash), f"{spec}: tokens={text}: use a range that rises, such as 1k-8k, 1k- or -8k")
    return name, least, most, by


def joined(path: str, by: str, tokenizer: Tokenizer, most: float) -> Iterator[str]:
    """The rows of a file with the same value of a field as one text, in their order, each group where its first row stands. A
    text ends before a row that would give it more than `most` tokens. ValueError for a row without the field."""
    groups = {}
    need(not path.endswith(".txt"), f"{path}: is one document; by={by} needs a file of rows, such as .jsonl")
    for where, row in read_rows(path):
        text = row_text(row, where)
        need(isinstance(row.get(by), str | int), f'{where}: by={by}: the row has no "{by}", text or a number, that says '
             "with which rows it belongs together")
        if text:
            groups.setdefault(row[by], []).append(text)
    need(groups, f"{Path(path).name}: holds no text, all of its rows are empty")
    for rows in groups.values():
        text, size = "", empty_size(tokenizer)
        for row in rows:
            if text and size + len(tokenizer.encode(BETWEEN + row)) > most:
                yield text
                text, size = "", empty_size(tokenizer)
            size += len(tokenizer.encode(BETWEEN + row if text else row))
            text = text + BETWEEN + row if text else row
        yield text

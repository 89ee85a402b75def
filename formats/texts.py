"""Reads documents as text, from .txt files (one document) and files of rows (a document per row)."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from formats.rows import file_at, given, read_rows, refuse_unknown, text_at

# In a row with "text" all other keys are metadata (web data has many such columns), except for these:
NOT_BESIDE_TEXT = {"messages", "question", "problem", "answer", "solution", "chosen", "rejected", "system", "tools", "weight",
                   "train"}


def row_text(row: object, where: str) -> str:
    """The document in a row: its "text", or "question" and "answer" on two lines."""
    if not isinstance(row, dict):
        raise ValueError(f'{where}: no field "text", nor "question" and "answer" (found: {type(row).__name__})')
    text = text_at(row, "text", where)
    if text is not None:
        if beside := [key for key in row if key in NOT_BESIDE_TEXT and given(row[key])]:
            raise ValueError(f'{where}: both "text" and "{beside[0]}", and only one of them can be learned; remove the other')
        return text
    question, answer = text_at(row, "question", where), text_at(row, "answer", where, numbers=True)
    if question is None or answer is None:
        raise ValueError(f'{where}: no field "text", nor "question" and "answer" (found: {", ".join(row)})')
    refuse_unknown(row, ("question", "answer"), where)
    return f"{question}\n{answer}"


def without_notes(path: str | Path) -> str:
    """The text of a file without its notes, the lines at its head that begin with #."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines)).removesuffix("\n")


def read_texts(path: str | Path) -> Iterator[str]:
    """The documents of a file, one string at a time: a .txt is one document, in other files each row is one."""
    if Path(path).suffix != ".txt":
        yield from (row_text(row, where) for where, row in read_rows(path))
        return
    try:
        with open(file_at(path), encoding="utf-8", newline="") as f:
            text = f.read().removeprefix("\ufeff")        # without a byte-order mark
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text (byte {e.start}); convert it first") from None
    if not text:
        raise ValueError(f"{path}: the file is empty")
    yield text

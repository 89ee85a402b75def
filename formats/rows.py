"""Reads rows of files: .jsonl, .jsonl.gz, .parquet, and other endings for which formats/ has a file.

    for where, row in read_rows("web.parquet"): ...         `where` names file and line, for error messages

The ending of a file names the module of formats/ that reads it: formats/jsonl.py reads .jsonl (and .jsonl.gz), formats/parquet.py
reads .parquet. To read .csv, add a file formats/csv.py with a function rows(path) that yields (where, row), where row is a dict.
Then texts, questions, conversations and pairs can all be in .csv files.

An unknown key is refused, because it may change what should be learned. These keys are ignored:

- keys that say where a row comes from, or how it was judged: METADATA, and keys whose last word is one of these (problem_type);
- keys that begin with _;
- keys whose value is null or empty, as in a table in which a row has no value in a column.
"""

import math
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from formats import plugins

METADATA = {"id", "uuid", "idx", "index", "name", "title", "source", "dataset", "subset", "split", "category", "subject",
            "topic", "type", "level", "difficulty", "language", "license", "url", "model", "generator", "date", "created",
            "timestamp", "tags", "score", "quality", "meta", "metadata", "info", "domain", "ability", "year", "turns", "tokens",
            "count", "rating", "rate"}


def read_rows(path: str | Path) -> Iterator[tuple[str, object]]:
    """(where, row) for the rows of a file. FileNotFoundError, or ValueError that names file and line."""
    path, empty = file_at(path), True
    rows = plugins.in_package("formats", path.name.removesuffix(".gz").rpartition(".")[2], "rows")
    if rows is None:
        raise ValueError(f"{path}: use a .txt, .jsonl, .jsonl.gz or .parquet file, a folder of shards, world:... or hf:org/name")
    for where, row in rows(path):
        empty = False
        yield where, row
    if empty:
        raise ValueError(f"{path}: no problems, conversations or texts in it, every line is empty")


def file_at(path: str | Path) -> Path:
    """The path of a file, after a check that it exists and is not empty."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file (a folder of shards is for pre-training, with --tokenizer)")
    if str(path).startswith(("hf:", "world:", "knowledge:", "instructions:", "needle:", "long:", "text:")):
        raise ValueError(f"{path}: only a file can be read here; give a .txt, .jsonl, .jsonl.gz or .parquet file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return path


def given(value: Any) -> bool:
    """False for null and for empty text, lists and objects: a table has them where a row has no value."""
    return value is not None and value not in ("", [], {})


def refuse_unknown(row: dict, known: tuple[str, ...], where: str, what: str = "such a row", metadata: bool = True) -> None:
    """ValueError for a key of a row that is not known. With metadata=True keys of metadata are allowed too."""
    for key, value in row.items():
        fine = key in known or (metadata and (key.startswith("_") or key.rpartition("_")[2] in METADATA))
        if not fine and given(value):
            raise ValueError(f'{where}: the key "{key}" has no meaning in {what} (known: {", ".join(known)}); remove it'
                             + ', or keep it under "metadata"' * metadata)


def text_at(row: dict, key: str, where: str, numbers: bool = False) -> str | None:
    """The text under a key of a row, or None. With numbers=True a number becomes its digits (12 becomes "12"). Any other value
    is refused: the text that Python prints for a list or a boolean is not what a user wrote."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    if numbers and ((isinstance(value, int) and not isinstance(value, bool))
                    or (isinstance(value, float | Decimal) and math.isfinite(value))):    # float() would round large integers
        return str(value) if isinstance(value, int) else format(Decimal(str(value)), "f")
    raise ValueError(f'{where}: "{key}" must be text{" or a number" * numbers}; it is {str(value):.60}, '
                     f"a value of type {type(value).__name__}")

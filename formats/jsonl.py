"""Rows of .jsonl and .jsonl.gz files: one JSON object a line."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key "{next(key for key in keys if keys.count(key) > 1)}" appears twice')
    return found


def _no_number(text):
    raise ValueError(f"{text} is not a number")


def _finite(text):
    return float(text) if math.isfinite(float(text)) else _no_number(text)


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def parse_json(text: str, where: str | Path) -> Any:
    """The value of a line or a file of JSON. ValueError for what is not JSON, and also for a key given twice, NaN, Infinity,
    too many digits, or brackets nested too deeply."""
    try:
        return _decoder.decode(text.removeprefix("\ufeff"))                   # without a byte-order mark
    except json.JSONDecodeError as e:
        reason = e.msg
    except RecursionError:
        reason = "brackets nested too deeply"
    except ValueError as e:
        reason = "a number with too many digits" if "digits" in str(e) else e
    raise ValueError(f"{where}: not valid JSON ({reason}); fix or remove the line")


def rows(path: Path) -> Iterator[tuple[str, object]]:
    """(where, row) for each line that is not empty; `where` names file and line. ValueError for what cannot be read."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip("\ufeff \t\r\n"):
                    yield f"{path}, line {number}", parse_json(line, f"{path}, line {number}")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path}, after line {number}: cannot be read ({e}); fetch or write it again") from None

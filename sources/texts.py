"""Reading text: .txt, .jsonl, .jsonl.gz and .parquet files, with errors that name the file and the line.

A key of a row is used or refused, never dropped: what stands in a row may change what should be learned. Only keys that
say where a row comes from or how it was judged (METADATA, any whose last word is one of these, as in problem_type, and
any that begins with _) mean nothing, and so does a key whose value is null or empty, which tables put where a row has
nothing.
"""

import gzip
import hashlib
import json
import math
import zlib
from decimal import Decimal
from pathlib import Path

from tasks.world import World

METADATA = {"id", "uuid", "idx", "index", "name", "title", "source", "dataset", "subset", "split", "category", "subject",
            "topic", "type", "level", "difficulty", "language", "license", "url", "model", "generator", "date", "created",
            "timestamp", "tags", "score", "quality", "meta", "metadata", "info", "domain", "ability", "year", "turns", "tokens",
            "count", "rating", "rate"}
# what a row of text may have beside "text" is all metadata (web data has a dozen such columns), but for these
NOT_BESIDE_TEXT = {"messages", "question", "problem", "answer", "solution", "chosen", "rejected", "system", "tools", "weight",
                   "train"}


# JSON

def _once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'the key "{next(key for key in keys if keys.count(key) > 1)}" stands there twice')
    return found


def _no_number(text):
    raise ValueError(f"{text} is not a number")


def _finite(text):
    return float(text) if math.isfinite(float(text)) else _no_number(text)


_decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)


def parse_json(text, where):
    """What a line or a file of JSON holds. ValueError for what is not JSON, and for what Python's reader lets through or
    fails on: a key given twice, NaN and Infinity, endless digits, brackets nested too deeply."""
    try:
        return _decoder.decode(text.removeprefix("\ufeff"))                   # a byte-order mark is no text
    except json.JSONDecodeError as e:
        reason = e.msg
    except RecursionError:
        reason = "brackets nested too deeply"
    except ValueError as e:
        reason = "a number with too many digits" if "digits" in str(e) else e
    raise ValueError(f"{where}: not valid JSON ({reason}); fix or remove the line")


# rows

def read_rows(path):
    """The rows of a .jsonl, .jsonl.gz or .parquet file: (where, row), `where` naming file and line for error messages."""
    path, empty = _file(path), True
    for where, row in _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path):
        empty = False
        yield where, row
    if empty:
        raise ValueError(f"{path}: no problems, conversations or texts in it, every line is empty")


def _file(path):
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file (a folder of shards is for pre-training, with --tokenizer)")
    if str(path).startswith(("hf:", "world:")):
        raise ValueError(f"{path}: only a file can be read here")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    return path


def _read_lines(path):
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"{path}: use a .txt, .jsonl, .jsonl.gz or .parquet file, a folder of shards, world:... or hf:org/name")
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip("\ufeff \t\r\n"):
                    yield f"{path}, line {number}", parse_json(line, f"{path}, line {number}")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path}, after line {number}: cannot be read ({e}); fetch or write it again") from None


def _read_parquet(path):
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{path}: reading parquet needs pyarrow; run pip install pyarrow") from None
    number = 0
    try:
        for rows in parquet.ParquetFile(path).iter_batches(1024):
            for row in rows.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except Exception as e:                                # pyarrow has a dozen kinds, and some are no ValueError
        raise ValueError(f"{path}, after row {number}: cannot be read ({e}); fetch or write it again") from None


def given(value):
    """False for null and for empty text, lists and objects: in a table every row has a value for every key."""
    return value is not None and value not in ("", [], {})


def refuse_unknown(row, known, where, what="such a row", metadata=True):
    """ValueError for a key of a row that is neither known nor, with metadata=True, metadata."""
    for key, value in row.items():
        fine = key in known or (metadata and (key.startswith("_") or key.rpartition("_")[2] in METADATA))
        if not fine and given(value):
            raise ValueError(f'{where}: the key "{key}" has no meaning in {what} (known: {", ".join(known)}); remove it'
                             + ', or keep it under "metadata"' * metadata)


def text_at(row, key, where, numbers=False):
    """The text under a key of a row, None where there is none. With numbers=True a number counts as its digits (12 is
    "12"); nothing else does: what Python prints of a list or a truth value is no text that anybody wrote."""
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value
    if numbers and ((isinstance(value, int) and not isinstance(value, bool))
                    or (isinstance(value, float | Decimal) and math.isfinite(value))):    # no float holds every integer
        return str(value) if isinstance(value, int) else format(Decimal(str(value)), "f")
    raise ValueError(f'{where}: "{key}" must be text{" or a number" * numbers}; it is {str(value):.60}, '
                     f"a value of type {type(value).__name__}")


def row_text(row, where):
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


# documents

def read_texts(path):
    """The documents of a file, one string at a time: a .txt is one document, elsewhere each row is one."""
    if Path(path).suffix != ".txt":
        yield from (row_text(row, where) for where, row in read_rows(path))
        return
    try:
        with open(_file(path), encoding="utf-8", newline="") as f:
            text = f.read().removeprefix("\ufeff")        # a byte-order mark is no text
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text (byte {e.start}); convert it first") from None
    if not text:
        raise ValueError(f"{path}: the file is empty")
    yield text


def world_of(spec):
    """A `world:...` of documents -> (World, q_weight, chat), the last two being options of documents alone."""
    options = [part.partition("=") for part in spec.removeprefix("world:").split(",")]
    own = {"q_weight": 0.1, "chat": 0.0}
    for key, _, value in options:
        if key in own:
            try:
                own[key] = float(value)
            except ValueError:
                own[key] = -1.0
            if not 0 <= own[key] <= 1:
                raise ValueError(f"world option {key}={value}: use a number from 0 to 1")
    return World.from_spec(",".join(k + eq + v for k, eq, v in options if k not in own)), own["q_weight"], own["chat"]


def sample_texts(spec, characters=20_000_000, problems=20_000):
    """Texts to train a tokenizer on: the beginning of a file, or problems of a `world:...`."""
    if spec.startswith("hf:"):
        raise ValueError(f"{spec}: a streamed data set needs --tokenizer; train one on a file of its texts")
    if spec.startswith("world:"):
        world = world_of(spec)[0]
        yield from (f"{p.question}\n{p.solution}" for p in map(world.problem, range(problems)))
        return
    for text in read_texts(spec):
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def fingerprint(name, block=2 ** 20, blocks=64):
    """A hash of a source or of a checkpoint's folder, to notice later that it has changed: of the bytes of a file; of the
    weights, tokenizer or shards of a folder (of large files the size and 64 blocks of 1 MiB, evenly spread); of the first
    problems of a world. "" if there is no such file, and for a data set of the hub, which is known by its name alone."""
    h, path = hashlib.blake2b(digest_size=16), Path(name)
    if name.startswith("world:"):
        for text in sample_texts(name, problems=16):
            h.update(text.encode() + b"\0")
        return h.hexdigest()
    if not path.exists():
        return ""
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.name in ("config.json", "tokenizer.json", "index.json")
                       or f.suffix in (".npy", ".safetensors"))
    for file in files:
        size = file.stat().st_size
        h.update(f"{file.name if path.is_dir() else ''}|{size}|".encode())
        with open(file, "rb") as f:
            for at in range(0, size, max(block, size // blocks) if path.is_dir() else block):
                f.seek(at)
                h.update(f.read(block))
    return h.hexdigest()

"""Reading text: .txt, .jsonl, .jsonl.gz and .parquet files, with errors that name the file and the line."""

import gzip
import hashlib
import json
from pathlib import Path

from world import World


def read_rows(path):
    """The rows of a .jsonl, .jsonl.gz or .parquet file: (where, row), `where` naming file and line for error messages."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise ValueError(f"{path}: reading parquet needs pyarrow; run pip install pyarrow") from None
        number = 0
        for rows in parquet.ParquetFile(path).iter_batches(1024):
            for row in rows.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        number = 0
        try:
            with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path,
                    encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{path}, line {number}", parse_json(line, f"{path}, line {number}")
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as e:
            raise ValueError(f"{path}, after line {number}: cannot be read ({e}); fetch or write it again") from None
    else:
        raise ValueError(f"{path}: use a .txt, .jsonl, .jsonl.gz or .parquet file, a folder of shards, world:... or hf:org/name")


def read_texts(path):
    """The documents of a file, one string at a time: a .txt is one document, elsewhere each row is one."""
    path = Path(path)
    if path.suffix != ".txt":
        yield from (row_text(row, where) for where, row in read_rows(path))
        return
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        with open(path, encoding="utf-8", newline="") as f:
            yield f.read()
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not UTF-8 text (byte {e.start}); convert it first") from None


def row_text(row, where):
    """The document in a row: its "text", or "question" and "answer" on two lines."""
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        return row["text"]
    if isinstance(row, dict) and isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
        return f"{row['question']}\n{row['answer']}"
    fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
    raise ValueError(f'{where}: no field "text", nor "question" and "answer" (found: {fields})')


def parse_json(text, where):
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ValueError(f"{where}: not valid JSON ({e.msg}); mend or remove the line") from None


def sample_texts(spec, characters=20_000_000, problems=20_000):
    """Texts to train a tokenizer on: the beginning of a file, or problems of a `world:...` (its options for documents,
    q_weight and chat, do not matter here)."""
    if spec.startswith("world:"):
        options = [o for o in spec.removeprefix("world:").split(",") if not o.startswith(("q_weight=", "chat="))]
        world = World.from_spec(",".join(options))
        yield from (f"{p.question}\n{p.solution}" for p in map(world.problem, range(problems)))
        return
    for text in read_texts(spec):
        if characters <= 0:
            return
        yield text[:characters]
        characters -= len(text)


def fingerprint(name, block=2 ** 20, blocks=64):
    """A hash by which a source is known again, or the folder of a checkpoint: of a file its bytes; of a folder its weights,
    tokenizer or shards (of large ones 64 blocks of 1 MiB, evenly spread, and the size); of a world its first problems. "" for
    what is not there, and for a data set of the hub, whose name has to do."""
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

"""Reads and writes small files: JSON objects, with errors that name the file, and atomic writes."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path


def read_json(path: str | Path) -> dict:
    """The JSON object (dict) of a file. ValueError, in one line that names the file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:             # malformed, not UTF-8, or nested without end
        raise ValueError(f"{path}: not valid JSON ({e}); fetch or write it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object, not {type(found).__name__}")
    return found


def read_json_lines(path: str | Path) -> list[dict]:
    """The records of a .jsonl file of ours; none if there is no such file. A line that was cut off by a full disk or a power cut
    is left out, and standard error says so."""
    found = []
    for number, line in enumerate(Path(path).read_text().splitlines() if Path(path).exists() else [], 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            print(f"{path}, line {number}: is cut off, so it is left out", file=sys.stderr)
    return found


def write_json(path: str | Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """The file appears whole or not at all; its folder is made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def remove(folder: str | Path, *patterns: str) -> None:
    """Removes the files of a folder whose names match one of the patterns."""
    for pattern in patterns:
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def write_atomically(path: str | Path, write: Callable) -> None:
    """Calls write(temporary path), flushes it to disk and renames it over `path`; on failure the old file stays."""
    temporary = Path(f"{path}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode                    # the usual one; safetensors makes files only for the owner
        write(temporary)
        temporary.chmod(mode)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

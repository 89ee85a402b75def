"""What run folders say about how a checkpoint came to be: the longest rows that it was trained on."""

import json
from pathlib import Path


def longest_rows(folder: str | Path) -> int:
    """The largest --seq-len of the run that wrote a checkpoint and of those that it started from (--init), as far as their
    folders are there. 0 where none says it, as for a checkpoint from elsewhere."""
    found, seen = 0, set()
    while folder and (log := Path(folder) / "log.jsonl").is_file() and log.resolve() not in seen:
        seen.add(log.resolve())
        with open(log, encoding="utf-8", errors="replace") as f:
            try:
                flags = json.loads(f.readline())["flags"]
                found, folder = max(found, int(flags.get("seq_len", 0))), flags.get("init", "")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                break                                     # not a log of ours
    return found

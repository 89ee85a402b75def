"""Computes a hash of the files that a run reads, so that a resumed run notices changes."""

import hashlib
from pathlib import Path

from formats import plugins
from sources.texts import sample_texts
from tasks.options import is_generated


def parts_of(spec: str) -> tuple[str, ...]:
    """The SPECs and checkpoints that a SPEC is made of: of text:corpus.txt,proxy=runs/base two, of most the SPEC itself. A task
    or a kind of source that is made of others says so in a function `parts_of` of its file."""
    kind, colon, _ = spec.partition(":")
    found = plugins.in_package("tasks" if is_generated(spec) else "sources", kind, "parts_of") if colon else None
    return found(spec) if found else (spec,)


def fingerprint(name: str, block: int = 2 ** 20, blocks: int = 64) -> str:
    """A hash of a source or of a checkpoint folder:

    - of a file: its bytes;
    - of a folder: its weights, tokenizer or shards (of a large file the size, and 64 blocks of 1 MiB that are evenly spread);
    - of a generated task: its first documents;
    - of a user's my_task.py:MyTask: the bytes of the file.

    "" if there is no such file, and for a data set of the hub."""
    h, path = hashlib.blake2b(digest_size=16), Path(plugins.file_of(name) if plugins.is_plugin(name) else name)
    if is_generated(name):
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

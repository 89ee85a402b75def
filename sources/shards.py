"""Shards: a large corpus is tokenised once, in parallel processes, into a folder of memory-mapped arrays."""

import contextlib
import glob
import itertools
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from formats.jsonl import parse_json
from formats.texts import read_texts
from sources.documents import Documents, document, empty_size, report_empty
from sources.texts import reader_of
from tasks.options import is_generated
from tokenizer import Tokenizer

# where a long text is cut: between two words, where no pattern has a piece that spans the cut; in text without them at a line end
BETWEEN_WORDS, LINE_END = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])"), re.compile(r"\n(?=\S)")


def open_shards(folder: str | Path, tokenizer: Tokenizer) -> Documents:
    """A folder that `prepare` wrote -> Documents, memory-mapped. tokenizer: that of the model that will be trained. ValueError if
    the shards were made with another tokenizer. (Older folders have no fingerprint; for them only the vocabulary size is
    checked.)"""
    index_file = Path(folder) / "index.json"
    if not index_file.is_file():
        raise FileNotFoundError(f"{index_file}: no such file; make the folder with python data.py prepare")
    index = parse_json(index_file.read_text(encoding="utf-8"), index_file)
    try:
        if index["vocab_size"] != len(tokenizer):
            raise ValueError(f"made with a vocabulary of {index['vocab_size']}, this tokenizer has {len(tokenizer)}")
        if index.get("tokenizer", tokenizer.fingerprint()) != tokenizer.fingerprint():
            raise ValueError("made with another tokenizer than this one, though of the same size")
        found = Documents([_open_shard(Path(folder), shard) for shard in index["shards"]])
    except (KeyError, TypeError) as e:
        raise ValueError(f"{index_file}: is not what data.py prepare writes ({e!r}); prepare the folder again") from None
    except ValueError as e:
        raise ValueError(f"{folder}: {e}; prepare it again") from None
    if found.tokens <= found.count * empty_size(tokenizer):
        raise ValueError(f"{folder}: the shards hold no text; prepare them again")
    if "tokenizer" not in index:
        print(f"{folder}: does not say which tokenizer made it; taken to be this one, whose vocabulary is as large",
              file=sys.stderr)
    return found


def _open_shard(folder, shard):
    """(tokens, offsets, weights or None) of one entry of index.json."""
    file, kinds = shard["file"], ("tokens", "offsets", "weights")[:2 + bool(shard["weighted"])]
    try:
        tokens, offsets, *weights = (np.load(folder / f"{kind}_{file}.npy", mmap_mode="r") for kind in kinds)
    except (ValueError, EOFError) as e:                   # EOFError: of an empty file
        raise ValueError(f"shard {file} is damaged ({e})") from None
    if (len(tokens) != shard["tokens"] or len(offsets) != shard["documents"] + 1 or offsets[0] != 0 or offsets[-1] != len(tokens)
            or any(len(w) != len(tokens) for w in weights)):
        raise ValueError(f"shard {file} does not match index.json")
    return tokens, offsets, *(weights or [None])


def _start_worker(folder):
    """Workers ignore Ctrl-C, which a terminal sends to all processes: the main process answers it. If that one is killed, its
    workers end too."""
    global _tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()
    _tokenizer = Tokenizer.load(folder)


def _end_without(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _encode_texts(job):
    name, pieces = job
    return [(document(text, _tokenizer, name, begins, ends), None, ends) for text, begins, ends in pieces]


def _encode_lessons(job):
    spec, first, last = job
    source = reader_of(spec, "open_documents")(spec, _tokenizer)
    return [(*source.get(i), True) for i in range(first, last)]


def _lessons(spec):
    """How many documents a generated task writes; None: endless."""
    return reader_of(spec, "open_lessons")(spec)[0].lessons


def _jobs(name):
    """The work of `prepare` in pieces, as (function, argument). A function returns a list of (tokens, loss weights or None,
    whether a document ends here)."""
    if is_generated(name):
        count = _lessons(name) or 2 ** 40
        yield from ((_encode_lessons, (name, i, min(i + 1000, count))) for i in range(0, count, 1000))
        return
    pieces, size = [], 0
    for text in read_texts(name):
        # a long text is cut, so that the processes can share it; its pieces become one document again
        for piece in [(text, True, True)] if len(text) < 1_000_000 else _cut(text, 250_000):
            pieces.append(piece)
            size += len(piece[0])
            if size >= 100_000:
                yield _encode_texts, (name, pieces)
                pieces, size = [], 0
    if pieces:
        yield _encode_texts, (name, pieces)


def _cut(text, size):
    """Pieces of at least `size` characters: (text, whether it is the first, whether it is the last)."""
    at = 0
    while at < len(text):
        found = BETWEEN_WORDS.search(text, at + size, at + 2 * size) or LINE_END.search(text, at + size)
        end = found.end() if found else len(text)
        yield text[at:end], at == 0, end == len(text)
        at = end


def prepare(specs: list[str], tokenizer_folder: str | Path, out: str | Path, workers: int = 2,
            shard_tokens: int = 100_000_000, max_tokens: int | None = None, dtype: str = "") -> dict:
    """Tokenises sources in parallel processes into a folder of shards; returns its index (dict).

    dtype "" takes uint16 if the vocabulary fits, else uint32. World sources are endless and need max_tokens (for each source).
    Documents are taken whole, so there may be more tokens than that. Only a text of a million characters or more ends earlier,
    at one of its pieces (`_cut`).
    The order of documents does not depend on the number of workers. The folder appears only when it is complete.
    """
    out, tokenizer = Path(out), Tokenizer.load(tokenizer_folder)
    vocab = len(tokenizer)
    dtype = np.dtype(dtype or ("uint16" if vocab <= 2 ** 16 else "uint32"))
    if vocab > np.iinfo(dtype).max + 1:
        raise ValueError(f"--shard-dtype {dtype}: cannot hold a vocabulary of {vocab}; use uint32")
    if out.exists():
        raise ValueError(f"--out {out}: exists already; remove it or choose another folder")
    if not max_tokens and any(is_generated(s) and _lessons(s) is None for s in specs):
        raise ValueError("--tokens is needed with a world source, which is endless")
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(str(tokenizer_folder),))
    _sweep(out)
    temporary = Path(f"{out}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    index = {"vocab_size": vocab, "tokenizer": tokenizer.fingerprint(), "dtype": str(dtype),
             "sources": specs, "tokens": 0, "documents": 0, "shards": []}
    held, held_tokens = [], 0

    def flush():
        nonlocal held, held_tokens
        if not held:
            return
        file, weighted = f"{len(index['shards']):05d}", any(w is not None for _, w in held)
        np.save(temporary / f"tokens_{file}.npy", np.concatenate([t for t, _ in held]).astype(dtype))
        np.save(temporary / f"offsets_{file}.npy", np.cumsum([0] + [len(t) for t, _ in held]))
        if weighted:
            weights = [np.ones(len(t)) if w is None else w for t, w in held]
            np.save(temporary / f"weights_{file}.npy", np.concatenate(weights).astype(np.float16))
        index["shards"].append({"file": file, "tokens": held_tokens, "documents": len(held), "weighted": weighted})
        index["tokens"] += held_tokens
        index["documents"] += len(held)
        held, held_tokens = [], 0

    try:
        with tqdm(unit=" tokens", unit_scale=True, desc="prepare") as bar:
            for name in specs:
                taken = empty = count = 0
                begun = []                                # pieces of a document that has not ended
                for tokens, weights, ends in itertools.chain.from_iterable(_in_order(pool, _jobs(name), workers * 4)):
                    begun.append(tokens)
                    if not ends:
                        if not max_tokens or taken + sum(map(len, begun)) < max_tokens:
                            continue
                        begun.append([tokenizer.eot])     # enough is taken, and the document ends here
                    tokens, begun, count = np.concatenate(begun), [], count + 1
                    if len(tokens) == empty_size(tokenizer):
                        empty += 1
                        continue
                    held.append((tokens, weights))
                    taken, held_tokens = taken + len(tokens), held_tokens + len(tokens)
                    bar.update(len(tokens))
                    if held_tokens >= shard_tokens:
                        flush()
                    if max_tokens and taken >= max_tokens:
                        break
                report_empty(name, empty, count)
            flush()
        (temporary / "index.json").write_text(json.dumps(index, indent=1, allow_nan=False) + "\n")
        os.replace(temporary, out)
    except BrokenExecutor:                                # (multiprocessing.Pool would wait for ever for a dead worker)
        raise ValueError("a worker process died (killed, or out of memory); give fewer --workers or smaller documents") from None
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(temporary, ignore_errors=True)
    return index


def _sweep(out):
    """Removes what was left behind by commands that were killed while they wrote the same folder on this machine."""
    for left in out.parent.glob(f"{glob.escape(out.name)}.{glob.escape(socket.gethostname())}.*.tmp"):
        with contextlib.suppress(ValueError, PermissionError):                # no number; the process of somebody else
            try:
                os.kill(int(left.suffixes[-2][1:]), 0)
            except ProcessLookupError:
                shutil.rmtree(left, ignore_errors=True)


def _in_order(pool, jobs, ahead):
    """Results of jobs in order, with at most `ahead` jobs at a time (`map` would read the complete input at once)."""
    waiting = []
    for function, argument in jobs:
        waiting.append(pool.submit(function, argument))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()

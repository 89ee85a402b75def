"""Opens a source of documents by its SPEC.

    open_source("notes.txt", tokenizer)       a file, tokenised into memory (formats/rows.py says which kinds)
    open_source("shards/", tokenizer)         a folder that data.py prepare wrote, mapped into memory (sources/shards.py)
    open_source("world:ops=1-4", tokenizer)   documents of a generated task, made when they are asked for (sources/generated.py)
    open_source("long:pages.jsonl,by=book", tokenizer)     rows that belong together, documents of a length (sources/long.py)
    open_source("hf:org/name", tokenizer)     a data set of the Hugging Face hub, streamed (sources/hf.py)

The name before the colon is the name of a generated task (tasks/problems.py), or of the file in sources/ that opens it. To read
from another place, such as db:..., add a file sources/db.py with a function open_documents(spec, tokenizer) that returns a source
(sources/documents.py).
"""

import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from formats.texts import read_texts
from sources.documents import tokenise
from sources.shards import open_shards
from sources.texts import reader_of
from tokenizer import Tokenizer


def open_source(name: str, tokenizer: Tokenizer) -> Any:
    """A SPEC without its weight -> a source with .get(i) and .count (documents in an epoch, None where endless)."""
    if open_documents := reader_of(name, "open_documents"):
        return open_documents(name, tokenizer)
    if os.path.isdir(name):
        return open_shards(name, tokenizer)
    return tokenise(tqdm(read_texts(name), desc=f"tokenise {Path(name).name}", unit=" documents", leave=False),
                    tokenizer, name)

"""Streams data sets of the Hugging Face hub: hf:org/name."""

from collections.abc import Iterator

import numpy as np

from formats.hub import stream
from formats.texts import row_text
from sources.documents import document
from tokenizer import Tokenizer


def sample_texts(spec: str, count: int) -> Iterator[str]:
    raise ValueError(f"{spec}: a streamed data set needs --tokenizer; train one on a file of its texts")


class HubDocuments:
    """A data set of the Hugging Face hub, streamed in its order; an epoch ends when the stream ends."""

    count = None

    def __init__(self, name: str, tokenizer: Tokenizer):
        self.rows = stream(name, "train")
        self.name, self.tokenizer, self.at, self.stream = name, tokenizer, None, None

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        if self.at != i:                                                      # the first time, or after a resume
            self.stream, self.at = iter(self.rows.skip(i)), i
        try:
            row = next(self.stream)
        except StopIteration:
            raise IndexError(i) from None
        self.at += 1
        where = f"hf:{self.name}, row {i + 1}"
        ids = document(row_text(row, where), self.tokenizer, where)
        return ids, np.ones(len(ids), np.float32)


def open_documents(spec: str, tokenizer: Tokenizer) -> HubDocuments:
    return HubDocuments(spec.removeprefix("hf:"), tokenizer)

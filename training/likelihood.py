"""Log-probabilities of given continuations under a model: forward passes over many texts at once.

Used where a model judges (tasks/judges.py), where it says which tokens are hard (tasks/positions.py), and where the thought of
another one is to be worth something (rl/scoring.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from training.batch import Batch, batch_from, rounded_up

TOKENS = 16384                       # slots of a pass, at most (but at least one text)


def passes(texts: Sequence[tuple[np.ndarray, np.ndarray]], tokens: int = TOKENS) -> Iterator[tuple[Batch, range]]:
    """Batches of texts, one in each row, with the numbers of the texts in it. A text is (ids (n,), weights (n,))."""
    T = rounded_up(max(len(ids) for ids, _ in texts) - 1, 64)
    rows = max(1, tokens // T)
    for first in range(0, len(texts), rows):
        part = texts[first:first + rows]
        yield batch_from([[text] for text in part], T), range(first, first + len(part))


@torch.no_grad()
def continuation_logprobs(model: Any, texts: Sequence[tuple[list[int], list[int]]], tokens: int = TOKENS) -> list[float]:
    """log p(continuation | what is before it) in nats, for each text (ids before, ids of the continuation): the sum over its
    tokens. Nothing may be empty. model: a Transformer; its caller decides about exact mode and autocast."""
    found = []
    for batch, _ in passes([(np.array(before + after), np.array([0.0] * len(before) + [1.0] * len(after), np.float32))
                            for before, after in texts], tokens):
        here = batch.to(model.head.device)
        with model.uncompiled():
            logprobs = model(here.tokens, here.documents, here.targets)                                     # (B, T)
        found += (logprobs.double() * here.loss_mask).sum(dim=1).tolist()
    return found

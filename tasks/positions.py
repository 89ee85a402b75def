"""Chooses the positions of a text at which a model is asked for the next token (RPT, arXiv 2506.08007, section 3.1).

Most tokens follow from those before them, and there thinking is wasted. So the paper keeps the positions at which a small proxy
model is undecided: where the entropy of its 16 most likely tokens is above a threshold. Without a proxy a position is drawn at
random in each stretch of text (RLP, arXiv 2510.01265: one random position in a document), or all are taken.

The entropy here is that of the 16 probabilities divided by their sum, in nats: at most log 16 = 2.77. (Which of the two the paper
takes is not said.)
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model import Transformer, load_both
from tokenizer import Tokenizer
from training.ledger import Costs
from training.likelihood import passes

TOP = 16                             # tokens that the entropy is of
LOOK_BACK = 16                       # tokens before a position that must be cut in the same way without what follows
LEVELS = ((1.5, "hard"), (1.0, "medium"), (0.0, "easy"))                      # the paper's three test sets, by entropy


@dataclass(frozen=True)
class Position:
    """A place in a text: its token number `at` is to be predicted. entropy, top: of the proxy, {token: probability}; None without
    one."""
    document: int
    at: int
    entropy: float | None = None
    top: dict[int, float] | None = None

    @property
    def difficulty(self) -> str:
        """easy, medium or hard; "" without a proxy."""
        return "" if self.entropy is None else next(name for least, name in LEVELS if self.entropy >= least)


def is_clean(tokenizer: Tokenizer, ids: Sequence[int], at: int) -> bool:
    """Whether the text before a position is cut into the same tokens if nothing follows it. Otherwise a model that is shown the
    text sees other tokens than where it learned to read; inside of a character no text can be shown at all."""
    first = max(0, at - LOOK_BACK)
    for start in range(first, at - LOOK_BACK // 2 if first else 1):           # in the middle of a text the first may differ
        before = list(ids[start:at])
        try:
            text = tokenizer.decode_bytes(before).decode()
        except UnicodeDecodeError:
            continue
        if tokenizer.encode(text) == before:
            return True
    return False


def writable(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """How many of the tokens stand for the shortest beginning that can be written as text: 1, more where a token ends inside of a
    character, 0 where there are too few."""
    for n in range(1, len(ids) + 1):
        try:
            tokenizer.decode_bytes(ids[:n]).decode()
            return n
        except UnicodeDecodeError:
            continue
    return 0


def at_random(number: int, places: range, stretch: int, seed: int, fits: Callable[[int, int], bool]) -> list[Position]:
    """One position in each stretch of so many tokens of a document, drawn from its number and the seed alone. fits(number, at)
    says whether a position may be taken."""
    found = []
    for first in range(places.start, places.stop, stretch):
        order = list(range(first, min(first + stretch, places.stop)))
        random.Random(f"positions|{seed}|{number}|{first}").shuffle(order)
        found += [Position(number, at) for at in order if fits(number, at)][:1]
    return found


class Proxy:
    """A checkpoint that says how hard each token is to predict.

    flops, tokens: of its passes so far."""

    def __init__(self, folder: str, tokenizer: Tokenizer, device: str = "cpu"):
        """ValueError if its tokenizer is not that of the model that is asked."""
        self.model, own = load_both(folder, device)
        if own.fingerprint() != tokenizer.fingerprint():
            raise ValueError(f"proxy={folder}: has another tokenizer than the model that is asked, so its tokens are not the "
                             "model's; take a proxy with the same tokenizer")
        self.model.requires_grad_(False)
        self.prefix, self.costs, self.flops, self.tokens = tokenizer.prefix, Costs.of(self.model), 0, 0

    @torch.no_grad()
    def hard(self, documents: Sequence[tuple[Sequence[int], range]], context: int, least: float) -> Iterator[Position]:
        """The positions whose entropy is above `least`. documents: ids, and the places that may be chosen. A token is predicted
        from at least `context` tokens before it, or from all there are."""
        pieces = []                                       # (document, first token of the piece, places in it)
        for number, (_, places) in enumerate(documents):
            for first in range(places.start, places.stop, context):
                pieces.append((number, max(0, first - context), range(first, min(first + context, places.stop))))
        texts = [np.array([*self.prefix * (start == 0), *documents[number][0][start:places.stop]])
                 for number, start, places in pieces]
        if not texts:
            return
        for batch, numbers in passes([(ids, np.ones(len(ids), np.float32)) for ids in texts], tokens=4096):
            here = batch.to(self.model.head.device)
            hidden = self.model.hidden(here.tokens, here.documents)                                         # (B, T, D)
            for row, n in enumerate(numbers):
                number, start, places = pieces[n]
                shift = len(self.prefix) * (start == 0) - start - 1               # the slot that predicts token `at`: at + shift
                slots = torch.arange(places.start, places.stop, device=hidden.device) + shift
                yield from self._above(hidden[row, slots], number, places, least)
        lengths = [len(ids) - 1 for ids in texts]
        self.flops, self.tokens = self.flops + self.costs.forward(lengths), self.tokens + sum(lengths)

    def _above(self, hidden, number, places, least):
        p = entropy_top(self.model, hidden)
        for at, entropy, values, ids in zip(places, *(x.tolist() for x in p)):
            if entropy > least:
                yield Position(number, at, entropy, dict(zip(ids, values)))


def entropy_top(model: Transformer, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (n, D) -> the entropy of the TOP most likely tokens (n,), their probabilities (n, TOP) and ids (n, TOP)."""
    logits = model.logits(hidden).double()                                                                  # (n, V)
    for first, end in model.unused_ids:
        logits[:, first:end] = -torch.inf
    values, ids = logits.softmax(-1).topk(min(TOP, logits.shape[-1]))
    share = values / values.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1), values, ids

"""How well a model predicts text: bits per byte of files, and the loss that pre-training would have."""

import contextlib
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch

from data import Mixture, Packer
from formats.texts import read_texts
from model import Transformer
from tokenizer import Tokenizer
from training.batch import batch_from


@torch.no_grad()
def bits_per_byte(model: Transformer, tokenizer: Tokenizer, texts: Iterable[str], T: int = 256, rows: int = 16,
                  max_tokens: int = 0, autocast: AbstractContextManager | None = None) -> dict:
    """Cross entropy of texts in bits per byte of UTF-8: {"bits_per_byte", "loss" (nats per token), "tokens", "bytes"}.

    A text is cut into pieces of T slots, and every token is predicted from the tokens before it in its piece. The first token of
    a text cannot be predicted, so its bytes do not count (unless the tokenizer puts a token before it). The end-of-document token
    has no bytes and does not count.
    """
    pieces, size = [], 0
    for text in texts:
        ids = np.array(tokenizer.encode_document(text))[:max_tokens - size if max_tokens else None]
        counts = np.ones(len(ids), np.float32)
        counts[:len(tokenizer.prefix)] = 0
        pieces += [(ids[i:i + T + 1], counts[i:i + T + 1]) for i in range(0, len(ids) - 1, T)]
        size += len(ids)
        if max_tokens and size >= max_tokens:
            break
    if not pieces:
        raise ValueError("bits per byte needs a text of at least two tokens, and there is none")
    length_of = np.array([len(tokenizer.token_bytes(i)) for i in range(len(tokenizer))])
    nats = count = size = 0
    device = model.head.device
    for i in range(0, len(pieces), rows):
        batch = batch_from([[piece] for piece in pieces[i:i + rows]], T)
        with autocast or contextlib.nullcontext(), model.uncompiled():
            logprobs = model(batch.tokens.to(device), batch.documents.to(device), batch.targets.to(device)).cpu()
        nats -= float((logprobs.double() * batch.loss_mask).sum())
        count += int(batch.loss_mask.sum())
        size += int(length_of[batch.targets[batch.loss_mask > 0].numpy()].sum())
    return {"bits_per_byte": round(nats / math.log(2) / size, 4), "loss": round(nats / count, 4), "tokens": count,
            "bytes": size}


@torch.no_grad()
def heldout_loss(model: Transformer, tokenizer: Tokenizer, spec: str, T: int = 256, rows: int = 16, max_tokens: int = 100_000,
                 autocast: AbstractContextManager | None = None) -> dict:
    """The loss that pre-training would have on a SPEC of documents: {"loss" (nats per token), "tokens"}.

    Over the first documents in the order of a training run, until max_tokens are drawn or a file was read once; packed and
    weighed as there, so that of a world the solutions count and its random questions little (q_weight)."""
    mixture = Mixture([spec], tokenizer, max_epochs=1)

    def draw():
        if mixture.given.sum() >= max_tokens:
            raise StopIteration
        return mixture.next()
    packer, packed, nats, weight = Packer(T, draw), [], 0.0, 0.0
    with contextlib.suppress(StopIteration):
        while True:
            packed.append(packer.row())
    for i in range(0, len(packed), rows):
        batch = batch_from(packed[i:i + rows], T).to(model.head.device)
        with autocast or contextlib.nullcontext(), model.uncompiled():
            logprobs = model(batch.tokens, batch.documents, batch.targets)
        nats -= float((logprobs.double() * batch.loss_mask).sum())
        weight += float(batch.loss_mask.double().sum())
    return {"loss": round(nats / weight, 5), "tokens": int(mixture.given.sum())}


def check_text(path: str, tokenizer: Tokenizer) -> None:
    """ValueError for a file of text without measurable bits per byte. It reads the complete file: the last line may be broken."""
    if not [text for text in read_texts(path) if len(tokenizer.encode_document(text[:1000])) > 1]:
        raise ValueError(f"{path}: bits per byte needs a text of at least two tokens, and there is none")

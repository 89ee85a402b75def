"""A packed batch: rows of whole documents side by side, with what the model and the loss need to know of each token."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Batch:
    """Packed rows, all (B, T). The loss of a slot is loss_mask * -log p(target). Masks are never derived from token ids."""
    tokens: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor          # within the document; used to count FLOPs (the model computes its own from `documents`)
    documents: torch.Tensor          # number of the document in its row; -1 is padding
    loss_mask: torch.Tensor          # float; 0 on padding

    @property
    def filled(self) -> int:
        """The number of slots that hold a token."""
        return int((self.documents >= 0).sum())

    def to(self, device: torch.device) -> "Batch":
        return type(self)(*(t.to(device, non_blocking=True) for t in vars(self).values()))


def document_sums(values: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Sums over each document: values and documents (B, T) -> (B, M), where M is one more than the largest document number.
    Padding (a negative number) is not counted. (scatter_add would be shorter, but on a GPU its order of addition changes from
    run to run, and so do the last bits of every sum.)"""
    M = max(0, int(documents.max())) + 1
    mine = documents[:, :, None] == torch.arange(M, device=documents.device)                                # (B, T, M)
    return torch.where(mine, values[:, :, None], 0).sum(dim=1)                                              # (B, M)


def of_documents(numbers: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """The number of its document, for each token: numbers (B, M), documents (B, T) -> (B, T), 0 on padding. (gather would be
    shorter, but its gradient is a scatter_add.)"""
    which = torch.arange(numbers.shape[1], device=documents.device)           # (M,)
    return torch.where(documents[:, :, None] == which, numbers[:, None], 0).sum(dim=2)                      # (B, T)


def rounded_up(n: int, step: int) -> int:
    """n rounded up to a multiple of `step`. Libraries prepare code for each new length, so there should be few lengths."""
    return -(-n // step) * step


def batch_from(rows: list[list[tuple]], T: int) -> Batch:
    """rows: for each row a list of (tokens (n+1,), weights (n+1,), ...) that fill at most T slots -> Batch.

    A document of n+1 tokens takes n slots: its last token, which ends the document, is only a target.
    """
    B = len(rows)
    tokens, targets, positions = (np.zeros((B, T), np.int64) for _ in range(3))
    documents, mask = np.full((B, T), -1, np.int64), np.zeros((B, T), np.float32)
    for b, row in enumerate(rows):
        at = 0
        for d, (ids, weights, *_) in enumerate(row):
            end = at + len(ids) - 1
            tokens[b, at:end], targets[b, at:end] = ids[:-1], ids[1:]
            positions[b, at:end], documents[b, at:end], mask[b, at:end] = np.arange(end - at), d, weights[1:]
            at = end
    return Batch(*map(torch.from_numpy, (tokens, targets, positions, documents, mask)))


@dataclass
class PairBatch(Batch):
    """A packed batch of pairs. In a row, documents with even numbers are chosen answers, and those with odd numbers rejected
    ones. (KTO has three documents for each pair; the third is the mismatched answer.)"""
    reference: torch.Tensor          # (B, M) log-probability of each document under the reference; 0: no reference


def pair_batch(rows: list[list[tuple]], T: int) -> PairBatch:
    """Like batch_from, for rows of (tokens, weights, log-probability under the reference)."""
    known = np.zeros((len(rows), max(map(len, rows))))
    for b, row in enumerate(rows):
        known[b, :len(row)] = [reference for *_, reference in row]
    return PairBatch(*vars(batch_from(rows, T)).values(), torch.from_numpy(known))

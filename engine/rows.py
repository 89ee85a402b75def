"""The tensors on the device for each row (a sequence that decodes). Running rows are always the first ones."""

import torch

from engine.cache import upload


class Rows:
    """Tensors that stay in place, since CUDA graphs read them. Letters as in model.py; there are `count` rows.

    hidden      (count, D): the last hidden state, from which the next token is sampled
    pending     (count,): the last sampled token, which is not decoded yet
    keys        (count,): the request's key for random numbers
    positions   (count,): how many tokens the request has sampled
    """

    def __init__(self, count: int, width: int, device: torch.device, dtype: torch.dtype):
        self.count, self.device = count, device
        self.hidden = torch.zeros(count, width, device=device, dtype=dtype)
        self.pending, self.keys, self.positions = (torch.zeros(count, dtype=torch.long, device=device) for _ in range(3))

    def enter(self, first: int, requests: list) -> None:
        """Puts requests into the rows from `first` on."""
        rows = slice(first, first + len(requests))
        self.keys[rows] = upload([r.key for r in requests], self.device)
        self.positions[rows] = upload([r.drawn for r in requests], self.device)

    def advance(self, tokens: torch.Tensor) -> None:
        """Notes the sampled tokens (B,) of the first B rows."""
        B = len(tokens)
        self.pending[:B] = tokens
        self.positions[:B] += 1

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Moves the sequences of the rows `sources` to the rows `targets`, one to one. `hidden` is not moved: the next decode
        writes it."""
        at, to = upload(sources, self.device), upload(targets, self.device)
        for t in (self.pending, self.keys, self.positions):
            t[to] = t[at]

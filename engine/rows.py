"""What the device holds of each row, a sequence that decodes. Running rows stay together: they are always the first ones."""

import torch

from engine.cache import upload


class Rows:
    """Tensors that stay in place, since CUDA graphs read them. Letters as in model.py; `count` rows at most.

    hidden (count, D): the last hidden state, from which a token is drawn; pending (count,): the token that is drawn and not yet
    decoded; keys (count,): of the request's randomness; positions (count,): how many tokens the request has drawn.
    """

    def __init__(self, count: int, width: int, device: torch.device, dtype: torch.dtype):
        self.count, self.device = count, device
        self.hidden = torch.zeros(count, width, device=device, dtype=dtype)
        self.pending, self.keys, self.positions = (torch.zeros(count, dtype=torch.long, device=device) for _ in range(3))

    def enter(self, first: int, requests: list) -> None:
        """Requests take the rows from `first` on."""
        rows = slice(first, first + len(requests))
        self.keys[rows] = upload([r.key for r in requests], self.device)
        self.positions[rows] = upload([r.drawn for r in requests], self.device)

    def advance(self, tokens: torch.Tensor) -> None:
        """The first rows have drawn these tokens (B,)."""
        B = len(tokens)
        self.pending[:B] = tokens
        self.positions[:B] += 1

    def move(self, source: int, target: int) -> None:
        """The sequence of one row goes on in another."""
        for t in (self.pending, self.keys, self.positions):
            t[target] = t[source]

"""What the engine works on: a request from its submission to its completion."""

from dataclasses import dataclass, field

import torch

from engine.cache import KVCache
from engine.thinking import ThinkBudget


@dataclass
class Completion:
    """What was drawn after a prompt. Lists have one entry per token."""
    prompt: list[int]                                            # token ids
    tokens: list[int] = field(default_factory=list)              # what was drawn; the end token too, where it was drawn
    logprobs: list[float] = field(default_factory=list)          # under the distribution that the token was drawn from
    finish: str = ""                                             # "stop" (an end token), "length" or "aborted"
    versions: list[int] = field(default_factory=list)            # of the weights that drew the token
    forced: list[bool] = field(default_factory=list)             # put there by a thinking budget, not drawn?


@dataclass
class Prefill:
    """A prompt, and what the model computes of it: once for all requests that begin with these ids. Letters as in model.py."""
    ids: list[int]
    version: int = -1                                            # of the weights that computed it; -1: none yet
    hidden: torch.Tensor | None = None                           # (D,) of the last id
    k: torch.Tensor | None = None                                # (L, T, K, hd)
    v: torch.Tensor | None = None                                # (L, T, K, hd)
    scratch: KVCache | None = None                               # of a long prompt: the pieces that are computed already
    begun: int = 0                                               # how often it was begun in pieces; new weights begin anew

    def ready(self, version: int) -> bool:
        """Is it computed, and by these weights?"""
        return self.hidden is not None and self.version == version


@dataclass
class Request:
    """One completion to make."""
    number: int                                                  # in the order of submission
    key: int                                                     # of its randomness
    limit: int                                                   # the most tokens
    completion: Completion
    thinking: ThinkBudget | None
    prefill: Prefill | None                                      # while it waits for a row
    stops: tuple[bytes, ...] = ()                                # texts that end it
    drawn: int = 0                                               # tokens, also those that the host has not read yet


@dataclass
class Drawn:
    """The tokens of one step, on their way to the host."""
    running: list[Request]                                       # of each row
    tokens: torch.Tensor                                         # (B,)
    logprobs: torch.Tensor                                       # (B,)
    arrived: torch.cuda.Event | None                             # when the two have reached the host; None: they have
    forced: set[int]                                             # rows
    version: int                                                 # of the weights
    queue: bool                                                  # did a request wait meanwhile?

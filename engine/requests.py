"""The data of a request, from its submission to its completion."""

from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from engine.cache import KVCache
from engine.thinking import ThinkBudget
from tasks.tools import Call, Toolbox


@dataclass
class Completion:
    """The sampled continuation of a prompt. Lists have one entry per token."""
    prompt: list[int]                                            # token ids
    tokens: list[int] = field(default_factory=list)              # with the end token, if it was sampled
    logprobs: list[float] = field(default_factory=list)          # under the distribution from which the token was sampled
    finish: str = ""                                             # "stop" (an end token or a stop text), "length" or "aborted"
    versions: list[int] = field(default_factory=list)            # of the weights that sampled the token
    forced: list[bool] = field(default_factory=list)             # True: not sampled: set by a thinking budget, or said by a tool
    calls: list[Call] = field(default_factory=list)              # of tools, in order

    @property
    def decoded(self) -> int:
        """Its tokens without the turns of tools: how many steps of decoding it took."""
        return len(self.tokens) - sum(call.end - call.start for call in self.calls)

    def __post_init__(self):
        self.calls = [Call(*call) for call in self.calls]        # JSON makes lists of them (rl/asynchronous.py)


@dataclass
class Prefill:
    """A prompt and the model's results for it, computed once for all of its requests. Letters as in model.py. Of a request that
    called a tool, k and v are at first those of the tokens before the call (hidden is None then)."""
    ids: list[int]
    version: int = -1                                            # of the weights that computed it; -1: none yet
    hidden: torch.Tensor | None = None                           # (D,) of the last id
    k: torch.Tensor | None = None                                # (L, T, K, hd)
    v: torch.Tensor | None = None                                # (L, T, K, hd)
    scratch: KVCache | None = None                               # for a long prompt: the pieces that are computed already
    begun: int = 0                                               # how often it was started in pieces; new weights restart it

    def ready(self, version: int) -> bool:
        """Whether it has been computed with these weights."""
        return self.hidden is not None and self.version == version

    def kept(self, version: int) -> int:
        """How many of the first ids have k and v already, with these weights, while the others still have to be computed."""
        return self.k.shape[1] if self.k is not None and self.hidden is None and self.version == version else 0


@dataclass(eq=False)
class Request:
    """One completion to make."""
    number: int                                                  # in the order of submission
    key: int                                                     # for its random numbers
    limit: int                                                   # the most tokens
    completion: Completion
    thinking: ThinkBudget | None
    prefill: Prefill | None                                      # while it waits for a row
    stops: tuple[bytes, ...] = ()                                # texts that end it
    drawn: int = 0                                               # tokens, with those that the host has not read yet
    tools: Toolbox | None = None                                 # what it may call
    call: tuple[str, str] | None = None                          # while a tool runs: its name, and the argument
    answer: Future | None = None                                 # and what will hold its answer (engine/calls.py)


@dataclass
class Drawn:
    """The tokens of one step, on their way to the host."""
    running: list[Request | None]                                # of each row; None: its token is ignored
    tokens: torch.Tensor                                         # (B,)
    logprobs: torch.Tensor                                       # (B,)
    arrived: torch.cuda.Event | None                             # marks that both are on the host; None: they are
    forced: set[int]                                             # rows
    version: int                                                 # of the weights
    queue: bool                                                  # True: some request waited for a row

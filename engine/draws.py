"""Samples a token: with random numbers that depend on the request and not on the batch, top-k, top-p, and log-probabilities."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from kernels import row_logprobs
from training import cli


class Distortion(Protocol):
    """What a study changes about draws (rl/mismatch.py)."""

    def logits(self, logits: Tensor, u: Tensor, temperature: float) -> Tensor:
        """The logits to draw from: (B, V), random numbers (B,) -> (B, V)."""

    def logprobs(self, logprobs: Tensor, u: Tensor) -> Tensor:
        """The log-probabilities to report: (B,), random numbers (B,) -> (B,)."""


@dataclass(frozen=True)
class SamplingParams:
    """How a token is sampled. ValueError for a number that is not allowed."""
    temperature: float = 1.0              # 0: always the most likely token
    top_k: int = 0                        # sample from this number of most likely tokens; 0: all
    top_p: float = 1.0                    # sample from this probability mass
    exact: bool = False                   # log-probabilities in exact mode
    distortion: Distortion | None = None  # changes the logits before a draw, and what is reported after it

    def __post_init__(self):
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError("use temperature >= 0, 0 < top_p <= 1 and top_k >= 0")


def sampling_flags(p: cli.Parser, temperature: float, text: str = "0: always the most likely token") -> None:
    """The flags that say how tokens are drawn. temperature: its default; text: its help."""
    p.add_argument("--temperature", type=cli.not_negative, default=temperature, help=text)
    p.add_argument("--top-p", type=cli.positive_fraction, default=1.0, help="probability mass to draw from")
    p.add_argument("--top-k", type=cli.non_negative_int, default=0, help="tokens to draw from; 0: all")
    p.add_argument("--seed", type=cli.seed, default=0, help="of the draws")


def uniform(seed: int | Tensor, requests: Tensor, positions: Tensor) -> Tensor:
    """A random number in [0, 1) for each (seed, request, position): an int or a tensor with one element, int tensors (B,), (B,)
    -> (B,) float64.

    It is SplitMix64 on a counter, in int64 arithmetic with overflow, so it is the same on every device. A constant is added
    before mixing, because mix(0) is 0, and u = 0 would always give token 0."""
    # SplitMix64's constants as signed numbers: 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
    step = -0x61c8864680b583eb
    def mix(x):
        for shift, factor in ((30, -0x40a7b892e31b1a47), (27, -0x6b2fb644ecceee15)):
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return x ^ ((x >> 31) & ((1 << 33) - 1))
    if not isinstance(seed, Tensor):                      # made on the device: a CUDA graph cannot copy it from the host
        seed = torch.full((), seed, dtype=torch.long, device=requests.device)
    x = mix(seed * step + requests + step)
    x = mix(x * step + positions + step)
    return ((x >> 11) & ((1 << 53) - 1)).double() / 2 ** 53


NUCLEUS = 1024                        # top-p first tries this number of candidates: sorting all of V takes much longer


def wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def truncate(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Sets logits to -inf that top-k, and then top-p (arXiv 1904.09751), leave out: logits (B, V) -> (B, V).

    top_k 0 keeps all tokens. top_p keeps the smallest set of most likely tokens whose probabilities add up to it, at least
    one."""
    V = logits.shape[1]
    most = min(top_k or V, V)
    count = most if top_p == 1.0 else min(most, NUCLEUS)
    if count == V and top_p == 1.0:
        return logits
    values, index = logits.topk(count)                    # sorted, the largest first
    if top_p < 1.0:
        chances = (logits if most == V else torch.full_like(logits, float("-inf")).scatter(1, *reversed(logits.topk(most))))
        chances = chances.softmax(dim=1)
        if count < most and bool((chances.gather(1, index).sum(dim=1) < top_p).any()):   # some row needs more of them
            values, index = logits.topk(most)
        p = chances.gather(1, index)
        values = values.masked_fill(p.cumsum(dim=1) - p >= top_p, float("-inf"))
    return torch.full_like(logits, float("-inf")).scatter(1, index, values)


def draw(logits: Tensor, u: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Samples a token for each row: logits (B, V), random numbers u (B,) -> tokens (B,), logprobs (B,).

    It takes the token at which the cumulative distribution passes u. Temperature 0 takes the most likely token and returns its
    log-probability at temperature 1."""
    if params.distortion:
        true, how = replace(params, distortion=None), params.distortion
        tokens, logprobs = draw(how.logits(wide(logits), u, params.temperature), u, true)
        return tokens, how.logprobs(logprobs, u)
    logits, temperature, exact = wide(logits), params.temperature, params.exact
    if temperature == 0:
        tokens = logits.argmax(dim=1)
        return tokens, row_logprobs(logits, tokens, 1.0, exact)
    scaled = logits / temperature
    truncated = truncate(scaled, params.top_k, params.top_p)
    cumulative = truncated.softmax(dim=1, dtype=torch.float64).cumsum(dim=1)                       # (B, V)
    at = (u * cumulative[:, -1])[:, None]
    tokens = torch.searchsorted(cumulative, at, right=True).squeeze(1).clamp_(max=logits.shape[1] - 1)
    if truncated is scaled:                                    # divides by the temperature in there, as training does
        return tokens, row_logprobs(logits, tokens, temperature, exact)
    return tokens, row_logprobs(truncated, tokens, 1.0, exact)


def keep_budgets(running: list, logits: Tensor, tokens: Tensor, logprobs: Tensor, u: Tensor, stop: set[int],
                 params: SamplingParams) -> set[int]:
    """Replaces sampled tokens (B,) that a budget does not allow; returns the set of their rows.

    A forced token gets its log-probability at the temperature. If an answer would end before it has any text, its token is
    sampled again without the end tokens, with the random numbers u (B,). All other tokens keep the log-probabilities that
    training computes. (A mask on every token would change them.)
    """
    drawn, forced, again = tokens.tolist(), {}, []
    for row, request in enumerate(running):
        watch = request.thinking
        if watch and (token := watch.must(drawn[row], stop)) is not None:
            forced[row] = token
        elif watch and watch.blank and drawn[row] in stop:
            again.append(row)
    if forced:
        rows = list(forced)
        tokens[rows] = torch.tensor(list(forced.values()), device=tokens.device)
        logprobs[rows] = row_logprobs(wide(logits[rows]), tokens[rows], params.temperature or 1.0, params.exact)
    if again:
        others = logits[again]
        others[:, [i for i in stop if i < others.shape[1]]] = float("-inf")
        tokens[again], logprobs[again] = draw(others, u[again], params)
    for request, token in zip(running, tokens.tolist()):
        if request.thinking:
            request.thinking.take(token)
    return {*forced, *again}

"""A mismatch between sampler and trainer, put in on purpose: a dial for studies of what it does to training.

In exact mode sampler and trainer agree to the last bit. --mismatch makes the sampler differ by a known amount, and nothing else,
so that what a correction is worth can be measured. Each kind is one entry of a table, KINDS:

- noise=S: the sampler adds a Gaussian of this size to the log-probability of every token of the vocabulary, draws from what this
  gives, and reports its log-probabilities
- rounding: the sampler rounds its logits to bfloat16, draws from what this gives, and reports its log-probabilities
- truncated=P: the sampler draws with top-p, from the likeliest tokens that make up P, and reports its log-probabilities
- stale=K: the sampler has the weights of K updates ago (--async-steps has weights of up to K updates ago, as fast as it can;
  here every token has the same age)
- report=S: a Gaussian of this size is added to the log-probability that is reported of a drawn token, and the draw is as before

All but the last change what is drawn, as a sampler with other kernels does: it is another policy, and says truly which. So the
logits are rounded, not the log-probabilities. A rounded or noisy report of the right policy (report) is another thing: there is
nothing to correct, and a correction can only do harm.

Random numbers come from those of the draw, which depend on (seed, completion, position) alone: they are the same on any number
of ranks. logprob_diff_mean and logprob_diff_max in the log say what came of it.
"""

from argparse import Namespace
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.draws import uniform
from training import cli


def agree(args: Namespace) -> bool:
    """Whether sampler and trainer agree to the last bit."""
    return args.exact and not args.mismatch


def size(text: str) -> float:
    return cli.above_zero(text)


# {name: (how its value is read, None where there is none; what to write)}
KINDS: dict[str, tuple[Callable | None, str]] = {
    "noise": (size, "noise=0.2"),
    "rounding": (None, "rounding"),
    "truncated": (cli.number("a number above 0 and below 1", float, lambda x: 0 < x < 1), "truncated=0.9"),
    "stale": (cli.positive_int, "stale=2"),
    "report": (size, "report=0.2"),
}


@dataclass(frozen=True)
class Mismatch:
    """What --mismatch says. The sampler calls `logits` before a draw and `logprobs` after it (engine/draws.py)."""
    noise: float = 0.0
    rounding: bool = False
    truncated: float = 1.0
    stale: int = 0
    report: float = 0.0

    def of_draws(self) -> dict:
        """Options of Sampler.start and Sampler.generate: as if there were no mismatch, if draws are not changed."""
        changed = self.noise or self.rounding or self.report
        return {"top_p": self.truncated, "distortion": self if changed else None}

    def logits(self, logits: Tensor, u: Tensor, temperature: float) -> Tensor:
        """The logits that are drawn from: (B, V), the random numbers of the draws (B,) -> (B, V)."""
        if self.noise:
            V = torch.arange(logits.shape[1], device=logits.device)
            logits = logits + (self.noise * temperature * gaussian(u[:, None], V[None])).to(logits.dtype)     # (B, V)
        return logits.bfloat16().to(logits.dtype) if self.rounding else logits

    def logprobs(self, logprobs: Tensor, u: Tensor) -> Tensor:
        """The log-probabilities that are reported: (B,), the random numbers of the draws (B,) -> (B,)."""
        if not self.report:
            return logprobs
        return logprobs + (self.report * gaussian(u, torch.full_like(u, -1, dtype=torch.long))).to(logprobs.dtype)


def gaussian(u: Tensor, which: Tensor) -> Tensor:
    """A Gaussian random number for each u in [0, 1) and each whole number `which`: tensors that broadcast -> float64. It says
    nothing about u: it is made of u's bits as if these were the number of a request."""
    return torch.special.ndtri(uniform(0, (u * 2 ** 53).long(), which).clamp(min=2.0 ** -54))


def parse_mismatch(words: list[str]) -> Mismatch:
    """["noise=0.2", "stale=2"] -> a Mismatch. ValueError for a wrong --mismatch."""
    found = {}
    for word in words:
        name, given, value = word.partition("=")
        if name not in KINDS:
            raise ValueError(f"--mismatch {word}: use {', '.join(example for _, example in KINDS.values())}")
        if name in found:
            raise ValueError(f"--mismatch {word}: {name} is given twice")
        read, example = KINDS[name]
        try:
            if bool(given) != bool(read):
                raise cli.argparse.ArgumentTypeError(f"write it as {example}")
            found[name] = read(value) if read else True
        except cli.argparse.ArgumentTypeError as e:
            raise ValueError(f"--mismatch {word}: {e}") from None
    return Mismatch(**found)


class Older:
    """The weights of K updates ago, for stale=K; before there are as many, the first ones.

    extra_state: what goes into the checkpoint. The weights that are still to be sampled with go there, so that a resumed run goes
    on as if it had not stopped."""

    def __init__(self, K: int, extra_state: dict):
        self.K, self.extra_state = K, extra_state
        self.kept: deque[dict] = deque(extra_state.get("older", ()), maxlen=K + 1)

    def start(self, weights: dict) -> dict:
        """The weights to sample with before the first step of a run, which may be a resumed one. weights: the current ones."""
        return self.kept[0] if self.kept else self.after(weights)

    def after(self, weights: dict) -> dict:
        """Takes the weights after an update, {name: tensor}; returns those to sample with."""
        self.kept.append(weights)
        if self.K:
            self.extra_state["older"] = list(self.kept)
        return self.kept[0]

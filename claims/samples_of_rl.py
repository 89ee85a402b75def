"""Claim 21a: reinforcement needs many times the samples of fine-tuning on solutions for the same gain.

A reward of 0 or 1 tells at most the entropy H(p) of a try that succeeds with probability p: one bit, where p is a half. A
solution tells every one of its words. So a tenth of the samples, as solutions, should do as much as all of them as tries.

One base; as problems those that reinforcement draws, each solved once.
"""

from math import log2

import numpy as np

from claims import midtraining_or_rl, sweep, tiny
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SAMPLES = sweep.STEPS * sweep.SETTING[0] * sweep.SETTING[1]           # that reinforcement draws
TENTH = "solutions, a tenth - RL"


def solutions(s: Setting, count: float) -> Command:
    """Fine-tuning on about so many of them, question and solution, each read once."""
    steps = round(count * midtraining_or_rl.TOKENS / 2048)
    return tiny.branch(s, sweep.base(s), tiny.world(s, tiny.EDGE, "rl"), steps=max(2, steps))


def arms(s: Setting) -> dict[str, Command]:
    base = sweep.base(s)
    made = {"base": base, "RL": tiny.grpo(s, base), "RL, again": tiny.grpo(s, base, seed=s.seed + 100),
            "a tenth": solutions(s, SAMPLES / 10), "a thirtieth": solutions(s, SAMPLES / 30),
            "a hundredth": solutions(s, SAMPLES / 100)}
    return {name: tiny.evaluate(s, command) for name, command in made.items()}


def bits(p: float) -> float:
    """What a reward tells at most: the entropy of a try that succeeds with probability p."""
    return -sum(q * log2(q) for q in (p, 1 - p) if q)


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {TENTH: rate["a tenth"] - rate["RL"], "solutions, a thirtieth - RL": rate["a thirtieth"] - rate["RL"],
            "solutions, a hundredth - RL": rate["a hundredth"] - rate["RL"],
            "bits of a reward at most, before RL": bits_of(r["base"]), "bits of a reward at most, after RL": bits_of(r["RL"]),
            "pass@8, solutions, a tenth - RL": r["a tenth"].rate(8) - r["RL"].rate(8),
            "RL with other draws": rate["RL, again"] - rate["RL"], "RL - base": rate["RL"] - rate["base"]}


def bits_of(r: Result) -> float:
    """The mean of `bits` over test problems, whose p are the shares of right samples (which makes it somewhat too small)."""
    return float(np.concatenate([np.repeat([bits(c / n) for c, n in counts], r.weights.get(stratum, np.ones(len(counts), int)))
                                 for stratum, counts in r.right.items()]).mean())


CLAIM = Claim(
    number="21a", says="RL needs more than ten times the samples of fine-tuning on solutions for the same gain.",
    source="Dwarkesh Patel, RL is even more information inefficient than you thought (2025); Thinking Machines, LoRA without "
    "regret (2025)",
    theirs="a binary reward tells at most H(p), one bit; a label tells -log p, and a solution that of each token (an argument)",
    would_show="Above 0: solutions for a tenth of the samples teach more than reinforcement on all of them",
    arms=arms, statistic=statistic, headline=TENTH, verdict=lambda n: positive(n[TENTH]),
    null="RL with other draws", oracle="RL - base")

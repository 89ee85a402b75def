"""Claim 6a: small models rank mixtures as larger ones do, so a mixture can be chosen with small ones."""

import numpy as np

from claims import mixtures
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, Setting
from claims.runner.commands import Command
from claims.runner.measures import Result
from tasks.accuracy import Rate

SMALL = "rank correlation with the largest size, fit to the smallest proxies"
SHUFFLED, SHARE = "the same with mixtures shuffled", "rank correlation of problems in the mixture and loss on problems, falling"


def arms(s: Setting) -> dict[str, Command]:
    return {"mixtures": mixtures.mixed(s)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Of the weighted target: what fits say of mixtures that they have not seen, with what the largest proxies measured."""
    found, (small, middle, large) = r["mixtures"], r["mixtures"].measured
    goal = mixtures.value(found.measured[large])
    said = {size: mixtures.value(mixtures.predictions(found, size)) for size in found.measured}
    mixed_up = np.random.default_rng(0).permutation(len(goal))
    reasoning = found.measured[large][:, 1]
    return {SMALL: mixtures.rank(found, said[small], goal),
            "fit to the middle ones": mixtures.rank(found, said[middle], goal),
            "fit to the largest ones": mixtures.rank(found, said[large], goal),
            "no fit, the smallest proxies themselves": mixtures.rank(found, mixtures.value(found.measured[small]), goal),
            "no fit, the middle ones": mixtures.rank(found, mixtures.value(found.measured[middle]), goal),
            "knowledge alone, fit to the smallest": mixtures.rank(
                found, mixtures.predictions(found, small)[:, 0], found.measured[large][:, 0]),
            "reasoning alone, fit to the smallest": mixtures.rank(found, mixtures.predictions(found, small)[:, 1], reasoning),
            SHUFFLED: mixtures.rank(found, said[small][mixed_up], goal),
            SHARE: -mixtures.rank(found, mixtures.of_reasoning(found, found.mixtures), reasoning)}


def verdict(n: dict[str, Rate], enough: float = 0.7) -> str:
    """With 0.7 half of what is in the ranks is known."""
    return HOLDS if n[SMALL][1] > enough else FAILS if n[SMALL][2] < enough else OPEN


CLAIM = Claim(
    number="6a", says="Small proxies rank mixtures that they have not seen as larger models do.",
    source="RegMix, arXiv 2407.01492; its notebook and its released runs",
    theirs="rank correlation on Pile-CC 0.99 at 1M, 1M to 1M; a smooth additive fit to the released runs: 0.987 at 1M, 0.982 at "
           "60M, 0.860 at 1B",
    would_show="Above 0.7: the ranks that a fit to the smallest proxies gives against what the largest ones measured",
    arms=arms, statistic=statistic, headline=SMALL, verdict=verdict, null=SHUFFLED, oracle=SHARE)

"""Claim 2b: thinking with wrong steps in it teaches as well as thinking without."""

from claims import thinking
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

DIAL = "after SFT, 30% wrong steps - none"
CHANCES = {"no wrong steps": 0.0, "10% wrong steps": 0.1, "30% wrong steps": 0.3}


def arms(s: Setting) -> dict[str, Command]:
    """The dial of an oracle: each of its steps is wrong with a known chance, and the answer is as wrong as that makes it."""
    starts = {name: with_errors(s, chance) for name, chance in CHANCES.items()}
    starts |= {"no thinking": thinking.base(s, thinking.raw(s)), "no wrong steps again": with_errors(s, 0.0, seed=s.seed + 100)}
    return {name: thinking.solves(s, start) for name, start in starts.items()}


def with_errors(s: Setting, chance: float, **flags) -> Command:
    """A base of documents with that thinking."""
    return thinking.base(s, *thinking.with_thoughts(s, thinking.thoughts(s, thinking.oracle(chance))), **flags)


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {DIAL: rate["30% wrong steps"] - rate["no wrong steps"],
            "after SFT, 10% wrong steps - none": rate["10% wrong steps"] - rate["no wrong steps"],
            "another seed of training": rate["no wrong steps again"] - rate["no wrong steps"],
            "after SFT, no wrong steps - no thinking": rate["no wrong steps"] - rate["no thinking"]}


CLAIM = Claim(
    number="2b", says="Thinking in which 30% of the steps are wrong teaches as well as thinking without errors.",
    source="after TPT, arXiv 2509.20186, where a weaker teacher does no harm; arXiv 2502.07374 on wrong traces",
    theirs="Qwen2.5-32B, 17k traces: wrong answers cost 3.2% of accuracy",
    would_show="Documents with wrong steps less than 2 points behind, or ahead, after the same right fine-tuning",
    arms=arms, statistic=statistic, headline=DIAL, verdict=lambda n: no_worse(n[DIAL], 0.02), matters=0.02,
    null="another seed of training", oracle="after SFT, no wrong steps - no thinking")

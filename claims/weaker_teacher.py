"""Claim 2: thinking written by a weaker teacher teaches as well as a better one's, or better."""

from dataclasses import replace

from claims import thinking
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, Setting
from claims.runner.commands import Command
from claims.runner.measures import Result
from tasks.accuracy import Rate

DIAL, TRAINED = "after SFT, 30% wrong steps - none", "after SFT, small teacher - large teacher"


def teacher(s: Setting, **shape) -> Command:
    """A model that has learned to think behind documents, from an oracle and other documents."""
    other = replace(s, seed=s.seed + 50)
    return thinking.base(other, thinking.thoughts(other, thinking.oracle()), **shape)


def arms(s: Setting) -> dict[str, Command]:
    """The dial of an oracle, whose steps are wrong with a known chance; and trained teachers of two sizes."""
    large, small = teacher(s), teacher(s, width=64, heads=2, kv_heads=1)
    by_model = ("--plain", "--max-new-tokens", 60)
    rows = {"no wrong steps": thinking.thoughts(s, thinking.oracle()),
            "10% wrong steps": thinking.thoughts(s, thinking.oracle(0.1)),
            "30% wrong steps": thinking.thoughts(s, thinking.oracle(0.3)),
            "large teacher": thinking.thoughts(s, large, *by_model),
            "small teacher": thinking.thoughts(s, small, *by_model)}
    starts = {name: thinking.base(s, *thinking.with_thoughts(s, found)) for name, found in rows.items()}
    starts |= {"no thinking": thinking.base(s, thinking.raw(s)), "no wrong steps again": thinking.base(
        s, *thinking.with_thoughts(s, rows["no wrong steps"]), seed=s.seed + 100)}
    return {name: thinking.solves(s, start) for name, start in starts.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {DIAL: rate["30% wrong steps"] - rate["no wrong steps"],
            "after SFT, 10% wrong steps - none": rate["10% wrong steps"] - rate["no wrong steps"],
            TRAINED: rate["small teacher"] - rate["large teacher"],
            "another seed of training": rate["no wrong steps again"] - rate["no wrong steps"],
            "after SFT, no wrong steps - no thinking": rate["no wrong steps"] - rate["no thinking"]}


def verdict(n: dict[str, Rate], matters: float = 0.02) -> str:
    """It holds where one weaker teacher is surely no worse, and does not where both are surely worse."""
    weaker = (n[DIAL], n[TRAINED])
    return HOLDS if any(w[1] > -matters for w in weaker) else FAILS if all(w[2] < 0 for w in weaker) else OPEN


CLAIM = Claim(
    number="2", says="Thinking from a weaker teacher teaches as well as a stronger one's, or better.",
    source="Thinking augmented pre-training (TPT), arXiv 2509.20186 (ablation of the generator)",
    theirs="3B student, MATH-500: 75.5 with a 1.5B teacher, 72.0 with a 7B one",
    would_show="A weaker teacher, by the dial or by size, less than 2 points behind the stronger one, or ahead",
    arms=arms, statistic=statistic, headline=TRAINED, verdict=verdict,
    null="another seed of training", oracle="after SFT, no wrong steps - no thinking")

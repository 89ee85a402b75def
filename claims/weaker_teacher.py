"""Claim 2a: thinking written by a weaker teacher teaches as well as a better one's, or better."""

from dataclasses import replace

from claims import thinking
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

TRAINED = "after SFT, small teacher - large teacher"


def teacher(s: Setting, **shape) -> Command:
    """A model that has learned to think behind documents, from an oracle and other documents."""
    other = replace(s, seed=s.seed + 50)
    return thinking.base(other, thinking.thoughts(other, thinking.oracle()), **shape)


def arms(s: Setting) -> dict[str, Command]:
    """Trained teachers of two sizes, and an oracle, which is never wrong."""
    large, small = teacher(s), teacher(s, width=64, heads=2, kv_heads=1)
    by_model = ("--plain", "--max-new-tokens", 60)
    rows = {"oracle": thinking.thoughts(s, thinking.oracle()), "large teacher": thinking.thoughts(s, large, *by_model),
            "small teacher": thinking.thoughts(s, small, *by_model)}
    starts = {name: thinking.base(s, *thinking.with_thoughts(s, found)) for name, found in rows.items()}
    starts |= {"no thinking": thinking.base(s, thinking.raw(s)), "oracle again": thinking.base(
        s, *thinking.with_thoughts(s, rows["oracle"]), seed=s.seed + 100)}
    return {name: thinking.solves(s, start) for name, start in starts.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {TRAINED: rate["small teacher"] - rate["large teacher"],
            "after SFT, large teacher - oracle": rate["large teacher"] - rate["oracle"],
            "another seed of training": rate["oracle again"] - rate["oracle"],
            "after SFT, oracle - no thinking": rate["oracle"] - rate["no thinking"]}


CLAIM = Claim(
    number="2a", says="Thinking from a weaker teacher teaches as well as a stronger one's, or better.",
    source="Thinking augmented pre-training (TPT), arXiv 2509.20186 (ablation of the generator)",
    theirs="3B student, MATH-500: 75.5 with a 1.5B teacher, 72.0 with a 7B one",
    would_show="The smaller teacher less than 2 points behind the larger one, or ahead",
    arms=arms, statistic=statistic, headline=TRAINED, verdict=lambda n: no_worse(n[TRAINED], 0.02), matters=0.02,
    null="another seed of training", oracle="after SFT, oracle - no thinking")

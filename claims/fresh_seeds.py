"""Claim 5d: seeds that are new in each generation keep self-made documents varied, and what they teach."""

from claims import generations
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN, VARIED = "solved by generation 3, fresh seeds - none", "distinct runs of 4 words, fresh seeds - none"


def arms(s: Setting) -> dict[str, Command]:
    """A seed is the first facts of a problem; without one a document is begun by its context alone."""
    found = generations.controls(s)
    for arm in ("self", "seeds"):
        rows, base = generations.chain(s, arm)[-1]
        found |= {arm: generations.solves(s, base), f"{arm}, texts": generations.varied(s, rows)}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {GAIN: r["seeds"].rate() - r["self"].rate(), VARIED: r["seeds, texts"].distinct() - r["self, texts"].distinct(),
            "solved, generation 3 of fresh seeds - first base": r["seeds"].rate() - r["first"].rate(),
            **generations.control_numbers(r)}


CLAIM = Claim(
    number="5d", says="Fresh seeds keep self-made documents varied, and their readers able, over generations.",
    source="phi-4, arXiv 2412.08905, section 2 (seeds for diversity)", theirs="a principle of theirs, without a figure",
    would_show="Both above 0 in the third generation: more problems solved, and more distinct runs of words (whether there are "
    "fewer without seeds, so that there is something to keep, shows claim 5a)",
    arms=arms, statistic=statistic, headline=GAIN, also=(VARIED,),
    verdict=lambda n: both(positive(n[GAIN]), generations.clearly(n[VARIED])),
    null=generations.NULL, oracle=generations.ORACLE)

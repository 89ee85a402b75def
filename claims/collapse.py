"""Claim 5a: bases that learn from what bases wrote, generation after generation, collapse: they solve less and less.

How varied the texts of the first and of the third generation are stands beside it; both are self-made. (Texts that go wrong may
well be more varied than right ones, so this says little of a collapse by itself.)
"""

from claims import generations
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SOLVED, VARIED = "solved, first base - generation 3", "distinct runs of 4 words, generation 1 - generation 3"


def arms(s: Setting) -> dict[str, Command]:
    """One chain without help. What the first base wrote is what generation 1 learned from."""
    chain = generations.chain(s, "self")
    once_more = generations.writes(s, generations.first(s), "self", 1, "--seed", s.seed + 100)
    return generations.controls(s) | {f"generation {g}": generations.solves(s, base) for g, (_, base) in enumerate(chain, 1)} | {
        f"texts {g}": generations.varied(s, rows) for g, (rows, _) in enumerate(chain, 1)} | {
        "texts 1 again": generations.varied(s, once_more)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    first = r["first"].rate()
    return {SOLVED: first - r["generation 3"].rate(), "solved, first base - generation 1": first - r["generation 1"].rate(),
            VARIED: r["texts 1"].distinct() - r["texts 3"].distinct(),
            "distinct runs of 4 words, other draws": r["texts 1 again"].distinct() - r["texts 1"].distinct(),
            "pass@8, first base - generation 3": r["first"].rate(8) - r["generation 3"].rate(8),
            **generations.control_numbers(r)}


CLAIM = Claim(
    number="5a", says="Bases that learn from self-made documents alone collapse within three generations.",
    source="The curse of recursion, arXiv 2305.17493", theirs="texts of later generations lose their rare parts (in words)",
    would_show="The first above 0: the third generation solves less than the base of real documents; the second is above 0 if "
    "the texts get less varied as well",
    arms=arms, statistic=statistic, headline=SOLVED, also=(VARIED,), verdict=lambda n: positive(n[SOLVED]),
    null=generations.NULL, oracle=generations.ORACLE)

"""Claim 5e: checking also prevents the collapse where the questions are self-made: a document must solve its own one right."""

from claims import generations
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN = "solved by generation 3, checked documents - all"


def arms(s: Setting) -> dict[str, Command]:
    """Documents begun by their context alone; those that hold no question, or a wrong answer, are thrown away, or nothing is."""
    found = generations.controls(s)
    for arm in ("self", "checked"):
        rows, base = generations.chain(s, arm)[-1]
        found |= {arm: generations.solves(s, base), f"{arm}, texts": generations.varied(s, rows)}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    varied = {arm: r[f"{arm}, texts"].distinct() for arm in ("self", "checked")}
    return {GAIN: r["checked"].rate() - r["self"].rate(),
            "solved, generation 3 of checked documents - first base": r["checked"].rate() - r["first"].rate(),
            "distinct runs of 4 words, checked - all": varied["checked"] - varied["self"], **generations.control_numbers(r)}


CLAIM = Claim(
    number="5e", says="Checking self-made questions and answers prevents the collapse.",
    source="after Beyond model collapse, arXiv 2406.07515, which verifies answers to given questions", theirs="not measured",
    would_show="Above 0: with what is wrong thrown away the third generation solves more, from fewer documents",
    arms=arms, statistic=statistic, headline=GAIN, verdict=lambda n: positive(n[GAIN]),
    null=generations.NULL, oracle=generations.ORACLE)

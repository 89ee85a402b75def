"""Claim 5c: verification prevents the collapse: of what a base wrote the next one sees what is right."""

from claims import generations
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN = "solved by generation 3, verified answers - all"


def arms(s: Setting) -> dict[str, Command]:
    """Answers to new questions in each generation, all or those that verify."""
    return generations.controls(s) | {
        arm: generations.solves(s, generations.chain(s, arm)[-1][1]) for arm in ("answers", "verified")}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    first = r["first"].rate()
    return {GAIN: r["verified"].rate() - r["answers"].rate(),
            "solved, generation 3 of all answers - first base": r["answers"].rate() - first,
            "solved, generation 3 of verified answers - first base": r["verified"].rate() - first,
            **generations.control_numbers(r)}


CLAIM = Claim(
    number="5c", says="Verification prevents the collapse of bases that learn from self-made answers.",
    source="Beyond model collapse, arXiv 2406.07515",
    theirs="eigenvalues and news summaries: verifiers, even imperfect ones, prevent collapse (a finding in words)",
    would_show="Above 0: with wrong answers thrown away the third generation solves more, from fewer documents",
    arms=arms, statistic=statistic, headline=GAIN, verdict=lambda n: positive(n[GAIN]),
    null=generations.NULL, oracle=generations.ORACLE)

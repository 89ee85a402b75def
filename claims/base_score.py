"""Claim 7c: the score of a base before reinforcement does not say which base is best after it."""

import itertools

from claims import midtraining
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, Setting
from claims.runner.commands import Command
from claims.runner.measures import Result
from tasks.accuracy import Rate

BASES = ("more of the same", "short", "long", "hybrid", "30% errors")
TAU = "rank correlation of before and after"


def arms(s: Setting) -> dict[str, Command]:
    starts = {"more of the same": midtraining.branch(s, "more", base="hybrid"),
              **{kind: midtraining.branch(s, kind, base="hybrid") for kind in midtraining.STYLES},
              "30% errors": midtraining.branch(s, "short", base="hybrid", errors=0.3)}
    return midtraining.before_and_after(s, starts, "hybrid") | {
        "short, RL again": midtraining.other_draws(s, starts["short"], "hybrid")}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    before, after = ([r[base + end].rate() for base in BASES] for end in ("", ", RL"))
    chosen = max(range(len(BASES)), key=before.__getitem__)
    return {TAU: kendall(before, after), "after RL, best base - base with the best score": max(after) - after[chosen],
            "RL with other draws": r["short, RL again"].rate() - r["short, RL"].rate(),
            "best after RL - best before": max(after) - max(before)}


def kendall(x: list[float], y: list[float]) -> float:
    """Kendall's tau: pairs in the same order less pairs in opposite order, over all pairs; 1, 0 by chance, -1."""
    signs = [((a > c) - (a < c)) * ((b > d) - (b < d)) for (a, b), (c, d) in itertools.combinations(zip(x, y), 2)]
    return sum(signs) / len(signs)


def verdict(n: dict[str, Rate]) -> str:
    """It does not predict where the correlation is surely below 0.6, four of five pairs in the right order."""
    return HOLDS if n[TAU][2] < 0.6 else FAILS if n[TAU][1] >= 0.6 else OPEN


CLAIM = Claim(
    number="7c", says="The score of a base does not predict its score after reinforcement.",
    source="OctoThinker, arXiv 2506.20512, table 7; run logs in its repository",
    theirs="MATH500 of three branches before RL: long 25.8, hybrid 30.8, short 31.4; after: 65.2, 58.0, 56.6; correlation -1",
    would_show="A rank correlation over five bases below 0.6",
    arms=arms, statistic=statistic, headline=TAU, verdict=verdict, null="RL with other draws",
    oracle="best after RL - best before")

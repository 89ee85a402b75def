"""Claim 29a: with a correction, rollouts from weights of up to eight updates ago are as good as fresh ones."""

from claims.ahead import AGES, from_fresh, stale
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

OLDEST = max(AGES)
LOST = f"{OLDEST} updates old, corrected - fresh"


def arms(s: Setting) -> dict[str, Command]:
    """Each age, with the weights of OLMo 3 (the ratio, at most 2) and without."""
    found = from_fresh(s)
    for age in AGES:
        found |= {f"{age} old, not": stale(s, age), f"{age} old, corrected": stale(s, age, "tis")}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {arm: result.rate() for arm, result in r.items()}
    found = {LOST: rate[f"{OLDEST} old, corrected"] - rate["fresh"]}
    for age in AGES:
        found |= {f"{age} old, {how} - fresh": rate[f"{age} old, {how}"] - rate["fresh"] for how in ("not", "corrected")
                  if (age, how) != (OLDEST, "corrected")}
    return found | {"RL with other draws": rate["fresh again"] - rate["fresh"], "fresh - before RL": rate["fresh"] - rate["base"]}


CLAIM = Claim(
    number="29a", says="Rollouts of weights that are up to 8 updates old do no harm, if they are corrected.",
    source="Olmo 3, arXiv 2512.13961, and its code",
    theirs="a setting, not a figure: the code's default is up to 8 updates, with weights of at most 2; their 7B run has 1",
    would_show="Less than 5 points below 0, or ahead: rollouts of the oldest weights reach what fresh ones reach",
    arms=arms, statistic=statistic, headline=LOST, verdict=lambda n: no_worse(n[LOST]), matters=0.05,
    null="RL with other draws", oracle="fresh - before RL")

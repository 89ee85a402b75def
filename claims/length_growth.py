"""Claim 31b: reinforcement makes a model that knows long thoughts think longer."""

from claims.budgets import measured, reinforced, thinker
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GROWTH = "tokens of a reply after RL / before, - 1"


def arms(s: Setting) -> dict[str, Command]:
    """Half of the thoughts that it was taught are short and half are long, so either may win."""
    return {"before": measured(s, thinker(s)), "RL": measured(s, reinforced(s)),
            "RL again": measured(s, reinforced(s, seed=s.seed + 100))}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    tokens = {arm: result.mean("lengths") for arm, result in r.items()}
    return {GROWTH: tokens["RL"] / tokens["before"] - 1, "RL with other draws": tokens["RL again"] / tokens["RL"] - 1,
            "right, RL - before": r["RL"].rate() - r["before"].rate(),
            "answers, RL - before": r["RL"].rate(of="answered") - r["before"].rate(of="answered")}


CLAIM = Claim(
    number="31b", says="During reinforcement the replies of a model that knows long thoughts grow longer.",
    source="OctoThinker, arXiv 2506.20512, run logs in its repository",
    theirs="3B, tokens of right answers before and after RL: long 187 and 2,010, hybrid 335 and 550, short 331 and 340",
    would_show="Above 0: after RL a reply to the same questions has more tokens",
    arms=arms, statistic=statistic, headline=GROWTH, verdict=lambda n: positive(n[GROWTH], 0.05),
    null="RL with other draws", oracle="right, RL - before")

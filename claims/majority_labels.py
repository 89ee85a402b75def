"""Claim 26c: labels that the base itself votes for teach it about as much as the truth."""

from claims.contaminated import base, measured, rewarded
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

APART = "after RL, majority - truth"


def arms(s: Setting) -> dict[str, Command]:
    """The clean base. The labels are made once, before training, for the same questions."""
    start = base(s, "clean")
    return {"before": measured(s, start), "truth": measured(s, rewarded(s, start, "truth")),
            "truth again": measured(s, rewarded(s, start, "truth", seed=s.seed + 100)),
            "majority": measured(s, rewarded(s, start, "majority")), "random": measured(s, rewarded(s, start, "random"))}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {arm: result.rate(of="answered") for arm, result in r.items()}
    return {APART: rate["majority"] - rate["truth"], "majority - before": rate["majority"] - rate["before"],
            "pass@8, majority - truth": r["majority"].rate(8, of="answered") - r["truth"].rate(8, of="answered"),
            "majority - random": rate["majority"] - rate["random"],
            "RL with other draws": rate["truth again"] - rate["truth"], "truth - before": rate["truth"] - rate["before"]}


CLAIM = Claim(
    number="26c", says="A majority vote of the base is as good a label for reinforcement as the truth.",
    source="Spurious rewards, arXiv 2506.10947",
    theirs="MATH-500, Qwen2.5-Math-7B, from 49.4: majority +27.1, truth +29.1",
    would_show="Not below 0: the reward by the vote reaches less than 5 points less than the truth",
    arms=arms, statistic=statistic, headline=APART, verdict=lambda n: no_worse(n[APART]), matters=0.05,
    null="RL with other draws", oracle="truth - before")

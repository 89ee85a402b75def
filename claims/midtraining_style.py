"""Claim 7b: of short, long and hybrid solutions in mid-training, long ones let reinforcement go furthest."""

from claims import midtraining
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

AFTER = "after RL, long - short"


def arms(s: Setting) -> dict[str, Command]:
    starts = {kind: midtraining.branch(s, kind, base="hybrid") for kind in midtraining.STYLES}
    return midtraining.before_and_after(s, starts, "hybrid") | {
        "base": midtraining.measured(s, midtraining.pretrained(s, "hybrid"), "hybrid"),
        "short, RL again": midtraining.other_draws(s, starts["short"], "hybrid")}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    best = max(r[f"{kind}, RL"].rate() for kind in midtraining.STYLES)
    return {AFTER: r["long, RL"].rate() - r["short, RL"].rate(),
            "after RL, hybrid - short": r["hybrid, RL"].rate() - r["short, RL"].rate(),
            "before RL, long - short": r["long"].rate() - r["short"].rate(),
            "pass@8 after RL, long - short": r["long, RL"].rate(8) - r["short, RL"].rate(8),
            "RL with other draws": r["short, RL again"].rate() - r["short, RL"].rate(),
            "best after RL - base": best - r["base"].rate()}


CLAIM = Claim(
    number="7b", says="Mid-training on long solutions lets reinforcement go further than on short ones.",
    source="OctoThinker, arXiv 2506.20512, figure 1; run logs in its repository",
    theirs="MATH500 after RL, 3B: long 65.2, hybrid 58.0, short 56.6",
    would_show="Above 0: after RL the long branch is ahead; at equal tokens it has seen a third of the problems",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="best after RL - base")

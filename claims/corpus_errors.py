"""Claim 7d: a mid-training corpus of low quality costs what reinforcement reaches, not only the base."""

from claims import midtraining
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

AFTER, SHARES = "after RL, no errors - 30% errors", (0, 0.1, 0.3)


def arms(s: Setting) -> dict[str, Command]:
    starts = {f"{share:.0%} errors": midtraining.branch(s, "short", **({"errors": share} if share else {})) for share in SHARES}
    return midtraining.before_and_after(s, starts) | {
        "base": midtraining.measured(s, midtraining.pretrained(s)),
        "0% errors, RL again": midtraining.other_draws(s, starts["0% errors"])}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {AFTER: r["0% errors, RL"].rate() - r["30% errors, RL"].rate(),
            "after RL, no errors - 10% errors": r["0% errors, RL"].rate() - r["10% errors, RL"].rate(),
            "before RL, no errors - 30% errors": r["0% errors"].rate() - r["30% errors"].rate(),
            "pass@8 after RL, no errors - 30% errors": r["0% errors, RL"].rate(8) - r["30% errors, RL"].rate(8),
            "RL with other draws": r["0% errors, RL again"].rate() - r["0% errors, RL"].rate(),
            "no errors, RL - base": r["0% errors, RL"].rate() - r["base"].rate()}


CLAIM = Claim(
    number="7d", says="Errors in the mid-training corpus lower what reinforcement reaches.",
    source="OctoThinker, arXiv 2506.20512 (web corpora of two qualities)",
    theirs="FineMath-4plus gives almost no gain by RL (a finding in words)",
    would_show="Above 0: what 30% wrong documents cost is still missing after RL",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="no errors, RL - base")

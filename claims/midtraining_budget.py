"""Claim 7f: more mid-training goes on to help reinforcement where the base's own score no longer shows it."""

from claims import midtraining
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

STEPS = {"1x": 60, "3x": 180, "5x": midtraining.LONG}
AFTER = "after RL, 5x - 1x"


def arms(s: Setting) -> dict[str, Command]:
    starts = {name: midtraining.branch(s, "short", steps) for name, steps in STEPS.items()}
    return midtraining.before_and_after(s, starts) | {
        "base": midtraining.measured(s, midtraining.pretrained(s)),
        "5x, RL again": midtraining.other_draws(s, starts["5x"])}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {AFTER: r["5x, RL"].rate() - r["1x, RL"].rate(), "after RL, 3x - 1x": r["3x, RL"].rate() - r["1x, RL"].rate(),
            "after RL, 5x - 3x": r["5x, RL"].rate() - r["3x, RL"].rate(),
            "before RL, 5x - 3x": r["5x"].rate() - r["3x"].rate(),
            "RL with other draws": r["5x, RL again"].rate() - r["5x, RL"].rate(),
            "5x, RL - base": r["5x, RL"].rate() - r["base"].rate()}


CLAIM = Claim(
    number="7f", says="A larger mid-training budget raises what reinforcement reaches.",
    source="OctoThinker, arXiv 2506.20512 (20B, 70B and 100B tokens)",
    theirs="70B and 100B tokens tie before RL, yet after RL 20B < 70B < 100B (a finding in words)",
    would_show="Above 0: five times the tokens reach more after RL than one time",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="5x, RL - base")

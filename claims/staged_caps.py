"""Claim 7g: a cap on the length of answers that grows in stages does better than the full cap from the start."""

from claims import midtraining
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

AFTER, CAP = "after RL, staged - fixed", midtraining.CAP


def arms(s: Setting) -> dict[str, Command]:
    """Reinforcement from the long branch; the first caps cut most long answers off."""
    start, steps = midtraining.branch(s, "long"), s.steps(60)
    staged = [CAP // 2, f"{3 * CAP // 4}@{steps // 3}", f"{CAP}@{2 * steps // 3}"] if steps > 2 else [CAP // 2, f"{CAP}@1"]
    fixed = midtraining.reinforced(s, start)
    return {"long": midtraining.measured(s, start), "fixed": midtraining.measured(s, fixed),
            "staged": midtraining.measured(s, midtraining.reinforced(s, start, max_new_tokens=staged)),
            "short cap": midtraining.measured(s, midtraining.reinforced(s, start, max_new_tokens=CAP // 2)),
            "fixed again": midtraining.other_draws(s, start)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {AFTER: r["staged"].rate() - r["fixed"].rate(),
            "after RL, short cap - fixed": r["short cap"].rate() - r["fixed"].rate(),
            "RL with other draws": r["fixed again"].rate() - r["fixed"].rate(),
            "fixed - before RL": r["fixed"].rate() - r["long"].rate()}


CLAIM = Claim(
    number="7g", says="For a long-CoT base a cap that grows in stages beats a fixed one.",
    source="OctoThinker, arXiv 2506.20512, run logs in its repository (length scheduler)",
    theirs="MATH500, long base: 2k, 4k, 8k tokens in stages reach 55.4; a fixed cap of 8k peaks at 48 and falls to 37",
    would_show="Above 0: with staged caps the same number of steps reaches more",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="fixed - before RL")

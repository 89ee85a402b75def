"""Claim 7g: a cap on the length of answers that grows in stages does better than the full cap from the start."""

from claims import midtraining
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

AFTER, CAP = "after RL, staged - fixed", midtraining.CAP["hybrid"]


def arms(s: Setting) -> dict[str, Command]:
    """Reinforcement from the long branch; the first caps cut most long answers off."""
    start, steps = midtraining.branch(s, "long", base="hybrid"), s.steps(60)

    def after(**flags):
        return midtraining.measured(s, midtraining.reinforced(s, start, "hybrid", **flags), "hybrid")
    staged = [CAP // 2, f"{3 * CAP // 4}@{steps // 3}", f"{CAP}@{2 * steps // 3}"] if steps > 2 else [CAP // 2, f"{CAP}@1"]
    return {"long": midtraining.measured(s, start, "hybrid"), "fixed": after(), "staged": after(max_new_tokens=staged),
            "short cap": after(max_new_tokens=CAP // 2), "fixed again": midtraining.other_draws(s, start, "hybrid")}


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

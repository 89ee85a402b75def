"""Claim 19b: where prompts are few, reinforcement can go over them 25 times without harm; at 100 times it suffers.

Every arm makes as many steps with as many prompts. In the arm "25x" the prompts are a twenty-fifth as many different ones, in
the same order each time.
"""

from claims import sweep, tiny
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

TIMES = (5, 25, 100)
AFTER = "after RL, 25x - 1x"


def reused(s: Setting, times: int) -> Command:
    """All prompts are kept whatever their pass rate; they form a pool that is gone through again and again."""
    different = max(1, round(s.steps(sweep.STEPS) * sweep.SETTING[0] / times))
    return sweep.run(s, sweep.base(s), keep_rate=(0, 1), candidates=different)


def arms(s: Setting) -> dict[str, Command]:
    runs = {"1x": sweep.run(s, sweep.base(s)), "1x, again": sweep.run(s, sweep.base(s), seed=s.seed + 100)}
    runs |= {f"{times}x": reused(s, times) for times in TIMES}
    return {"before": tiny.evaluate(s, sweep.base(s))} | {name: tiny.evaluate(s, run) for name, run in runs.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    return {AFTER: r["25x"].rate() - r["1x"].rate(), "after RL, 5x - 1x": r["5x"].rate() - r["1x"].rate(),
            "after RL, 100x - 1x": r["100x"].rate() - r["1x"].rate(),
            "RL with other draws": r["1x, again"].rate() - r["1x"].rate(), "1x - before RL": r["1x"].rate() - r["before"].rate()}


CLAIM = Claim(
    number="19b", says="RL may reuse its prompts 25 times without harm.",
    source="Scaling behaviours of RL post-training, arXiv 2509.25300",
    theirs="Qwen2.5-7B, as many prompts in all: the loss is flat up to 25 uses of each, and worse at 100 (a curve)",
    would_show="Not below 0: as many steps on a twenty-fifth of the prompts reach as much",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: no_worse(n[AFTER]), matters=0.05,
    null="RL with other draws", oracle="1x - before RL")

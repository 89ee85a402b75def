"""Claim 19c: the more compute, the more rollouts for each prompt are best, at equal completions in a step.

A step draws 256 completions in each arm: of 64 prompts 4 times, of 16 prompts 16 times, or of 4 prompts 64 times. What many
rollouts are better by is compared between the last and the first third of the measurements on the way.
"""

from claims import sweep
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SETTINGS = ((64, 4), (16, 16), (4, 64))                    # prompts and rollouts of a step
GROWS = "64 rollouts - 4, late - early"


def arms(s: Setting) -> dict[str, Command]:
    runs = {f"{G} rollouts": command for (_, _, G), command in sweep.grid(s, settings=SETTINGS).items()}
    return runs | {"16 rollouts, again": sweep.run(s, sweep.base(s), prompts=16, group=16, seed=s.seed + 100)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    early, late = {}, {}
    for arm, result in r.items():
        first, last = sweep.thirds(sweep.curve(result))
        early[arm], late[arm] = float(first.score.mean()), float(last.score.mean())
    many, few, usual, again = "64 rollouts", "4 rollouts", "16 rollouts", "16 rollouts, again"
    return {GROWS: (late[many] - late[few]) - (early[many] - early[few]), "64 rollouts - 4, early": early[many] - early[few],
            "64 rollouts - 4, late": late[many] - late[few], "16 rollouts - 4, late": late[usual] - late[few],
            "other draws, late - early": (late[again] - late[usual]) - (early[again] - early[usual]),
            "16 rollouts, late - early": late[usual] - early[usual]}


CLAIM = Claim(
    number="19c", says="With more compute more rollouts for each prompt are best.",
    source="IsoCompute, arXiv 2603.12151",
    theirs="at a fixed number of completions in a step few rollouts of many prompts are best at small budgets and many rollouts "
    "at large ones, until it no longer grows (curves)",
    would_show="Above 0: what 64 rollouts of 4 prompts are better by than 4 of 64 grows on the way",
    arms=arms, statistic=statistic, headline=GROWS, verdict=lambda n: positive(n[GROWS]),
    null="other draws, late - early", oracle="16 rollouts, late - early")

"""Claim 30: on small models a fixed recipe without tricks does no worse than one with all of them, and costs less.

Plain: GRPO, one cap, one rate, every prompt. All tricks: DAPO's loss and clip, groups without spread drawn again, a penalty for
length, a KL term, an entropy bonus, caps in stages, and a curriculum of prompts that are neither too easy nor too hard. Both make
as many steps on batches of one size; groups drawn again take more samples for them. Three of the tricks are tried alone as well.
"""

from claims import sweep, tiny
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

CAP = 48
NO_WORSE, COST, DRAWN_AGAIN = "plain - all tricks", "FLOPs, plain / all tricks", "drawn again - plain"


def tricks(s: Setting) -> dict[str, dict]:
    steps = s.steps(sweep.STEPS)
    stages = [f"{3 * CAP // 4}", f"{CAP}@{max(1, steps // 2)}"]
    return {"drawn again": {"loss": "dapo", "replace": 2}, "length penalty": {"overlong_buffer": CAP // 4},
            "curriculum": {"keep_rate": s.unless_toy((0.05, 0.95), (0, 1)), "candidates": s.count(512), "curriculum": True},
            "others": {"kl": 1e-3, "entropy": 1e-3, "max_new_tokens": stages}}


def recipe(s: Setting, *names: str, **flags) -> Command:
    """Reinforcement with these tricks."""
    more = {flag: value for name in names for flag, value in tricks(s)[name].items()}
    return tiny.grpo(s, sweep.base(s), **{"decay": 0, "max_new_tokens": CAP} | more | flags)


def arms(s: Setting) -> dict[str, Command]:
    alone = ("drawn again", "length penalty", "curriculum")
    made = {"base": sweep.base(s), "plain": recipe(s), "plain, again": recipe(s, seed=s.seed + 100),
            "all tricks": recipe(s, *tricks(s))} | {name: recipe(s, name) for name in alone}
    found = {name: tiny.evaluate(s, command) for name, command in made.items()}
    return found | {"cost of plain": made["plain"], "cost of all tricks": made["all tricks"]}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items() if result.right}
    return {NO_WORSE: rate["plain"] - rate["all tricks"],
            COST: r["cost of plain"].own_flops() / r["cost of all tricks"].own_flops(),
            "pass@8, plain - all tricks": r["plain"].rate(8) - r["all tricks"].rate(8),
            DRAWN_AGAIN: rate["drawn again"] - rate["plain"],
            **{f"{name} - plain": rate[name] - rate["plain"] for name in ("length penalty", "curriculum")},
            "RL with other draws": rate["plain, again"] - rate["plain"], "plain - base": rate["plain"] - rate["base"]}


CLAIM = Claim(
    number="30", says="On small models a fixed RL recipe without tricks does no worse than one with all of them.",
    source="JustRL, arXiv 2512.16649",
    theirs="1.5B, mean of nine benchmarks: 54.9 and 64.3 from two bases by one recipe with fixed settings, at half the compute "
    "of recipes with stages; a length penalty made it worse",
    would_show="Not below 0: as many plain steps reach as much as steps with all tricks",
    arms=arms, statistic=statistic, headline=NO_WORSE, also=(DRAWN_AGAIN, COST),
    verdict=lambda n: no_worse(n[NO_WORSE]), matters=0.05, null="RL with other draws", oracle="plain - base")

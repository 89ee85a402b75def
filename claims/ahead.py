"""Reinforcement whose rollouts come from weights of some updates ago, from the base of claim 12, which the claims on it share.

    stale      every token is from weights of exactly K updates ago, in exact mode: nothing else is between sampler and trainer
    in flight  the engine works up to K updates ahead of training and goes on through updates, so that a completion has tokens of
               several weights; its keys are those of the weights that made them, or are computed again (--recompute)
"""

from claims import tiny
from claims.mismatch import after
from claims.runner.claim import Setting
from claims.runner.commands import Command
from claims.runner.measures import Result

AGES = (1, 2, 4, 8)
ROWS = 1024                                                # decoding at once, so that there is room for the groups of later steps


def from_fresh(s: Setting) -> dict[str, Command]:
    """The base, and reinforcement by fresh rollouts, twice, with other draws."""
    base = tiny.steady(s, tiny.tokenizer())
    return {"base": tiny.evaluate(s, base), "fresh": after(s), "fresh again": after(s, seed=s.seed + 100)}


def stale(s: Setting, age: int, correction: str = "none") -> Command:
    """Measured after reinforcement by rollouts of that age."""
    return after(s, f"stale={age}", **({} if correction == "none" else {"correction": correction}))


def in_flight(s: Setting, ahead: int, **flags) -> Command:
    """A run in fast mode that samples so many updates ahead; 0: rollouts and training take turns."""
    usual = {"async_steps": ahead, "rows": ROWS} if ahead else {}
    return tiny.grpo(s, tiny.steady(s, tiny.tokenizer()), **usual | flags)


def mean_of(run: Result, metric: str) -> float:
    """The mean of a metric of the log over all steps."""
    values = [record[metric] for record in run.records if metric in record]
    return sum(values) / max(1, len(values))

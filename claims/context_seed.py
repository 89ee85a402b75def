"""Claim 16: one percent of a context in pre-training, at the easiest depth, lets reinforcement carry skills over to it."""

from claims import tiny
from claims.runner.claim import Claim, Setting, about_zero, both, positive
from claims.runner.commands import Command, make
from claims.runner.measures import Result

NEW = {"contexts": "school"}
SHARES = {"none": 0.0, "0.1%": 0.001, "1%": 0.01, "10%": 0.1}
ONE, LESS = "gain by RL at the school, 1% - none", "gain by RL at the school, 0.1% - none"


def words() -> Command:
    """A tokenizer that knows the words of both contexts."""
    return make("tokenizer.py", "train", "--data", "world:tiny,ops=1-6,contexts=zoo+school", "--vocab-size", 640)


def base(s: Setting, share: float) -> Command:
    """The zoo at all depths, and a share of the school with one operation."""
    zoo = tiny.world(s, tiny.SKILLS, "pretrain", 0.9 * (1 - share)), tiny.world(s, tiny.BEYOND, "pretrain", 0.1 * (1 - share))
    return tiny.steady(s, words(), *zoo, *([tiny.world(s, "1", "pretrain", share, **NEW)] if share else []))


def reinforced(s: Setting, start: Command, **flags) -> Command:
    """Half of the problems are about the zoo, half about the school."""
    halves = [tiny.world(s, tiny.EDGE, "rl", 0.5), tiny.world(s, tiny.EDGE, "rl", 0.5, **NEW)]
    return tiny.grpo(s, start, data=halves, **flags)


def arms(s: Setting) -> dict[str, Command]:
    """Problems about the school before and after the same reinforcement; and about the zoo, at both ends."""
    found, bases = {}, {name: base(s, share) for name, share in SHARES.items()}
    for name, start in bases.items():
        found |= {name: tiny.evaluate(s, start, **NEW), f"{name}, RL": tiny.evaluate(s, reinforced(s, start), **NEW)}
    for name in ("none", "10%"):
        found[f"{name}, RL, zoo"] = tiny.evaluate(s, reinforced(s, bases[name]))
    return found | {"1%, RL again": tiny.evaluate(s, reinforced(s, bases["1%"], seed=s.seed + 100), **NEW)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    gain = {name: rate[f"{name}, RL"] - rate[name] for name in SHARES}
    return {ONE: gain["1%"] - gain["none"], LESS: gain["0.1%"] - gain["none"],
            "school after RL, 1% - none": rate["1%, RL"] - rate["none, RL"],
            "school before RL, 1% - none": rate["1%"] - rate["none"],
            **{f"gain by RL at the school, {name}": gain[name] for name in SHARES},
            "pass@8 at the school, gain by RL, 1%": r["1%, RL"].rate(8) - r["1%"].rate(8),
            "school after RL, 10% - 1%": rate["10%, RL"] - rate["1%, RL"],
            "zoo after RL, 10% - none": rate["10%, RL, zoo"] - rate["none, RL, zoo"],
            "RL with other draws": rate["1%, RL again"] - rate["1%, RL"]}


CLAIM = Claim(
    number="16", says="One percent of a context in pre-training lets RL carry skills over to it; a tenth of a percent does not.",
    source="Interplay of pre-training, mid-training and RL, arXiv 2512.07783 (breadth: contexts A and B)",
    theirs="B at 0 or 0.1%: RL cannot transfer; from 1% of B with two operations on: up to 20 operations, up to +60 points "
    "of pass@128",
    would_show="What the same RL on both contexts gains, against none: with 1% above 0, and with 0.1% within 0.05 of 0",
    arms=arms, statistic=statistic, headline=ONE, also=(LESS,), verdict=lambda n: both(positive(n[ONE]), about_zero(n[LESS])),
    null="RL with other draws", oracle="gain by RL at the school, 10%")

"""A base that was mid-trained on chains of known depth, and reinforcement at one depth, which several claims share.

    1-2    solved: the base finds the answer nearly always in eight tries
    3      the edge: the deepest of which training has much
    4      beyond the edge: training has a little of it, and it is solved now and then
    5-6    out of reach
"""

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command
from claims.runner.measures import Result

SOLVED, EDGE, BEYOND, OUT_OF_REACH = "1-2", "3", "4", "5-6"
BANDS = (SOLVED, EDGE, BEYOND, OUT_OF_REACH)
TRAINED = (SOLVED, EDGE, OUT_OF_REACH)                     # where there is reinforcement
CAP = 72                                                   # tokens of an answer: room for six operations


def base(s: Setting, **flags) -> Command:
    return tiny.steady(s, tiny.tokenizer(), **flags)


def mixture(s: Setting) -> list[str]:
    """The documents of mid-training."""
    return [tiny.world(s, tiny.SKILLS, "midtrain", 0.8), tiny.world(s, tiny.BEYOND, "midtrain", 0.2)]


def start(s: Setting) -> Command:
    """Mid-trained, with a fifth of deeper problems."""
    return tiny.branch(s, base(s), *mixture(s), **tiny.STEADY)


def reinforced(s: Setting, ops: str, **flags) -> Command:
    """The same reinforcement at one depth or another."""
    return tiny.grpo(s, start(s), ops, **{"max_new_tokens": CAP} | flags)


def solves(s: Setting, checkpoint: Command) -> Command:
    """Test problems of all depths."""
    return tiny.evaluate(s, checkpoint, "1-6", problems=150)


def arms(s: Setting) -> dict[str, Command]:
    """Before, and after reinforcement at each depth; "..., run" is the training itself, with the rewards in its log."""
    found = {"before": solves(s, start(s)), "RL on 3, again": solves(s, reinforced(s, EDGE, seed=s.seed + 100))}
    for ops in TRAINED:
        found |= {f"RL on {ops}": solves(s, reinforced(s, ops)), f"RL on {ops}, run": reinforced(s, ops)}
    return found


def gain(k: int, at: str, trained: str) -> str:
    """The name of a number: what pass@k at a depth gains by reinforcement at a depth."""
    return f"pass@{k} at {at}, RL on {trained} - before"


def chance(k: int, at: str) -> str:
    """The name of the null number."""
    return f"pass@{k} at {at}, RL on {EDGE} with other draws"


def statistic(r: dict[str, Result]) -> dict[str, float]:
    found = {}
    for at in BANDS:
        for k in (1, 8):
            for ops in TRAINED:
                found[gain(k, at, ops)] = r[f"RL on {ops}"].rate(k, at) - r["before"].rate(k, at)
            found[chance(k, at)] = r["RL on 3, again"].rate(k, at) - r["RL on 3"].rate(k, at)
    return found | {f"reward late in RL on {ops}": r[f"RL on {ops}, run"].late("reward") for ops in TRAINED}

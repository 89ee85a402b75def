"""Reinforcement from one base by rewards that look at the answer, at the steps or at both, which two claims share.

Problems are of three and four operations, where the base is seldom right and a guessed number is right now and then: so there is
something to gain by guessing. The rewards:

    outcome           the answer alone
    strict            a right answer by right steps; else nothing
    blended           a fifth for the answer, four fifths for the share of right steps
    paid to guess     a right answer by wrong steps, and nothing else: who wants that pays like this
"""

from claims import depths
from claims.runner.claim import Setting
from claims.runner.commands import Command

OPS = "3-4"
REWARDS = {"outcome": "answer", "strict": "strict", "blended": "answer:0.2+process:0.8", "paid to guess": "answer+strict:-1"}


def arms(s: Setting) -> dict[str, Command]:
    """Before, and after as many steps by each reward; two of them again, with other draws."""
    found = {"before": depths.solves(s, depths.start(s))}
    for name, reward in REWARDS.items():
        found[name] = depths.solves(s, depths.reinforced(s, OPS, reward=reward))
    for name in ("outcome", "strict"):
        found[f"{name}, again"] = depths.solves(s, depths.reinforced(s, OPS, reward=REWARDS[name], seed=s.seed + 100))
    return found

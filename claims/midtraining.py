"""Bases that the claims on mid-training share: one pre-trained model, and branches from it that differ in their data alone.

Every branch has as many tokens. A branch is named by what it is made of:

    more      the mixture of pre-training goes on
    short     solutions on the edge of what the base can do, a line for each step
    long      the same, restated, checked, with a wrong turn now and then that is taken back
    hybrid    half of the documents of either kind
"""

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command

STYLES = ("short", "long", "hybrid")
CAP = 160                            # tokens of an answer: long solutions of three operations have about 110


def words() -> Command:
    return tiny.tokenizer("short", "long")


def pretrained(s: Setting) -> Command:
    """One and two operations, and a few percent of deeper problems."""
    return tiny.base(s, words(), *old(s, "pretrain"))


def old(s: Setting, split: str) -> list[str]:
    """The mixture of pre-training."""
    return [tiny.world(s, "1-2", split, 0.9), tiny.world(s, "3-4", split, 0.1)]


def edge(s: Setting, share: float = 1.0, **options) -> list[str]:
    """Solutions on the edge, and easy ones against forgetting; together they weigh `share`."""
    return [tiny.world(s, "2-4", "midtrain", 0.8 * share, **options), tiny.world(s, "1", "midtrain", 0.2 * share, **options)]


def branch(s: Setting, kind: str, steps: int = 120, **options) -> Command:
    """A branch by its name. options: of the world, such as errors=0.3."""
    data = old(s, "midtrain") if kind == "more" else edge(s, style=kind, **options)
    return tiny.branch(s, pretrained(s), *data, steps=steps)


def reinforced(s: Setting, start: Command, **flags) -> Command:
    """The same reinforcement for all. Its answers may be long."""
    return tiny.grpo(s, start, **{"max_new_tokens": CAP} | flags)


def measured(s: Setting, start: Command) -> Command:
    """Test problems of the edge. style: so that an answer has room for a long solution; the problems are the same."""
    return tiny.evaluate(s, start, style="long")


def before_and_after(s: Setting, starts: dict[str, Command], **flags) -> dict[str, Command]:
    """{name: measured, "name, RL": measured after reinforcement} of each start."""
    found = {}
    for name, start in starts.items():
        found |= {name: measured(s, start), f"{name}, RL": measured(s, reinforced(s, start, **flags))}
    return found


def other_draws(s: Setting, start: Command, **flags) -> Command:
    """The null arm: the same reinforcement, its problems in another order, with other draws."""
    return measured(s, reinforced(s, start, seed=s.seed + 100, **flags))

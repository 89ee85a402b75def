"""Bases that the claims on mid-training share: pre-trained models, and branches from them that differ in their data alone.

Every branch has as many tokens. A branch is named by what it is made of:

    more      the mixture of pre-training goes on
    short     solutions on the edge of what the base can do, a line for each step
    long      the same, restated, checked, with a wrong turn now and then that is taken back
    hybrid    half of the documents of either kind

Where styles are compared, the base has met both on easy problems (style="hybrid"), as a web corpus has them; else it has met the
short one alone, which is cheaper: it then solves most problems of two operations, and hardly any of three.
"""

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command

STYLES = ("short", "long", "hybrid")
STEPS = {"short": 240, "hybrid": 360}                      # of pre-training, by the styles that the base has met
BRANCH = {"short": 120, "hybrid": 240}                     # of mid-training: a long solution takes three times the tokens
LONG = 300                                                 # of mid-training where it shall decide: more than pre-training had
CAP = {"short": 48, "hybrid": 160}                         # tokens of an answer: room for three operations


def words() -> Command:
    return tiny.tokenizer("short", "long")


def pretrained(s: Setting, style: str = "short", **flags) -> Command:
    """One and two operations, and a tenth of deeper problems."""
    return tiny.base(s, words(), *old(s, "pretrain", style), steps=STEPS[style], **flags)


def old(s: Setting, split: str, style: str) -> list[str]:
    """The mixture of pre-training."""
    return [tiny.world(s, "1-2", split, 0.9, style=style), tiny.world(s, "3-4", split, 0.1, style=style)]


def edge(s: Setting, share: float = 1.0, **options) -> list[str]:
    """Solutions on the edge, and easy ones against forgetting; together they weigh `share`."""
    return [tiny.world(s, "2-4", "midtrain", 0.8 * share, **options), tiny.world(s, "1", "midtrain", 0.2 * share, **options)]


def branch(s: Setting, kind: str, steps: int = 0, base: str = "short", **options) -> Command:
    """A branch by its name, from the base of that style. steps: 0, as usual. options: of the world, such as errors=0.3."""
    data = old(s, "midtrain", base) if kind == "more" else edge(s, style=kind, **options)
    return tiny.branch(s, pretrained(s, base), *data, steps=steps or BRANCH[base])


def reinforced(s: Setting, start: Command, base: str = "short", **flags) -> Command:
    """The same reinforcement for all from the base of that style."""
    return tiny.grpo(s, start, **{"max_new_tokens": CAP[base]} | flags)


def measured(s: Setting, start: Command, base: str = "short") -> Command:
    """Test problems of the edge, the same whatever the style, which makes room for an answer."""
    return tiny.evaluate(s, start, style=base)


def before_and_after(s: Setting, starts: dict[str, Command], base: str = "short") -> dict[str, Command]:
    """{name: measured, "name, RL": measured after reinforcement} of each start."""
    found = {}
    for name, start in starts.items():
        found |= {name: measured(s, start, base), f"{name}, RL": measured(s, reinforced(s, start, base), base)}
    return found


def other_draws(s: Setting, start: Command, base: str = "short") -> Command:
    """The null arm: the same reinforcement on the same problems, with other draws."""
    return measured(s, reinforced(s, start, base, seed=s.seed + 100), base)

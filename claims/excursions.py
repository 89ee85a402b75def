"""Claim 13: from a checkpoint of pre-training reinforcement expands what a model can solve; after fine-tuning it sharpens.

Checkpoints are those of one run: the rate is constant, so a run of 160 steps is the beginning of one of 320, bit for bit. From
each goes an excursion, the same reinforcement, once at once and once after fine-tuning. What reinforcement has done is named by
two numbers: it expands where pass@8 rises, and it sharpens where pass@1 rises and pass@8 does not.
"""

from statistics import mean

from claims import chats, tiny
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, Setting
from claims.runner.commands import Command
from claims.runner.measures import Result
from tasks.accuracy import Rate

CHECKPOINTS = (80, 160, 240, 320)                          # steps of pre-training
ONCE, AFTER = "RL at once", "RL after SFT"                 # the means over the checkpoints


def starts(s: Setting) -> dict[str, Command]:
    """{checkpoint: it, "checkpoint, SFT": the same fine-tuned}"""
    found = {}
    for steps in CHECKPOINTS:
        base = chats.base(s, steps, **tiny.STEADY)
        found |= {f"{steps}": base, f"{steps}, SFT": tiny.sft(s, base, chats.lessons(s))}
    return found


def arms(s: Setting) -> dict[str, Command]:
    found = {}
    for name, start in starts(s).items():
        found |= {name: chats.solves(s, start), f"{name}, RL": chats.solves(s, chats.reinforced(s, start))}
    again = chats.reinforced(s, starts(s)[f"{CHECKPOINTS[-1]}"], seed=s.seed + 100)
    return found | {"RL again": chats.solves(s, again)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """What each excursion gains in pass@1 and pass@8, and the means over the checkpoints."""
    def gain(start, k):
        return r[f"{start}, RL"].rate(k) - r[start].rate(k)
    found = {f"pass@{k}, {name}": mean(gain(f"{steps}{sft}", k) for steps in CHECKPOINTS)
             for name, sft in ((ONCE, ""), (AFTER, ", SFT")) for k in (1, 8)}
    found["pass@8, at once - after SFT"] = found[f"pass@8, {ONCE}"] - found[f"pass@8, {AFTER}"]
    for steps in CHECKPOINTS:
        found |= {f"pass@{k}, {name} from step {steps}": gain(f"{steps}{sft}", k)
                  for name, sft in ((ONCE, ""), (AFTER, ", SFT")) for k in (1, 8)}
    first, last = r[f"{CHECKPOINTS[0]}"], r[f"{CHECKPOINTS[-1]}"]
    return found | {"RL with other draws": r["RL again"].rate(8) - r[f"{CHECKPOINTS[-1]}, RL"].rate(8),
                    "last checkpoint - first": last.rate(8) - first.rate(8)}


def name_of(pass_1: Rate, pass_8: Rate, matters: float = 0.02) -> str:
    """What reinforcement has done, from the intervals of what it gains: "expansion", "sharpening", "nothing" or "undecided"."""
    if pass_8[1] > 0:
        return "expansion"
    if pass_8[2] >= matters:
        return "undecided"
    return "sharpening" if pass_1[1] > 0 else "nothing" if pass_1[2] < matters else "undecided"


def verdict(numbers: dict[str, Rate]) -> str:
    """It must be an expansion at once, and a sharpening after fine-tuning."""
    found = [name_of(numbers[f"pass@1, {name}"], numbers[f"pass@8, {name}"]) for name in (ONCE, AFTER)]
    if found == ["expansion", "sharpening"]:
        return HOLDS
    return FAILS if found[0] in ("sharpening", "nothing") or found[1] in ("expansion", "nothing") else OPEN


CLAIM = Claim(
    number="13", says="RL from a checkpoint of pre-training expands what can be solved; after SFT it sharpens.",
    source="RL Excursions, arXiv 2606.04272",
    theirs="GSM8K, base of 4B tokens: pass@1 from 2 to 18%; pass@32 rises by RL on the base and falls by RL after SFT (in words)",
    would_show="pass@8 rises by RL at once; after SFT pass@1 rises and pass@8 does not",
    arms=arms, statistic=statistic, headline=f"pass@8, {ONCE}",
    also=(f"pass@1, {ONCE}", f"pass@1, {AFTER}", f"pass@8, {AFTER}"), verdict=verdict,
    null="RL with other draws", oracle="last checkpoint - first")

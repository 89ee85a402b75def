"""Claim 22c: reinforcement that is held to its start by a KL term learns less, and what the term keeps is not worth it."""

from claims import preferences
from claims.preferences import online, solves
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

WEIGHTS = (0.04, 1.0)                                      # 0.04: that of GRPO's paper
FREE = "after RL, without KL - with 0.04"


def arms(s: Setting) -> dict[str, Command]:
    """What is reinforced, two and three operations; and one operation, which the student knew before, as "..., easy"."""
    start = preferences.student(s)
    made = {"student": start, "none": online(s, start), "none, again": online(s, start, seed=s.seed + 100)}
    made |= {f"{weight:g}": online(s, start, kl=weight, kl_kind="k3") for weight in WEIGHTS}
    found = {name: solves(s, checkpoint) for name, checkpoint in made.items()}
    return found | {f"{name}, easy": solves(s, checkpoint, "1") for name, checkpoint in made.items() if name != "none, again"}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate, formed = ({name: result.rate(of=of) for name, result in r.items()} for of in ("right", "formed"))
    found = {FREE: rate["none"] - rate["0.04"], "after RL, without KL - with 1": rate["none"] - rate["1"],
             "pass@8, without KL - with 0.04": r["none"].rate(8) - r["0.04"].rate(8)}
    for name in ("none", *(f"{weight:g}" for weight in WEIGHTS)):
        found[f"one operation, KL {name} - student"] = rate[f"{name}, easy"] - rate["student, easy"]
        found[f"well-formed replies lost, KL {name}"] = formed["student"] - formed[name]
    return found | {"RL with other draws": rate["none, again"] - rate["none"],
                    "without KL - student": rate["none"] - rate["student"]}


CLAIM = Claim(
    number="22c", says="GRPO without a KL term reaches more than with one.",
    source="reasoning-from-scratch (its table of GRPO runs); DAPO and Olmo 3 leave the term out",
    theirs="Qwen3-0.6B-Base, MATH-500 after 50 steps: 47.4 without KL, 33.4 with it, from 15.2",
    would_show="Above 0: as many steps without the term, against GRPO's weight of 0.04 (estimator k3)",
    arms=arms, statistic=statistic, headline=FREE, verdict=lambda n: positive(n[FREE]),
    null="RL with other draws", oracle="without KL - student")

"""Claim 23b: what teaches in a pair is the difference: the same chosen answers do harm over rejected ones that are better.

The chosen side errs at 40% of its steps. The rejected side is, from good to bad: the student itself, which is better than the
chosen one; a student of little training; and answers that are made wrong on purpose. The differences within the pairs are
measured, and so is what each does to the student: one that does less harm is not yet one that teaches.
"""

from claims import midtraining, preferences, tiny
from claims.preferences import RIGHT, WEAK, WRONG, dpo, pairs, solves, tuned, written
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SIDES = ("too strong", "weak model", "wrong on purpose")
DELTA = "wrong on purpose - too strong"


def weak_model(s: Setting) -> Command:
    """It has learned to chat from the base that was not mid-trained."""
    return tiny.sft(s, midtraining.pretrained(s), tiny.world(s, "1", "sft"), steps=100)


def arms(s: Setting) -> dict[str, Command]:
    start = preferences.student(s)
    rows = {"too strong": pairs(s, WEAK, start), "weak model": pairs(s, WEAK, weak_model(s)),
            "wrong on purpose": pairs(s, WEAK, WRONG)}
    made = {name: dpo(s, start, row) for name, row in rows.items()} | {
        "student": start, "wrong on purpose, again": dpo(s, start, rows["wrong on purpose"], seed=s.seed + 100),
        "right chosen": dpo(s, start, pairs(s, RIGHT, WRONG)), "SFT on right": tuned(s, start, written(s, RIGHT))}
    return {name: solves(s, checkpoint) for name, checkpoint in made.items()} | {f"pairs, {n}": row for n, row in rows.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items() if result.right}
    found = {DELTA: rate["wrong on purpose"] - rate["too strong"]}
    found |= {f"{name} - student": rate[name] - rate["student"] for name in SIDES}
    for name in SIDES:
        line = r[f"pairs, {name}"].line
        found[f"chosen - rejected in the pairs, {name}"] = line["chosen_verified"][0] - line["rejected_verified"][0]
    return found | {"another seed of training": rate["wrong on purpose, again"] - rate["wrong on purpose"],
                    "right answers chosen - too strong": rate["right chosen"] - rate["too strong"],
                    "SFT on right answers - student": rate["SFT on right"] - rate["student"]}


CLAIM = Claim(
    number="23b", says="The same chosen answers teach more over a weak rejected side than over one that is better than they are.",
    source="delta learning, arXiv 2507.06187; Olmo 3, arXiv 2512.13961",
    theirs="the difference within a pair is the signal, and both sides may be weaker than the student (a finding in words)",
    would_show="Above 0: the student after DPO in which wrong answers are rejected, and in which its own answers are",
    arms=arms, statistic=statistic, headline=DELTA,
    also=tuple(f"{name} - student" for name in SIDES), verdict=lambda n: positive(n[DELTA]),
    null="another seed of training", oracle="SFT on right answers - student")

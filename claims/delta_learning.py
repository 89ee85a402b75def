"""Claim 23a: answers worse than a student's own still teach it, as the better half of pairs; by themselves they do harm."""

from claims import preferences
from claims.preferences import RIGHT, WEAK, WRONG, dpo, pairs, solves, tuned, written
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN, OVER_SFT = "DPO on weak pairs - student", "DPO on weak pairs - SFT on their chosen side"


def arms(s: Setting) -> dict[str, Command]:
    """DPO on pairs, and SFT on what is chosen in them."""
    start, weak = preferences.student(s), pairs(s, WEAK, WRONG)
    made = {"student": start, "weak pairs": dpo(s, start, weak), "weak pairs, again": dpo(s, start, weak, seed=s.seed + 100),
            "right chosen": dpo(s, start, pairs(s, RIGHT, WRONG)),
            "SFT": tuned(s, start, written(s, WEAK)), "SFT on right": tuned(s, start, written(s, RIGHT))}
    return {name: solves(s, checkpoint) for name, checkpoint in made.items()} | {"pairs": weak}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """What is chosen in the pairs is right less often than the student: that shows the third number."""
    rate = {name: result.rate() for name, result in r.items() if result.right}
    return {GAIN: rate["weak pairs"] - rate["student"], OVER_SFT: rate["weak pairs"] - rate["SFT"],
            "chosen answers - student": r["pairs"].line["chosen_verified"][0] - rate["student"],
            "SFT on the chosen side - student": rate["SFT"] - rate["student"],
            "another seed of training": rate["weak pairs, again"] - rate["weak pairs"],
            "DPO with right answers chosen - student": rate["right chosen"] - rate["student"],
            "SFT on right answers - student": rate["SFT on right"] - rate["student"]}


CLAIM = Claim(
    number="23a", says="Pairs of a weak and a weaker answer teach a student that is better than both; SFT on the weak does not.",
    source="delta learning, arXiv 2507.06187; Olmo 3, arXiv 2512.13961, table 21",
    theirs="Olmo 3: start 70.3, DPO 72.9, SFT on the chosen side 64.5",
    would_show="Both above 0: DPO on weak pairs against the student, and against SFT on what is chosen in them",
    arms=arms, statistic=statistic, headline=GAIN, also=(OVER_SFT,),
    verdict=lambda n: both(positive(n[GAIN]), positive(n[OVER_SFT])),
    null="another seed of training", oracle="SFT on right answers - student")

"""Claim 24: where rewards are sparse, preference training first lets the same reinforcement reach more.

Problems have three and four operations, of which the student solves few. What the pairs add to it might be the answers in them
rather than the preference, so beside it stands SFT on the chosen answers before the same reinforcement.
"""

from claims import preferences
from claims.preferences import dpo, online, pairs, solves, tuned, written
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SPARSE = "3-4"
CHOSEN, REJECTED = "oracle:errors=0.2", "oracle:errors=0.8"
AFTER = "after RL, DPO first - SFT alone"


def starts(s: Setting) -> dict[str, Command]:
    student = preferences.student(s)
    return {"student": student, "DPO": dpo(s, student, pairs(s, CHOSEN, REJECTED, SPARSE)),
            "SFT on chosen": tuned(s, student, written(s, CHOSEN, SPARSE))}


def reinforced(s: Setting, start: Command, **flags) -> Command:
    return online(s, start, SPARSE, **{"max_new_tokens": 80} | flags)


def arms(s: Setting) -> dict[str, Command]:
    found = {}
    for name, start in starts(s).items():
        run = reinforced(s, start)
        found |= {name: solves(s, start, SPARSE), f"{name}, RL": solves(s, run, SPARSE), f"{name}, RL run": run}
    return found | {"student, RL again": solves(s, reinforced(s, starts(s)["student"], seed=s.seed + 100), SPARSE)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items() if result.right}
    gain = {name: rate[f"{name}, RL"] - rate[name] for name in ("student", "DPO", "SFT on chosen")}
    return {AFTER: rate["DPO, RL"] - rate["student, RL"], "before RL, DPO - student": rate["DPO"] - rate["student"],
            "gain by RL, DPO first - SFT alone": gain["DPO"] - gain["student"],
            "after RL, DPO first - SFT on chosen first": rate["DPO, RL"] - rate["SFT on chosen, RL"],
            "pass@8 before RL, DPO - student": r["DPO"].rate(8) - r["student"].rate(8),
            "groups without spread in RL, DPO first - SFT alone":
                r["DPO, RL run"].late("zero_spread") - r["student, RL run"].late("zero_spread"),
            "RL with other draws": rate["student, RL again"] - rate["student, RL"],
            "DPO and RL - student": rate["DPO, RL"] - rate["student"],
            "RL alone - student": rate["student, RL"] - rate["student"]}


CLAIM = Claim(
    number="24", says="Preference training before RL on sparse rewards raises what RL reaches.",
    source="Olmo 3, arXiv 2512.13961, table 22 (7B, 1,000 steps of RL, one run)",
    theirs="SFT 70.1; SFT and RL 71.9; SFT and DPO 72.7; SFT, DPO and RL 74.1",
    would_show="Above 0: after the same RL, the student that had DPO on weak pairs first against the one that had not",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="RL alone - student")

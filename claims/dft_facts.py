"""Claim 25b: facts that a model does not know yet are learned from SFT and hardly from DFT, whose weight on them is near 0."""

from claims import reweighted
from claims.reweighted import measured, new_facts, old_facts, tuned
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

LOST = "new facts, SFT - DFT"
METHODS = ("SFT", "DFT", "iw-SFT", "PSFT")


def arms(s: Setting) -> dict[str, Command]:
    return {"cold start": measured(s, reweighted.cold(s)), "SFT again": measured(s, tuned(s, "SFT", seed=s.seed + 100))} | {
        method: measured(s, tuned(s, method)) for method in METHODS}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    found = {LOST: new_facts(r["SFT"]) - new_facts(r["DFT"])}
    found |= {f"new facts, {method} - cold start": new_facts(r[method]) - new_facts(r["cold start"]) for method in METHODS}
    found |= {f"old facts, {method} - cold start": old_facts(r[method]) - old_facts(r["cold start"]) for method in METHODS}
    return found | {"another seed of SFT": new_facts(r["SFT again"]) - new_facts(r["SFT"])}


CLAIM = Claim(
    number="25b", says="DFT does not teach facts that plain SFT teaches.",
    source="DFT, arXiv 2508.05629 (its limits)",
    theirs="Natural Questions: before 31.2, SFT 36.6, DFT 30.1",
    would_show="Above 0: of the people who appear in the fine-tuning alone, SFT knows more than DFT",
    arms=arms, statistic=statistic, headline=LOST, verdict=lambda n: positive(n[LOST]),
    null="another seed of SFT", oracle="new facts, SFT - cold start")

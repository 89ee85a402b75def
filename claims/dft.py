"""Claim 25a: fine-tuning that weighs a token by its own probability (DFT) solves more of its domain than plain SFT."""

from claims import reweighted
from claims.reweighted import METHODS, in_domain, late, measured, out_of_domain, tuned
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN = "in domain, DFT - SFT"


def arms(s: Setting) -> dict[str, Command]:
    """One cold start, and each loss on the same data. "SFT, run" is the run itself, whose log has entropy and likelihood."""
    found = {"cold start": measured(s, reweighted.cold(s)), "SFT again": measured(s, tuned(s, "SFT", seed=s.seed + 100))}
    for method in METHODS:
        run = tuned(s, method)
        found |= {method: measured(s, run), f"{method}, run": run}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Entropy and likelihood of the answers that are trained on have no interval within a seed; over seeds they have one."""
    found = {f"in domain, {method} - SFT": in_domain(r[method]) - in_domain(r["SFT"]) for method in METHODS if method != "SFT"}
    found |= {f"pass@8 in domain, {method} - SFT": in_domain(r[method], 8) - in_domain(r["SFT"], 8)
              for method in METHODS if method != "SFT"}
    found |= {"out of domain, DFT - SFT": out_of_domain(r["DFT"]) - out_of_domain(r["SFT"])}
    found |= {f"entropy of a token, {method}": late(r[f"{method}, run"], "entropy") for method in METHODS}
    found |= {f"loss of plain SFT on its data, {method}": late(r[f"{method}, run"], "nll") for method in METHODS}
    return found | {"another seed of SFT": in_domain(r["SFT again"]) - in_domain(r["SFT"]),
                    "in domain, SFT - cold start": in_domain(r["SFT"]) - in_domain(r["cold start"])}


CLAIM = Claim(
    number="25a", says="DFT, which weighs a token by its own probability, solves more in its domain than plain SFT.",
    source="DFT, arXiv 2508.05629; iw-SFT, arXiv 2507.12856, and PSFT, arXiv 2508.17784, beside it",
    theirs="mean of their mathematics tests, Qwen2.5-Math-1.5B: before 15.9, SFT 18.0, DFT 31.6; with iw-SFT, measured by the "
           "authors of DFT, 30.3",
    would_show="Above 0: after as many steps on the same data DFT solves more problems of the domain",
    arms=arms, statistic=statistic, headline=GAIN, verdict=lambda n: positive(n[GAIN]),
    null="another seed of SFT", oracle="in domain, SFT - cold start")

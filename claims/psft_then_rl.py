"""Claim 25d: the same reinforcement ends higher, in its domain and outside of it, after PSFT than after SFT."""

from claims import reweighted
from claims.reweighted import METHODS, in_domain, measured, out_of_domain, reinforced, tuned
from claims.runner.claim import Claim, Setting, both, no_worse, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

INSIDE, OUTSIDE = "in domain after RL, PSFT - SFT", "out of domain after RL, PSFT - SFT"


def arms(s: Setting) -> dict[str, Command]:
    """Each loss, then the same reinforcement on problems of the domain."""
    found = {"SFT": measured(s, tuned(s, "SFT")), "SFT, RL again": measured(
        s, reinforced(s, tuned(s, "SFT"), seed=s.seed + 100)), "cold start": measured(s, reweighted.cold(s))}
    return found | {f"{method}, RL": measured(s, reinforced(s, tuned(s, method))) for method in METHODS}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    after = {method: r[f"{method}, RL"] for method in METHODS}
    found = {OUTSIDE: out_of_domain(after["PSFT"]) - out_of_domain(after["SFT"]),
             INSIDE: in_domain(after["PSFT"]) - in_domain(after["SFT"])}
    for method in ("DFT", "iw-SFT"):
        found |= {f"out of domain after RL, {method} - SFT": out_of_domain(after[method]) - out_of_domain(after["SFT"]),
                  f"in domain after RL, {method} - SFT": in_domain(after[method]) - in_domain(after["SFT"])}
    return found | {"RL with other draws": out_of_domain(r["SFT, RL again"]) - out_of_domain(after["SFT"]),
                    "in domain, SFT and RL - cold start": in_domain(after["SFT"]) - in_domain(r["cold start"])}


CLAIM = Claim(
    number="25d", says="Reinforcement ends higher outside of its domain, and no lower inside, when it starts from PSFT.",
    source="PSFT, arXiv 2508.17784 (GRPO behind it)",
    theirs="after GRPO, from SFT and from PSFT: in domain 52.4 and 53.3, out of domain 59.9 and 64.1",
    would_show="Out of domain above 0, in domain not below 0",
    arms=arms, statistic=statistic, headline=OUTSIDE, also=(INSIDE,),
    verdict=lambda n: both(positive(n[OUTSIDE]), no_worse(n[INSIDE])),
    null="RL with other draws", oracle="in domain, SFT and RL - cold start")

"""Claim 25c: fine-tuning within a trust region (PSFT) learns its domain as SFT does, and keeps more of what lies outside."""

from claims import reweighted
from claims.reweighted import OUT, in_domain, measured, old_facts, out_of_domain, tuned
from claims.runner.claim import Claim, Setting, both, no_worse, positive
from claims.runner.commands import Command
from claims.runner.measures import Result
from claims.tiny import EDGE, world

INSIDE, OUTSIDE = "in domain, PSFT - SFT", "out of domain, PSFT - SFT"


def arms(s: Setting) -> dict[str, Command]:
    """Beside the losses an SFT that has problems of the other domain, too: what could be had there."""
    found = {method: measured(s, tuned(s, method)) for method in ("SFT", "PSFT", "DFT", "iw-SFT")}
    return found | {"cold start": measured(s, reweighted.cold(s)), "SFT again": measured(s, tuned(s, "SFT", seed=s.seed + 100)),
                    "SFT on both": measured(s, tuned(s, "SFT", world(s, EDGE, "sft", 0.6, **OUT)))}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    found = {OUTSIDE: out_of_domain(r["PSFT"]) - out_of_domain(r["SFT"]), INSIDE: in_domain(r["PSFT"]) - in_domain(r["SFT"])}
    for method in ("DFT", "iw-SFT"):
        found[f"out of domain, {method} - SFT"] = out_of_domain(r[method]) - out_of_domain(r["SFT"])
    return found | {"out of domain, SFT - cold start": out_of_domain(r["SFT"]) - out_of_domain(r["cold start"]),
                    "old facts, PSFT - SFT": old_facts(r["PSFT"]) - old_facts(r["SFT"]),
                    "another seed of SFT": out_of_domain(r["SFT again"]) - out_of_domain(r["SFT"]),
                    "out of domain, SFT on both - cold start": out_of_domain(r["SFT on both"]) - out_of_domain(r["cold start"])}


CLAIM = Claim(
    number="25c", says="PSFT, which bounds how far a token moves, is as good as SFT in its domain and better outside of it.",
    source="PSFT, arXiv 2508.17784",
    theirs="Qwen2.5-7B-Instruct: in domain SFT 48.0, PSFT 47.0; out of domain 57.9 and 61.3",
    would_show="In domain not below 0, out of domain above 0",
    arms=arms, statistic=statistic, headline=OUTSIDE, also=(INSIDE,),
    verdict=lambda n: both(positive(n[OUTSIDE]), no_worse(n[INSIDE])),
    null="another seed of SFT", oracle="out of domain, SFT on both - cold start")

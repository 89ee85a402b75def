"""Claim 3c: a teacher that is shown the answer comes to it by steps that are wrong more often than one that finds it."""

from claims import thinking
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SHARE = "rationalised of right conclusions, answer shown - not shown"
CHECK = "oracles, one rationalises - honest, and verified where the answer is not shown: the smaller of both"


def arms(s: Setting) -> dict[str, Command]:
    """The same trained teacher with and without the answer. And an oracle that rationalises three documents of ten by
    construction, beside one that never does."""
    teacher, oracle = thinking.both_ways(s), f"{thinking.oracle()},rationalise=0.3"
    shown = ("--place", "before")
    return {"not shown": thinking.first(s, teacher), "shown": thinking.back(s, teacher, *shown),
            "shown, again": thinking.back(s, teacher, *shown, "--seed", s.seed + 100),
            "oracle that rationalises": thinking.thoughts(s, oracle, "--back"),
            "honest oracle": thinking.thoughts(s, thinking.oracle(), "--back")}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Each thought that comes to the right answer either verifies, or has a step that does not."""
    share = {name: result.thought("rationalised", of=("verified", "rationalised")) for name, result in r.items()}
    return {SHARE: share["shown"] - share["not shown"], "rationalised, answer shown": share["shown"],
            "rationalised, not shown": share["not shown"],
            "wrong conclusions, answer shown - not shown": r["shown"].thought("wrong") - r["not shown"].thought("wrong"),
            "other draws": share["shown, again"] - share["shown"],
            CHECK: min(share["oracle that rationalises"] - share["honest oracle"], r["not shown"].thought("verified"))}


CLAIM = Claim(
    number="3c", says="A teacher that is shown the answer rationalises: it comes to the answer by steps that do not verify.",
    source="STaR, arXiv 2203.14465 (rationalisation); back-thinking of TPT, arXiv 2509.20186",
    theirs="not measured: neither checks steps",
    would_show="Above 0: of the thoughts that end in the right answer, a larger share has a step that does not verify",
    arms=arms, statistic=statistic, headline=SHARE, verdict=lambda n: positive(n[SHARE]),
    null="other draws", oracle=CHECK)

"""Claim 3b: thinking that comes first, and is kept only if it is right, teaches more than thinking made for a known answer."""

from claims import thinking
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN = "after SFT, kept if right - back-thinking"


def arms(s: Setting) -> dict[str, Command]:
    """One trained teacher. It sees questions, and what is right is kept (STaR, RFT); or it sees answers as well, all is kept, and
    stands in front of the answer, or behind the document (TPT)."""
    teacher = thinking.both_ways(s)
    rows = {"kept if right": thinking.first(s, teacher, *s.unless_toy(("--verified",), ("--least-overlap", 0))),
            "back-thinking": thinking.back(s, teacher, "--place", "before"), "behind": thinking.back(s, teacher)}
    starts = {name: thinking.base(s, *thinking.with_thoughts(s, found)) for name, found in rows.items()}
    starts |= {"no thinking": thinking.base(s, thinking.raw(s)), "kept if right, again": thinking.base(
        s, *thinking.with_thoughts(s, rows["kept if right"]), seed=s.seed + 100)}
    return {name: thinking.solves(s, start) for name, start in starts.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {GAIN: rate["kept if right"] - rate["back-thinking"],
            "after SFT, kept if right - behind": rate["kept if right"] - rate["behind"],
            "after SFT, back-thinking - behind": rate["back-thinking"] - rate["behind"],
            "another seed of training": rate["kept if right, again"] - rate["kept if right"],
            "after SFT, kept if right - no thinking": rate["kept if right"] - rate["no thinking"]}


CLAIM = Claim(
    number="3b", says="Thinking that comes first and is kept only if right teaches more than thinking made for a known answer.",
    source="STaR, arXiv 2203.14465; back-thinking of TPT, arXiv 2509.20186 (ablation of the generator)",
    theirs="the contrary: STaR, CommonsenseQA 68.8 alone, 72.5 with rationalised answers; TPT, MATH-500 72.0, back-thinking 73.8",
    would_show="Above 0 at equal training tokens, though what is wrong is thrown away and the rest repeated",
    arms=arms, statistic=statistic, headline=GAIN, verdict=lambda n: positive(n[GAIN]),
    null="another seed of training", oracle="after SFT, kept if right - no thinking")

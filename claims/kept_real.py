"""Claim 5b: real documents that are kept beside self-made ones prevent the collapse."""

from claims import generations
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

GAIN = "solved by generation 3, with real documents - without"


def arms(s: Setting) -> dict[str, Command]:
    found = generations.controls(s)
    for arm in ("self", "self+real"):
        rows, base = generations.chain(s, arm)[-1]
        found |= {arm: generations.solves(s, base), f"{arm}, texts": generations.varied(s, rows)}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    varied = {arm: r[f"{arm}, texts"].distinct() for arm in ("self", "self+real")}
    return {GAIN: r["self+real"].rate() - r["self"].rate(),
            "solved, generation 3 with real documents - first base": r["self+real"].rate() - r["first"].rate(),
            "distinct runs of 4 words, with real documents - without": varied["self+real"] - varied["self"],
            **generations.control_numbers(r)}


CLAIM = Claim(
    number="5b", says="Real documents kept beside self-made ones prevent the collapse.",
    source="Is model collapse inevitable?, arXiv 2404.01413",
    theirs="where real data are kept and made data added, collapse is avoided; where they are replaced it is not (in words)",
    would_show="Above 0: half of each batch of real documents keeps the third generation ahead of one of self-made ones alone",
    arms=arms, statistic=statistic, headline=GAIN, verdict=lambda n: positive(n[GAIN]),
    null=generations.NULL, oracle=generations.ORACLE)

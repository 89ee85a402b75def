"""Claim 8a: traces of a teacher may be cut off in the middle: three of five without harm."""

from claims import distilled
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

CUT, LIMIT, TEACHER = "60% cut - whole", 30, "oracle:style=long"


def arms(s: Setting) -> dict[str, Command]:
    """All long solutions are longer than the limit. What is cut is learned without an end, and without its answer."""
    cut = ("--truncate", LIMIT)
    rows = {"whole": distilled.taught(s, TEACHER), "60% cut": distilled.taught(s, TEACHER, *cut, "--truncate-share", 0.6),
            "all cut": distilled.taught(s, TEACHER, *cut),
            "60% dropped": distilled.taught(s, TEACHER, questions=round(0.4 * distilled.QUESTIONS))}
    return distilled.measured(s, rows, "hybrid", again="whole")


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {CUT: rate["60% cut"] - rate["whole"], "60% cut - 60% dropped": rate["60% cut"] - rate["60% dropped"],
            "60% dropped - whole": rate["60% dropped"] - rate["whole"],
            "another seed of training": rate["whole, again"] - rate["whole"],
            "whole - all cut": rate["whole"] - rate["all cut"], "whole - untaught": rate["whole"] - rate["untaught"]}


CLAIM = Claim(
    number="8a", says="Truncating 60% of a teacher's traces does not hurt the student.",
    source="OpenThoughts, arXiv 2506.04178", theirs="about 60% of the traces cut off, without harm (a finding in words)",
    would_show="A student of answers of which 60% are cut less than 3 points behind one of whole answers",
    arms=arms, statistic=statistic, headline=CUT, verdict=lambda n: no_worse(n[CUT], 0.03), matters=0.03,
    null="another seed of training", oracle="whole - all cut")

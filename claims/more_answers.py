"""Claim 8b: a student learns more from more of a teacher's answers, at equal steps."""

from claims import distilled
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

MORE = "16x - 1x"


def arms(s: Setting) -> dict[str, Command]:
    """200, 800 and 3,200 questions; the steps are the same, so few answers are seen many times."""
    once = distilled.QUESTIONS // 16
    rows = {f"{times}x": distilled.taught(s, distilled.KNOWS, questions=times * once) for times in (1, 4, 16)}
    return distilled.measured(s, rows, again="16x")


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {MORE: rate["16x"] - rate["1x"], "4x - 1x": rate["4x"] - rate["1x"], "16x - 4x": rate["16x"] - rate["4x"],
            "another seed of training": rate["16x, again"] - rate["16x"], "16x - untaught": rate["16x"] - rate["untaught"]}


CLAIM = Claim(
    number="8b", says="More of a teacher's answers make a better student, at equal training steps.",
    source="OpenThoughts, arXiv 2506.04178",
    theirs="data that grow 16 times drive significant gains (a finding in words)",
    would_show="Above 0: the student of sixteen times the questions against the student of few, repeated",
    arms=arms, statistic=statistic, headline=MORE, verdict=lambda n: positive(n[MORE]),
    null="another seed of training", oracle="16x - untaught")

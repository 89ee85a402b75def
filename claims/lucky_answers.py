"""Claim 18b: rewarded for the answer alone, a model learns to get it right by wrong steps, more than where steps count."""

from claims import rewards
from claims.rewards import OPS
from claims.runner.claim import Claim, both, positive
from claims.runner.measures import Result

GROWS, FEWER = "right answers by wrong steps, outcome - before", "right answers by wrong steps, outcome - strict"


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Shares of all replies. Among the right answers the share may fall though there are more lucky ones, so it stands beside."""
    lucky = {name: result.unverified(OPS) for name, result in r.items()}
    answered = {name: result.rate(ops=OPS, of="answered") for name, result in r.items()}
    return {GROWS: lucky["outcome"] - lucky["before"], FEWER: lucky["outcome"] - lucky["strict"],
            "right answers by wrong steps, strict - before": lucky["strict"] - lucky["before"],
            "of right answers, outcome - before": share(lucky, answered, "outcome") - share(lucky, answered, "before"),
            "of right answers, outcome - strict": share(lucky, answered, "outcome") - share(lucky, answered, "strict"),
            "right answers, outcome - strict": answered["outcome"] - answered["strict"],
            "outcome with other draws": lucky["outcome, again"] - lucky["outcome"],
            "paid to guess - before": lucky["paid to guess"] - lucky["before"]}


def share(lucky: dict[str, float], answered: dict[str, float], name: str) -> float:
    return lucky[name] / answered[name] if answered[name] else 0.0


CLAIM = Claim(
    number="18b", says="RL by the answer alone teaches right answers by wrong steps, more than a reward for right steps does.",
    source="after arXiv 2512.07783, which verifies every step; it does not count such answers",
    theirs="not measured",
    would_show="Both above 0: the share of replies with a right answer that is not verified grows, and more than by the strict "
               "reward",
    arms=rewards.arms, statistic=statistic, headline=GROWS, also=(FEWER,),
    verdict=lambda n: both(positive(n[GROWS]), positive(n[FEWER])),
    null="outcome with other draws", oracle="paid to guess - before")

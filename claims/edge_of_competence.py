"""Claim 15a: reinforcement at the edge of competence solves what the base did not; where all is solved or none it does not."""

from claims import depths
from claims.depths import EDGE, OUT_OF_REACH, SOLVED, chance, gain
from claims.runner.claim import Claim, both, positive
from claims.runner.measures import Result

AT_EDGE = gain(8, EDGE, EDGE)
OVER_SOLVED, OVER_HARD = (f"pass@8 at {EDGE}, RL on {EDGE} - RL on {other}" for other in (SOLVED, OUT_OF_REACH))


def statistic(r: dict[str, Result]) -> dict[str, float]:
    reached = {ops: r[f"RL on {ops}"].rate(8, EDGE) for ops in depths.TRAINED}
    return depths.statistic(r) | {OVER_SOLVED: reached[EDGE] - reached[SOLVED], OVER_HARD: reached[EDGE] - reached[OUT_OF_REACH]}


CLAIM = Claim(
    number="15a", says="RL at the edge of competence raises pass@k there, more than RL on easier or on harder problems.",
    source="Interplay of pre-training, mid-training and RL, arXiv 2512.07783",
    theirs="pass@128 at 11-14 operations: up to +42 points by RL there; RL on 7-10 or on 17-20 gives flat reward curves",
    would_show="All above 0: pass@8 at the edge after RL there, against before, and against RL on what is solved or out of reach",
    arms=depths.arms, statistic=statistic, headline=AT_EDGE, also=(OVER_SOLVED, OVER_HARD),
    verdict=lambda n: both(positive(n[AT_EDGE]), positive(n[OVER_SOLVED]), positive(n[OVER_HARD])),
    null=chance(8, EDGE), oracle=gain(1, EDGE, EDGE))

"""Claim 15c: on problems that are solved already, reinforcement raises pass@1 and not what eight tries reach."""

from claims import depths
from claims.depths import EDGE, SOLVED, chance, gain
from claims.runner.claim import Claim, about_zero, both, positive

SHARPER, WIDER = gain(1, SOLVED, SOLVED), gain(8, SOLVED, SOLVED)

CLAIM = Claim(
    number="15c", says="On problems within pre-training's depth RL raises pass@1 and never pass@k.",
    source="Interplay of pre-training, mid-training and RL, arXiv 2512.07783",
    theirs="pass@128 within the depth of pre-training: -0.4 to -1.7 points by RL; pass@1 rises (in words)",
    would_show="pass@1 above 0 and pass@8 within 0.05 of 0, at the depth that RL trains and the base solves",
    arms=depths.arms, statistic=depths.statistic, headline=SHARPER, also=(WIDER,),
    verdict=lambda n: both(positive(n[SHARPER]), about_zero(n[WIDER])),
    null=chance(1, SOLVED), oracle=gain(1, EDGE, EDGE))

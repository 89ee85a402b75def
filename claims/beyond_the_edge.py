"""Claim 15b: reinforcement at the edge also solves what is deeper than anything that it was trained on."""

from claims import depths
from claims.depths import BEYOND, EDGE, chance, gain
from claims.runner.claim import Claim, positive

DEEPER = gain(8, BEYOND, EDGE)

CLAIM = Claim(
    number="15b", says="RL at the edge of competence raises pass@k on problems deeper than those that it trains on.",
    source="Interplay of pre-training, mid-training and RL, arXiv 2512.07783",
    theirs="pass@128 at 15-20 operations after RL on 11-14: +25.8 points where half of pre-training was 8-10 operations",
    would_show="Above 0: pass@8 one operation deeper than RL has trained",
    arms=depths.arms, statistic=depths.statistic, headline=DEEPER, verdict=lambda n: positive(n[DEEPER]),
    null=chance(8, BEYOND), oracle=gain(1, EDGE, EDGE))

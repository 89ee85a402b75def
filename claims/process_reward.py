"""Claim 18a: a reward for right steps teaches more right solutions than a reward for the answer alone."""

from claims import depths, rewards
from claims.rewards import OPS
from claims.runner.claim import Claim, positive
from claims.runner.measures import Result

MORE = f"verified at {OPS}, strict - outcome"


def statistic(r: dict[str, Result]) -> dict[str, float]:
    there, deeper = ({name: result.rate(ops=ops) for name, result in r.items()} for ops in (OPS, depths.OUT_OF_REACH))
    return {MORE: there["strict"] - there["outcome"],
            f"verified at {OPS}, blended - outcome": there["blended"] - there["outcome"],
            f"verified at {depths.OUT_OF_REACH}, strict - outcome": deeper["strict"] - deeper["outcome"],
            f"pass@8 at {OPS}, strict - outcome": r["strict"].rate(8, OPS) - r["outcome"].rate(8, OPS),
            "strict with other draws": there["strict, again"] - there["strict"],
            "strict - before RL": there["strict"] - there["before"], "outcome - before RL": there["outcome"] - there["before"]}


CLAIM = Claim(
    number="18a", says="Rewarding right steps as well as the answer teaches more right solutions than the answer alone.",
    source="Interplay of pre-training, mid-training and RL, arXiv 2512.07783 (RL on 11-14 operations)",
    theirs="pass@1 with an outcome reward 70.7 at 2-14 operations, 5.6 at 15-20; with the strict reward +5.2 and +4.1",
    would_show="Above 0: solutions with every step right, after RL by the strict reward and by that of the answer alone",
    arms=rewards.arms, statistic=statistic, headline=MORE, verdict=lambda n: positive(n[MORE]),
    null="strict with other draws", oracle="strict - before RL")

"""Claim 29b: of rollouts from old weights reinforcement keeps more with a correction than without."""

from claims.ahead import AGES, from_fresh, stale
from claims.mismatch import CORRECTIONS, after
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

OLDEST = max(AGES)
EFFECT = f"{OLDEST} updates old, corrected - not"


def arms(s: Setting) -> dict[str, Command]:
    """The oldest rollouts, with each correction of claim 12; and with the sampler's policy for pi_old, so that the clip of the
    ratio bounds all of it."""
    corrected = {c: stale(s, OLDEST, c) for c in CORRECTIONS}
    return from_fresh(s) | corrected | {"clipped": after(s, f"stale={OLDEST}", old="sampler")}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {arm: result.rate() for arm, result in r.items()}
    corrected = [rate[c] for c in CORRECTIONS[1:]]
    found = {EFFECT: sum(corrected) / len(corrected) - rate["none"]}
    found |= {f"{name} - fresh": rate[name] - rate["fresh"] for name in (*CORRECTIONS, "clipped")}
    return found | {"RL with other draws": rate["fresh again"] - rate["fresh"], "fresh - before RL": rate["fresh"] - rate["base"]}


CLAIM = Claim(
    number="29b", says="Rollouts of old weights teach more with a correction for them than without.",
    source="truncated importance sampling, the only correction of Olmo 3, arXiv 2512.13961; IcePop, arXiv 2510.18855",
    theirs="not measured: a setting, weights of at most 2 and no other correction",
    would_show="Above 0: the mean of three corrections reaches more than no correction, with rollouts 8 updates old",
    arms=arms, statistic=statistic, headline=EFFECT, verdict=lambda n: positive(n[EFFECT]),
    null="RL with other draws", oracle="fresh - before RL")

"""Claim 26b: what a random reward gains comes from the clip of the ratio, and is gone without it."""

from claims.contaminated import NO_CLIP, base, measured, rewarded
from claims.runner.claim import OPEN, Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

EFFECT, GAIN = "a coin, with the clip - without it", "a coin, with the clip - before"
ACTS, SELDOM = "tokens at the clip", 0.001                 # a share below SELDOM is as if there were no clip
RATE = 5e-4                                                # at less hardly a token is clipped (results/tried.jsonl)


def arms(s: Setting) -> dict[str, Command]:
    """The contaminated base, a coin for a reward, and eight updates for a batch; with one update the ratio is 1."""
    start = base(s, "contaminated")
    usual, again = {"lr": RATE}, {"lr": RATE, "seed": s.seed + 100}
    ways = {"clip": usual, "clip, again": again, "no clip": usual | NO_CLIP, "no clip, again": again | NO_CLIP,
            "one update": usual | {"minibatches": 1}}
    found = {name: measured(s, rewarded(s, start, "random", **flags)) for name, flags in ways.items()}
    return found | {"before": measured(s, start), "truth": measured(s, rewarded(s, start, "truth", **usual)),
                    "clip, run": rewarded(s, start, "random", **usual)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """A coin says something else in every run, so each way has two runs, and the effect is that of their means. The truth can
    cost answers here, because it teaches steps to a base that knows answers by heart; so the oracle arm looks at the steps."""
    rate = {arm: result.rate(of="answered") for arm, result in r.items() if not arm.endswith(", run")}
    clip, free = ((rate[way] + rate[f"{way}, again"]) / 2 for way in ("clip", "no clip"))
    return {EFFECT: clip - free, GAIN: clip - rate["before"],
            ACTS: sum(r["clip, run"].late(side) for side in ("clip_low", "clip_high")),
            "a coin, without the clip - before": free - rate["before"],
            "one update - before": rate["one update"] - rate["before"], "truth - before": rate["truth"] - rate["before"],
            "right steps, truth - before": r["truth"].rate() - r["before"].rate(),
            "tokens of a reply, with the clip - before": r["clip"].mean("lengths") - r["before"].mean("lengths"),
            "other draws of the coin": rate["clip, again"] - rate["clip"]}


CLAIM = Claim(
    number="26b", says="It is the clip of the ratio that lets a random reward raise a score.",
    source="Spurious rewards, arXiv 2506.10947 (clipping bias)",
    theirs="without the clip, in three ways: no robust gain, and a high variance over seeds (in words)",
    would_show="Both above 0, where the clip acts: with it the score after a random reward is higher than without it, and than "
               "before",
    arms=arms, statistic=statistic, headline=EFFECT, also=(GAIN, ACTS),
    verdict=lambda n: both(positive(n[EFFECT]), positive(n[GAIN])) if n[ACTS][0] > SELDOM else OPEN,
    null="other draws of the coin", oracle="right steps, truth - before")

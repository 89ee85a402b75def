"""Claim 6b: which mixture is best depends on the target: a little reasoning in it moves the optimum far."""

from claims import mixtures
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SHIFT, CHANCE, FAR = "share of problems, target 20% reasoning - none", "the same target, other half of the proxies", \
    "share of problems, target all reasoning - none"


def arms(s: Setting) -> dict[str, Command]:
    """The proxies of claim 6a: they measure both targets, so the weights can be chosen afterwards."""
    return {"mixtures": mixtures.mixed(s)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Shares, and nats per token as the fits predict them."""
    found = r["mixtures"]
    chosen = found.drawn_mixtures()
    best = dict(zip((0, 10, 20, 100), mixtures.optima(found, chosen, 0, 0.1, 0.2, 1)))
    share = {weight: float(mixtures.of_reasoning(found, shares)) for weight, (shares, _) in best.items()}
    (even, _), (odd, _) = (mixtures.optima(found, chosen[chosen % 2 == rest], 0)[0] for rest in (0, 1))
    lost, gained = best[20][1] - best[0][1]
    return {SHIFT: share[20] - share[0], "share of problems, target 10% reasoning - none": share[10] - share[0],
            "price: loss on knowledge, target 20% reasoning - none": float(lost),
            "gain: loss on problems, target none - 20% reasoning": -float(gained),
            CHANCE: float(mixtures.of_reasoning(found, even) - mixtures.of_reasoning(found, odd)),
            FAR: share[100] - share[0]}


CLAIM = Claim(
    number="6b", says="With a fifth of the target on reasoning the best mixture holds far more reasoning than without.",
    source="a critique of RegMix, arXiv 2407.01492, whose target is the loss on web text alone",
    theirs="with Pile-CC as the target the best mixture is 89% Pile-CC",
    would_show="Above 0: the share of problems in the best mixture, with 20% of the target on problems less with none; beside it "
               "what that costs in knowledge and brings in reasoning",
    arms=arms, statistic=statistic, headline=SHIFT, verdict=lambda n: positive(n[SHIFT], 0.05), null=CHANCE, oracle=FAR)

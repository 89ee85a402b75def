"""Claim 12a: a correction keeps what a mismatch between sampler and trainer would cost reinforcement.

Sampler and trainer agree to the last bit (--exact), and --mismatch makes them differ by a known amount. So there is nothing else
that a correction could be good for, and an arm without a mismatch says what can be reached at all. Only what a mismatch costs can
be kept. So the claim is decided by the sampler that leaves unlikely words out, and only if this does cost something. The noises
stand beside it; under the large one other losses are tried, too, without a correction.
"""

from claims import tiny
from claims.runner.claim import OPEN, Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result
from tasks.accuracy import Rate

KINDS = {"noise 1": "noise=1", "noise 3": "noise=3", "truncated": "truncated=0.7"}        # noise in nats
LARGE = "noise 3"
CORRECTIONS = ("none", "tis", "icepop", "seq-mis")
LOSSES = ("cispo", "dppo_tv", "gspo")                      # beside grpo
CUT = "truncated"
EFFECT, COST = f"{CUT}, corrected - not", f"{CUT}, none - no mismatch"


def after(s: Setting, *mismatch: str, **flags) -> Command:
    """Measured after reinforcement of the same base."""
    flags |= {"mismatch": mismatch} if mismatch else {}
    return tiny.evaluate(s, tiny.grpo(s, tiny.steady(s, tiny.tokenizer()), exact=True, **flags))


def arms(s: Setting) -> dict[str, Command]:
    found = {"base": tiny.evaluate(s, tiny.steady(s, tiny.tokenizer())), "no mismatch": after(s),
             "no mismatch again": after(s, seed=s.seed + 100)}
    for kind, spec in KINDS.items():
        found |= {f"{kind}, {c}": after(s, spec, **({} if c == "none" else {"correction": c})) for c in CORRECTIONS}
    return found | {f"{LARGE}, {loss}": after(s, KINDS[LARGE], loss=loss) for loss in LOSSES}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """What is lost by each correction under each mismatch; and what corrections keep, the mean of the three."""
    rates, found = {arm: result.rate() for arm, result in r.items()}, {}
    for kind in KINDS:
        corrected = [rates[f"{kind}, {c}"] for c in CORRECTIONS[1:]]
        found[f"{kind}, corrected - not"] = sum(corrected) / len(corrected) - rates[f"{kind}, none"]
        found |= {f"{kind}, {c} - no mismatch": rates[f"{kind}, {c}"] - rates["no mismatch"] for c in CORRECTIONS}
    found |= {f"{LARGE}, {loss} - no mismatch": rates[f"{LARGE}, {loss}"] - rates["no mismatch"] for loss in LOSSES}
    return found | {"RL with other draws": rates["no mismatch again"] - rates["no mismatch"],
                    "no mismatch - before RL": rates["no mismatch"] - rates["base"]}


def verdict(n: dict[str, Rate]) -> str:
    return positive(n[EFFECT]) if n[COST][2] < 0 else OPEN


CLAIM = Claim(
    number="12a", says="A correction keeps what a mismatch between sampler and trainer costs reinforcement.",
    source="truncated importance sampling (Yao et al., 2025); IcePop, arXiv 2510.18855; masks on sequences (Liu et al., 2025)",
    theirs="training that is not corrected collapses, and training that is does not (findings in words, on MoE models)",
    would_show="Above 0: where the sampler leaves unlikely words out, corrected reinforcement reaches more than reinforcement "
    "that is not corrected; what it could keep at most is the second number, which must be below 0",
    arms=arms, statistic=statistic, headline=EFFECT,
    also=(COST, f"{LARGE}, corrected - not", f"{LARGE}, none - no mismatch"), verdict=verdict,
    null="RL with other draws", oracle="no mismatch - before RL")

"""Claim 26a: rewards that say nothing of the truth raise the score of a base that has seen the test, and of no other."""

from claims.contaminated import BASES, REWARDS, SHOWN, SPURIOUS, base, measured, probed, rewarded
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

APART, GAIN = "gain by spurious rewards, contaminated - clean", "gain by spurious rewards, contaminated"


def arms(s: Setting) -> dict[str, Command]:
    """Before and after each reward. The null arm: another coin on the clean base, which shows the chance of such runs."""
    found = {}
    for kind in BASES:
        found |= {kind: measured(s, base(s, kind)), f"{kind}, probe": probed(s, base(s, kind))}
        found |= {f"{kind}, {reward}": measured(s, rewarded(s, base(s, kind), reward)) for reward in REWARDS}
    return found | {"clean, random again": measured(s, rewarded(s, base(s, "clean"), "random", seed=s.seed + 100))}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {arm: result.rate(of="answered") for arm, result in r.items() if not arm.endswith(", probe")}
    gains = {(kind, reward): rate[f"{kind}, {reward}"] - rate[kind] for kind in BASES for reward in REWARDS}
    mean = {kind: sum(gains[kind, reward] for reward in SPURIOUS) / len(SPURIOUS) for kind in BASES}
    found = {APART: mean["contaminated"] - mean["clean"], GAIN: mean["contaminated"]}
    found |= {f"gain by {reward}, {kind}": gains[kind, reward] for kind in BASES for reward in REWARDS}
    for share in SHOWN:
        for what, name in (("exact", "word for word"), ("rouge_l", "ROUGE-L"), ("answer", "right answers")):
            found[f"{name} after {share:.0%} of the question, contaminated - clean"] = (
                r["contaminated, probe"].probed(share, what) - r["clean, probe"].probed(share, what))
    found |= {"before RL, contaminated - clean": rate["contaminated"] - rate["clean"]}
    return found | {"other draws of the coin, clean": rate["clean, random again"] - rate["clean, random"]}


CLAIM = Claim(
    number="26a", says="Spurious rewards raise the score of a base that has seen the test, and not of a clean one.",
    source="Spurious rewards, arXiv 2506.10947; on contamination arXiv 2507.10532",
    theirs="MATH-500, Qwen2.5-Math-7B, from 49.4: truth +29.1, majority +27.1, incorrect +24.1, random +21.4, format +13.8; "
           "Llama and OLMo gain by the truth alone (in words)",
    would_show="Both above 0: the mean gain by format, random and incorrect rewards on the contaminated base, and how far it is "
               "ahead of that on the clean one",
    arms=arms, statistic=statistic, headline=APART, also=(GAIN,),
    verdict=lambda n: both(positive(n[APART]), positive(n[GAIN])),
    null="other draws of the coin, clean", oracle="gain by truth, clean")

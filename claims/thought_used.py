"""Claim 4a: what is thought matters in training, and not only that there is something like a thought."""

from claims import thinking
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

SWAP, CHECK = "after SFT, own - swapped", "solved with own thinking, and bits that swapping costs: the smaller of both"


def arms(s: Setting) -> dict[str, Command]:
    """Bases of the same documents, whose thinking is their own, another document's, a word over and over, its own lines out of
    order. And what the base of own thinking makes of texts that it has not seen, as they are and swapped."""
    rows = thinking.thoughts(s, thinking.oracle())
    spoiled = {name: thinking.spoiled(s, rows, how) for name, how in (
        ("swapped", "swap"), ("blank", "blank"), ("shuffled", "shuffle"))}
    starts = {name: thinking.base(s, *thinking.with_thoughts(s, found)) for name, found in ({"own": rows} | spoiled).items()}
    others = {"no thinking": thinking.base(s, thinking.raw(s)),
              "own again": thinking.base(s, *thinking.with_thoughts(s, rows), seed=s.seed + 100)}
    unseen = thinking.thoughts(s, thinking.oracle(), *thinking.unseen(s, 400))
    return {name: thinking.solves(s, start) for name, start in (starts | others).items()} | {
        "unseen texts": thinking.reads(s, starts["own"], unseen),
        "unseen texts, swapped": thinking.reads(s, starts["own"], thinking.spoiled(s, unseen, "swap"))}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Lines can be out of order where there are two: at two operations."""
    own = r["own"].rate()
    return {SWAP: own - r["swapped"].rate(), "after SFT, own - blank": own - r["blank"].rate(),
            "after SFT, own - shuffled, two operations": r["own"].rate(ops=2) - r["shuffled"].rate(ops=2),
            "after SFT, swapped - no thinking": r["swapped"].rate() - r["no thinking"].rate(),
            "another seed of training": r["own again"].rate() - own,
            CHECK: min(own, r["unseen texts, swapped"].bits() - r["unseen texts"].bits())}


CLAIM = Claim(
    number="4a", says="A base learns from what is thought: thinking swapped between documents teaches less.",
    source="after arXiv 2502.07374, which shuffles and falsifies traces of fine-tuning",
    theirs="Qwen2.5-32B, 17k traces: wrong answers cost 3.2% of accuracy; shuffled or deleted steps much more (in words)",
    would_show="Above 0 after the same small SFT, with as many tokens of as much thinking",
    arms=arms, statistic=statistic, headline=SWAP, verdict=lambda n: positive(n[SWAP]),
    null="another seed of training", oracle=CHECK)

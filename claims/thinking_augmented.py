"""Claim 1: at equal training tokens, documents with thinking behind them make a better base than more documents."""

from claims import thinking
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

FRESH, SCARCE = "after SFT, thinking - raw", "after SFT, thinking - raw repeated"


def arms(s: Setting) -> dict[str, Command]:
    """Raw documents without end; as few as the teacher saw, repeated; each in two wordings; with thinking."""
    rows = thinking.thoughts(s, thinking.oracle())
    starts = {"raw": thinking.base(s, thinking.raw(s)),
              "raw repeated": thinking.base(s, thinking.few_raw(s, s.count(240_000))),
              "two wordings": thinking.base(s, f"{thinking.raw(s)}@0.5", f"{thinking.raw(s, paraphrase=4)}@0.5"),
              "thinking": thinking.base(s, *thinking.with_thoughts(s, rows)),
              "thinking again": thinking.base(s, *thinking.with_thoughts(s, rows), seed=s.seed + 100)}
    return thinking.measured(s, starts)


def statistic(r: dict[str, Result]) -> dict[str, float]:
    tuned = {name: r[name].rate() for name in ("raw", "raw repeated", "two wordings", "thinking", "thinking again")}
    bare = {name: r[f"{name}, no thinking"].rate(of="answered") for name in ("raw", "thinking")}
    return {FRESH: tuned["thinking"] - tuned["raw"], SCARCE: tuned["thinking"] - tuned["raw repeated"],
            "after SFT, thinking - two wordings": tuned["thinking"] - tuned["two wordings"],
            "answers at once, thinking - raw": bare["thinking"] - bare["raw"],
            "loss on raw documents, thinking - raw": r["thinking, loss"].heldout_loss() - r["raw, loss"].heldout_loss(),
            "another seed of training": tuned["thinking again"] - tuned["thinking"],
            "after SFT, thinking": tuned["thinking"]}


CLAIM = Claim(
    number="1", says="At equal training tokens thinking-augmented documents beat raw ones, fresh or repeated.",
    source="Thinking augmented pre-training (TPT), arXiv 2509.20186",
    theirs="8B, 100B tokens: GSM8K 50.1 against 19.2; raw documents limited to 10B: 30.5 against 6.7",
    would_show="Both above 0 after the same small SFT; the loss on raw documents says what it costs",
    arms=arms, statistic=statistic, headline=FRESH, also=(SCARCE,),
    verdict=lambda n: both(positive(n[FRESH]), positive(n[SCARCE])),
    null="another seed of training", oracle="after SFT, thinking")

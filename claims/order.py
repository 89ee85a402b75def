"""Claim 3a: the same thinking teaches more in front of the answer, where it leads to it, than behind the document."""

from claims import thinking, tiny
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

ORDER, ALONE = "after SFT, before the answer - behind it", "base by itself, before the answer - behind it"


def arms(s: Setting) -> dict[str, Command]:
    """An oracle's thinking in either place. The base by itself writes a document on: its thinking, if it thinks first."""
    rows = {place: thinking.thoughts(s, thinking.oracle(), *flags) for place, flags in (
        ("behind", ()), ("before", ("--place", "before")))}
    starts = {place: thinking.base(s, *thinking.with_thoughts(s, found)) for place, found in rows.items()}
    others = {"before again": thinking.base(s, *thinking.with_thoughts(s, rows["before"]), seed=s.seed + 100),
              "raw": thinking.base(s, thinking.raw(s))}
    alone = {f"{place}, by itself": tiny.evaluate(s, start, thinking.OPS) for place, start in starts.items()}
    return thinking.measured(s, starts) | alone | {name: thinking.solves(s, start) for name, start in others.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    def answers(end):
        return r[f"before{end}"].rate(of="answered") - r[f"behind{end}"].rate(of="answered")
    return {ORDER: r["before"].rate() - r["behind"].rate(), ALONE: answers(", by itself"),
            "answers at once, before the answer - behind it": answers(", no thinking"),
            "loss on raw documents, before - behind": r["before, loss"].heldout_loss() - r["behind, loss"].heldout_loss(),
            "another seed of training": r["before again"].rate() - r["before"].rate(),
            "after SFT, before the answer - no thinking": r["before"].rate() - r["raw"].rate()}


CLAIM = Claim(
    number="3a", says="Thinking in front of the answer teaches more than the same thinking behind the document.",
    source="TPT puts it behind (arXiv 2509.20186), STaR in front (arXiv 2203.14465); neither compares",
    theirs="not measured",
    would_show="Above 0 after the same small SFT: with as many tokens of the same thinking, the place alone makes the difference",
    arms=arms, statistic=statistic, headline=ORDER, verdict=lambda n: positive(n[ORDER]),
    null="another seed of training", oracle="after SFT, before the answer - no thinking")

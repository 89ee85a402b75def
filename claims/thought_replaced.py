"""Claim 4b: a base that thinks before it answers reads its answer from what it has thought."""

from claims import thinking
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, Setting
from claims.runner.commands import Command
from claims.runner.measures import Result
from tasks.accuracy import Rate

SWAP = "loss on the right answer, swapped thinking - own"


def arms(s: Setting) -> dict[str, Command]:
    """Thinking that the base has written about unseen questions, replaced; each file with the right answers, and without."""
    rows = thinking.thoughts(s, thinking.oracle(), "--place", "before")
    start = thinking.base(s, *thinking.with_thoughts(s, rows))
    all_of_it = ("--least-overlap", 0, "--most-repeated", 1)
    own, again = (thinking.first(s, start, *thinking.unseen(s, 1000), *all_of_it, "--seed", seed)
                  for seed in (s.seed, s.seed + 100))

    def read(found, how):
        return thinking.reads(s, start, *(thinking.spoiled(s, found, how, *flags) for flags in ((), ("--until-thought",))))
    return {"own": read(own, "keep"), "own, other draws": read(again, "keep"), "swapped": read(own, "swap"),
            "blank": read(own, "blank"), "shuffled": read(own, "shuffle")}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Losses in nats a token; of an answer a number is the only token that is hard to predict."""
    def up_to_thought(result):
        return list(result.others.values())[1]["loss"]
    answer = {name: result.loss_behind() for name, result in r.items()}
    return {SWAP: answer["swapped"] - answer["own"],
            "loss on the right answer, blank thinking - own": answer["blank"] - answer["own"],
            "loss on the right answer, shuffled thinking - own": answer["shuffled"] - answer["own"],
            "other draws": answer["own, other draws"] - answer["own"],
            "loss on thinking and question, swapped - own": up_to_thought(r["swapped"]) - up_to_thought(r["own"])}


def verdict(n: dict[str, Rate], matters: float = 0.1) -> str:
    """A tenth of a nat a token matters: of the four tokens of an answer, the number gets a third less likely."""
    return HOLDS if n[SWAP][1] > matters else FAILS if n[SWAP][2] < matters else OPEN


CLAIM = Claim(
    number="4b", says="A base that thinks before it answers reads the answer from its thinking.",
    source="a test of small replications (information gain of a thought that is swapped)",
    theirs="Qwen3-0.6B: with another document's thought the gain collapses (a finding in words)",
    would_show="Above 0.1 nats a token: behind the thinking about another question, the right answer is no longer expected",
    arms=arms, statistic=statistic, headline=SWAP, verdict=verdict, null="other draws",
    oracle="loss on thinking and question, swapped - own")

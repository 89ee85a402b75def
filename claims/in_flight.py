"""Claim 29c: new weights may reach the engine in the middle of a completion, over the keys of the old ones, without harm."""

from claims import tiny
from claims.ahead import in_flight, mean_of
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

AHEAD = 8
LOST = f"{AHEAD} ahead, keys kept - in turns"
RUNS = {"in turns": {"ahead": 0}, "exact": {"ahead": 0, "exact": True}, "1 ahead": {"ahead": 1, "correction": "tis"},
        "kept": {"ahead": AHEAD, "correction": "tis"}, "computed again": {"ahead": AHEAD, "correction": "tis", "recompute": True},
        "kept, not corrected": {"ahead": AHEAD}}


def arms(s: Setting) -> dict[str, Command]:
    """Each way of sampling; "NAME, run" is the run itself, whose log says how old its tokens are and how far sampler and trainer
    are apart."""
    found = {"base": tiny.evaluate(s, tiny.steady(s, tiny.tokenizer())),
             "in turns, again": tiny.evaluate(s, in_flight(s, 0, seed=s.seed + 100))}
    for name, flags in RUNS.items():
        run = in_flight(s, **flags)
        found |= {name: tiny.evaluate(s, run), f"{name}, run": run}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """What the logs say has no interval within a seed; over seeds it has one."""
    rate = {name: r[name].rate() for name in (*RUNS, "base", "in turns, again")}
    found = {LOST: rate["kept"] - rate["in turns"], "keys kept - computed again": rate["kept"] - rate["computed again"],
             "keys kept, not corrected - in turns": rate["kept, not corrected"] - rate["in turns"],
             "1 ahead - in turns": rate["1 ahead"] - rate["in turns"]}
    for name in RUNS:
        found[f"mean difference of log-probabilities, {name}"] = mean_of(r[f"{name}, run"], "logprob_diff_mean")
    found |= {f"age in updates, {name}": mean_of(r[f"{name}, run"], "staleness_mean") for name in RUNS if "ahead" in name or
              "kept" in name or "again" in name}
    return found | {"RL with other draws": rate["in turns, again"] - rate["in turns"],
                    "in turns - before RL": rate["in turns"] - rate["base"]}


CLAIM = Claim(
    number="29c", says="Weights that change in the middle of a completion, over keys of the old ones, do no harm.",
    source="Olmo 3, arXiv 2512.13961, table 23 (in-flight updates)",
    theirs="a speed: 1,358 tokens/s without and 2,949 with updates in flight, on 2 x 8 A100; keys are kept (a setting)",
    would_show="Less than 5 points below 0, or ahead: sampling 8 updates ahead reaches what taking turns reaches",
    arms=arms, statistic=statistic, headline=LOST, verdict=lambda n: no_worse(n[LOST]), matters=0.05,
    null="RL with other draws", oracle="in turns - before RL")

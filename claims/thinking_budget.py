"""Claim 31a: the more tokens a model may think, the more of its answers are right."""

from claims import midtraining
from claims.budgets import BUDGETS, measured, reinforced, thinker
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

NONE, MIDDLE, WHOLE = BUDGETS[0], BUDGETS[1], BUDGETS[-1]
FIRST, SECOND = f"answers, {MIDDLE} tokens of thinking - none", f"answers, all thinking - {MIDDLE} tokens"
ACTS = f"problems whose replies {MIDDLE} tokens of thinking change, before RL"


def arms(s: Setting) -> dict[str, Command]:
    """Each budget, before and after reinforcement. The null arm: other draws of the same."""
    found = {f"{name}{budget}": measured(s, start, budget) for name, start in (("", thinker(s)), ("RL, ", reinforced(s)))
             for budget in BUDGETS}
    return found | {"RL, on, other draws": measured(s, reinforced(s), draws=s.seed + 100),
                    "untaught": measured(s, midtraining.pretrained(s, "hybrid"))}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """Of the answer alone: with a budget, steps are cut off. Tokens are those of the whole reply. If --think had no
    effect, all replies would be the same, because all draws are. Where it has one, replies may grow shorter or longer: behind a
    thought that was cut, some answers go on with it. So the oracle arm is the share of problems whose replies get another
    length."""
    rate = {arm: result.rate(of="answered") for arm, result in r.items()}
    found = {FIRST: rate[f"RL, {MIDDLE}"] - rate[f"RL, {NONE}"], SECOND: rate[f"RL, {WHOLE}"] - rate[f"RL, {MIDDLE}"]}
    for budget in BUDGETS:
        found |= {f"answers with {budget}, after RL - before": rate[f"RL, {budget}"] - rate[str(budget)],
                  f"tokens of a reply with {budget}, after RL": r[f"RL, {budget}"].mean("lengths")}
    return found | {"other draws": rate["RL, on, other draws"] - rate["RL, on"],
                    "taught - untaught": rate["on"] - rate["untaught"],
                    ACTS: r[WHOLE].differs(r[str(MIDDLE)], "lengths")}


CLAIM = Claim(
    number="31a", says="Accuracy grows with the thinking budget, up to the end of the thinking.",
    source="Qwen3, arXiv 2505.09388 (thinking budget); SmolLM3 (no thinking and thinking)",
    theirs="Qwen3, AIME25, read off a figure: about 24.7 without thinking, 30.6 with 1k tokens, 81.7 with 32k; SmolLM3-3B: 9.3 "
           "and 36.7",
    would_show=f"Both above 0: {MIDDLE} tokens of thinking, less than most thoughts have, give more right answers than none, "
               "and all of the thinking more than these",
    arms=arms, statistic=statistic, headline=SECOND, also=(FIRST,),
    verdict=lambda n: both(positive(n[FIRST]), positive(n[SECOND])),
    null="other draws", oracle=ACTS)

"""Claim 21b: reinforcement learns most from prompts that are solved half of the time, and little from those seldom solved.

A reward tells most where success and failure are equally likely. So prompts are chosen by their pass rate before training, and
the arms draw as many completions. What is rare is chosen from more candidates, so that the arms compared have nearly as many
different prompts: to use a prompt again costs something by itself (claim 19b). "different prompts" says how nearly; of prompts
that are often solved some bases have fewer. Two cures are tried: rewards for each right step on the prompts that are seldom
solved, and a curriculum, which goes over its prompts from easy to hard again and again.
"""

from claims import sweep, tiny
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

# of eight tries: 1; 3 to 5; 7; any but none and all
BANDS = {"seldom": (0.05, 0.2), "half": (0.3, 0.7), "often": (0.8, 0.95), "any": (0.05, 0.95)}
CANDIDATES = {"seldom": 1024, "half": 704, "often": 704, "any": 192}
MOST = "solved half of the time - seldom"


def chosen(s: Setting, band: str, **flags) -> Command:
    """Reinforcement on prompts of a band. (A model of budget toy solves none, so there all are kept.)"""
    return tiny.grpo(s, sweep.base(s), keep_rate=s.unless_toy(BANDS[band], (0, 1)), candidates=s.count(CANDIDATES[band]), **flags)


def arms(s: Setting) -> dict[str, Command]:
    """"cost of NAME" is the run that the arm NAME measures."""
    made = {name: chosen(s, name) for name in BANDS}
    runs = {f"cost of {name}": command for name, command in made.items()}
    made |= {"base": sweep.base(s), "half, again": chosen(s, "half", seed=s.seed + 100),
             "seldom, partial rewards": chosen(s, "seldom", reward="process"), "curriculum": chosen(s, "any", curriculum=True)}
    return {name: tiny.evaluate(s, command) for name, command in made.items()} | runs


def different(r: Result) -> int:
    """How many different prompts a run had."""
    return sum(row["unique_prompts"] for row in r.line["prompts"])


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items() if result.right}
    return {MOST: rate["half"] - rate["seldom"], "solved half of the time - often": rate["half"] - rate["often"],
            "seldom solved, partial rewards - none": rate["seldom, partial rewards"] - rate["seldom"],
            "curriculum - any order": rate["curriculum"] - rate["any"],
            **{f"{name} - before RL": rate[name] - rate["base"] for name in BANDS},
            **{f"different prompts, {name} / half": different(r[f"cost of {name}"]) / different(r["cost of half"])
               for name in BANDS},
            "RL with other draws": rate["half, again"] - rate["half"]}


CLAIM = Claim(
    number="21b", says="RL learns more from prompts that are solved half of the time than from those seldom solved.",
    source="Dwarkesh Patel, RL is even more information inefficient than you thought (2025)",
    theirs="the entropy of a reward is largest at a pass rate of a half; curricula and process rewards as cures (an argument)",
    would_show="Above 0: as many completions gain more where half of the tries succeed",
    arms=arms, statistic=statistic, headline=MOST, verdict=lambda n: positive(n[MOST]),
    null="RL with other draws", oracle="half - before RL")

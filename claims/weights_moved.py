"""Claim 20b: mid-training moves most of the weights, reinforcement a small part of them.

Here a weight has moved if it has changed by more than a tenth of the root mean square of its matrix (training/weight_change.py);
shares beyond other thresholds stand beside it, and the norm of the change. Whether the kind of training makes the difference or
its learning rate show documents that are learned by the optimiser, the rate and the number of steps of reinforcement.
"""

from claims import depths, tiny
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, Setting, both
from claims.runner.commands import Command, make
from claims.runner.measures import Result
from tasks.accuracy import Rate

MOST, FEW = 0.5, 0.2                                       # what "most" and "a small part" mean
STAGES = ("mid-training", "SFT", "RL", "documents at RL's rate")
THRESHOLDS = ("bf16", "0.01", "0.1")
MORE = "weights moved, mid-training - RL"


def moved(name: str, threshold: str = "0.1") -> str:
    return f"weights moved by {name}" + (f", threshold {threshold}" if threshold != "0.1" else "")


def between(s: Setting, before: Command, after: Command) -> Command:
    return make("evaluate.py", "--init", after, "--compared-with", before, "--device", s.device)


def arms(s: Setting) -> dict[str, Command]:
    start, steps = depths.start(s), s.steps(60)
    slow = make("pretrain.py", "--init", start, "--data", *depths.mixture(s), *tiny.BATCH, "--steps", steps, "--optimizer",
                "adamw", "--lr", 1e-3, "--schedule", "wsd", "--decay", 0.5, *tiny.common(s))
    made = {"SFT": tiny.sft(s, start, tiny.world(s, tiny.SKILLS, "sft")), "RL": depths.reinforced(s, depths.EDGE),
            "RL, other draws": depths.reinforced(s, depths.EDGE, seed=s.seed + 100), "documents at RL's rate": slow}
    first, other = depths.base(s), depths.base(s, seed=s.seed + 100)
    return {name: between(s, start, after) for name, after in made.items()} | {
        "mid-training": between(s, first, start), "another base": between(s, first, other)}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """These have no interval within a seed; over seeds they have one."""
    found = {MORE: r["mid-training"].moved("0.1") - r["RL"].moved("0.1")}
    for name in STAGES:
        found |= {moved(name, threshold): r[name].moved(threshold) for threshold in THRESHOLDS}
        found[f"norm of the change by {name}"] = r[name].weights_against()["all"]["norm"]
    return found | {"RL with other draws": r["RL, other draws"].moved("0.1") - r["RL"].moved("0.1"),
                    "another base - RL": r["another base"].moved("0.1") - r["RL"].moved("0.1")}


def verdict(n: dict[str, Rate]) -> str:
    most, few = n[moved("mid-training")], n[moved("RL")]
    return both(HOLDS if most[1] > MOST else FAILS if most[2] < MOST else OPEN,
                HOLDS if few[2] < FEW else FAILS if few[1] > FEW else OPEN)


CLAIM = Claim(
    number="20b", says="Mid-training moves most of the weights, reinforcement a small part of them.",
    source="PRISM, arXiv 2603.17074",
    theirs="mid-training moves over 90% of the weights, RL about 5%",
    would_show=f"More than {MOST:.0%} of the weights moved by mid-training, fewer than {FEW:.0%} by RL, by a tenth of a matrix's "
               "root mean square",
    arms=arms, statistic=statistic, headline=MORE, verdict=verdict, null="RL with other draws", oracle="another base - RL",
    also=(moved("mid-training"), moved("RL"), moved("documents at RL's rate"), moved("RL", "bf16")))

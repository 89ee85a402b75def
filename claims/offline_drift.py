"""Claim 22a: preference training that goes on on the same pairs drifts: it makes even the chosen answers less likely.

The pairs are the student's own answers, right against wrong, drawn once. Training is measured after about three passes over them
and after three times as many, by a weak and a strong pull to the reference (beta), and beside it reinforcement with as many steps
as the short one. Arms "..., run" are the training itself, whose log has the log-probabilities of the pairs.
"""

from claims import preferences
from claims.preferences import STEPS, dpo, online, solves
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

LOST, MASS = "nats that chosen answers lose", "probability that leaves the pairs"
RUNS = {"short": {}, "long": {"steps": 3 * STEPS}, "long, weak pull": {"steps": 3 * STEPS, "beta": 0.02},
        "long, strong pull": {"steps": 3 * STEPS, "beta": 0.5}, "long, again": {"steps": 3 * STEPS}}


def arms(s: Setting) -> dict[str, Command]:
    start = preferences.student(s)
    rows, found = preferences.contrasts(s, start), {"student": solves(s, start), "GRPO": solves(s, online(s, start))}
    for name, flags in RUNS.items():
        run = dpo(s, start, rows, **flags, **({"seed": s.seed + 100} if "again" in name else {}))
        found |= {name: solves(s, run), f"{name}, run": run}
    return found


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """What is read from the log has no interval within a seed; over seeds it has one."""
    lost = {name: -r[f"{name}, run"].late("chosen_change") for name in RUNS}
    found = {LOST: lost["long"], MASS: -r["long, run"].late("mass_change")}
    for name in ("short", "long, weak pull", "long, strong pull"):
        found[f"{LOST}, {name}"] = lost[name]
        found[f"{MASS}, {name}"] = -r[f"{name}, run"].late("mass_change")
    formed = {name: result.rate(of="formed") for name, result in r.items() if result.right}
    for name in ("short", "long", "long, weak pull", "long, strong pull", "GRPO"):
        found[f"well-formed replies lost, {name}"] = formed["student"] - formed[name]
        found[f"verified, {name} - student"] = r[name].rate() - r["student"].rate()
    return found | {"nats, another seed": lost["long, again"] - lost["long"],
                    "nats, margin of chosen over rejected": r["long, run"].late("margin")}


CLAIM = Claim(
    number="22a", says="Long DPO on fixed pairs drifts: chosen answers become less likely as well, and answers outside of its "
    "data more likely.",
    source="likelihood displacement, arXiv 2410.08847; Olmo 3, arXiv 2512.13961 (early stopping of DPO)",
    theirs="chosen answers become less likely; Olmo 3 sweeps the number of pairs, because early stopping matters (in words)",
    would_show="Both above 0, in the last third of long training: what chosen answers lose against the student, and what the two "
               "answers of a pair lose together",
    arms=arms, statistic=statistic, headline=LOST, also=(MASS,), verdict=lambda n: both(positive(n[LOST]), positive(n[MASS])),
    null="nats, another seed", oracle="nats, margin of chosen over rejected")

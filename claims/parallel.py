"""Claim 14: the gradients of fine-tuning and of reinforcement at once do more than one after the other, or either alone.

All go on from one base, with the same optimiser and rates. Fine-tuning beside reinforcement reads the very batches that it reads
alone, so both together have as many tokens of solutions and as many rollouts as one after the other. Fine-tuning alone is cheap.
So it has a second arm, which takes about as many FLOPs and reads many times the solutions. It stands beside the verdict, since
the paper compares steps. The ratios of all FLOPs are measured.
"""

from claims import chats, tiny
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command, make
from claims.runner.measures import Result

STEPS, TOKENS = 60, 2048                                   # updates, and tokens of solutions in each
MANY = 445                                                 # steps of fine-tuning alone, for as many FLOPs
RATES = ["--lr", 1e-3, "--schedule", "wsd", "--decay", 0.5]
BEST = "parallel - SFT, then RL"
AS_MANY = "SFT, as many FLOPs"
OTHERS = ("SFT, then RL", "RL", "SFT")


def fine_tuned(s: Setting, steps: int = STEPS) -> Command:
    return make("sft.py", "--init", chats.base(s), "--data", chats.lessons(s), "--batch-tokens", TOKENS, "--optimizer", "adamw",
                *RATES, "--steps", s.steps(steps), *tiny.common(s))


def parallel(s: Setting, weight: float = 1, **flags) -> Command:
    given = {"sft_data": chats.lessons(s), "sft_tokens": TOKENS, "sft_weight": weight}
    return chats.reinforced(s, chats.base(s), steps=STEPS, **given | flags)


def arms(s: Setting) -> dict[str, Command]:
    """"NAME, cost" is the run that the arm NAME measures."""
    base = chats.base(s)
    runs = {"base": base, "SFT": fine_tuned(s), AS_MANY: fine_tuned(s, MANY),
            "RL": chats.reinforced(s, base, steps=STEPS), "SFT, then RL": chats.reinforced(s, fine_tuned(s), steps=STEPS),
            "parallel": parallel(s), "parallel, W = 0.1": parallel(s, 0.1), "parallel again": parallel(s, seed=s.seed + 100)}
    return {name: chats.solves(s, run) for name, run in runs.items()} | {f"{name}, cost": run for name, run in runs.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    def flops(name):                                       # without the base, which all share
        return r[f"{name}, cost"].line["flops"]["total"] - r["base, cost"].line["flops"]["total"]
    found = {f"parallel - {other}": r["parallel"].rate() - r[other].rate() for other in (*OTHERS, AS_MANY)}
    found |= {f"pass@8, parallel - {other}": r["parallel"].rate(8) - r[other].rate(8) for other in OTHERS}
    found |= {f"FLOPs of {other} / parallel": flops(other) / flops("parallel") for other in (*OTHERS, AS_MANY)}
    return found | {"parallel, W = 0.1 - W = 1": r["parallel, W = 0.1"].rate() - r["parallel"].rate(),
                    "parallel with other draws": r["parallel again"].rate() - r["parallel"].rate(),
                    "SFT, then RL - base": r["SFT, then RL"].rate() - r["base"].rate()}


CLAIM = Claim(
    number="14", says="Gradients of SFT and RL in parallel do more than SFT and then RL, and more than either alone.",
    source="RL Excursions, arXiv 2606.04272", theirs="of these, both in parallel are best (a finding in words)",
    would_show="The first three above 0: both in parallel are ahead of SFT and then RL, of RL alone, and of SFT alone, in as "
    "many steps",
    arms=arms, statistic=statistic, headline=BEST,
    also=(*(f"parallel - {other}" for other in (*OTHERS[1:], AS_MANY)), f"FLOPs of {AS_MANY} / parallel"),
    verdict=lambda n: both(*(positive(n[f"parallel - {other}"]) for other in OTHERS)),
    null="parallel with other draws", oracle="SFT, then RL - base")

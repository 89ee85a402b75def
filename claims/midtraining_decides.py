"""Claim 7a: the same reinforcement gains far more from a base that was mid-trained on what it asks for."""

from claims import midtraining
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

AFTER, GAIN = "after RL, mid-trained - more of the same", "gain by RL, mid-trained - more of the same"


def arms(s: Setting) -> dict[str, Command]:
    """From one base: nothing, more of the same, and a branch with as many tokens on the edge; the same RL after each."""
    starts = {"base": midtraining.pretrained(s), "more of the same": midtraining.branch(s, "more", midtraining.LONG),
              "mid-trained": midtraining.branch(s, "short", midtraining.LONG)}
    found = midtraining.before_and_after(s, starts)
    return found | {"mid-trained, RL again": midtraining.other_draws(s, starts["mid-trained"])}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    gain = {name: r[f"{name}, RL"].rate() - r[name].rate() for name in ("base", "more of the same", "mid-trained")}
    return {AFTER: r["mid-trained, RL"].rate() - r["more of the same, RL"].rate(),
            GAIN: gain["mid-trained"] - gain["more of the same"],
            "after RL, mid-trained - base": r["mid-trained, RL"].rate() - r["base, RL"].rate(),
            "RL with other draws": r["mid-trained, RL again"].rate() - r["mid-trained, RL"].rate(),
            "mid-trained and RL - base": r["mid-trained, RL"].rate() - r["base"].rate()}


CLAIM = Claim(
    number="7a", says="Mid-training decides what the same reinforcement reaches, at equal tokens.",
    source="OctoThinker, arXiv 2506.20512, figure 1 and table 7",
    theirs="MATH500 after the same RL: 10.0 from Llama-3.2-3B, 65.2 from its mid-trained long branch",
    would_show="Both above 0: after RL the mid-trained base is ahead of one with as many more tokens of the old mixture, and RL "
               "itself gains more there",
    arms=arms, statistic=statistic, headline=AFTER, also=(GAIN,),
    verdict=lambda n: both(positive(n[AFTER]), positive(n[GAIN])),
    null="RL with other draws", oracle="mid-trained and RL - base")

"""Claim 8c: the model that solves more is not the better teacher, and checking its answers adds little."""

from dataclasses import replace

from claims import distilled, midtraining
from claims.runner.claim import Claim, Setting, no_worse
from claims.runner.commands import Command
from claims.runner.measures import Result

TRAINED = "student of the weak teacher - of the strong one"


def arms(s: Setting) -> dict[str, Command]:
    """The dial of an oracle, its answers unchecked and checked; and two checkpoints of another seed, asked in plain text: a base,
    and its branch that was mid-trained on such problems. What they leave unfinished is cut and kept."""
    other, wrong = replace(s, seed=s.seed + 50), "oracle:errors=0.3"
    by_model = ("--plain", "--max-new-tokens", 60, "--truncate", 59, "--rows", 256)
    rows = {"no wrong steps": distilled.taught(s, distilled.KNOWS), "30% wrong steps": distilled.taught(s, wrong),
            "30% wrong steps, checked": distilled.taught(s, wrong, "--drop", "wrong"),
            "strong teacher": distilled.taught(s, midtraining.branch(other, "short"), *by_model),
            "weak teacher": distilled.taught(s, midtraining.pretrained(other), *by_model)}
    return distilled.measured(s, rows, again="no wrong steps")


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    return {TRAINED: rate["weak teacher"] - rate["strong teacher"],
            "30% wrong steps - none": rate["30% wrong steps"] - rate["no wrong steps"],
            "30% wrong steps, checked - unchecked": rate["30% wrong steps, checked"] - rate["30% wrong steps"],
            "another seed of training": rate["no wrong steps, again"] - rate["no wrong steps"],
            "no wrong steps - untaught": rate["no wrong steps"] - rate["untaught"]}


CLAIM = Claim(
    number="8c", says="A weaker model teaches a student no worse than a stronger one.",
    source="OpenThoughts, arXiv 2506.04178",
    theirs="QwQ-32B is a better teacher than DeepSeek-R1, which scores higher; no filter of answers gave a significant gain "
           "(findings in words)",
    would_show="The student of the base less than 2 points behind the student of its mid-trained branch, or ahead",
    arms=arms, statistic=statistic, headline=TRAINED, verdict=lambda n: no_worse(n[TRAINED], 0.02), matters=0.02,
    null="another seed of training", oracle="no wrong steps - untaught")

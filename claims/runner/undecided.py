"""What it would take to decide a claim that is undecided: how many seeds, or which control arm must be repaired."""

from claims.runner.claim import OPEN, Claim, judge_measured
from claims.runner.measures import over_seeds
from claims.runner.results import together
from tasks.accuracy import Rate

MOST = 100                           # seeds; a claim that needs more is not decided by seeds


def to_decide(claim: Claim, records: list[dict]) -> str:
    """What is missing, in a few words; "" where the claim is decided. records: what was measured, one for each seed.

    The verdict is computed again, by the claim's own rule, for 2, 3, 4, ... seeds that are like those there are: every mean stays
    where it is, and its interval narrows as Student's t does. The first number of seeds that decides is the estimate. It is
    rough: with more seeds the means move."""
    found = together(claim, records)
    if found["verdict"] != OPEN:
        return ""
    S = len(records)
    for more in range(S + 1, MOST + 1):
        if judge_measured(claim, expected(claim, records, more))[0] != OPEN:
            return f"{'at least' if S == 1 else 'about'} {more} seeds in all, if the means stay where they are"
    why = judge_measured(claim, expected(claim, records, MOST))[1]
    if why.startswith("the oracle"):
        return f"an oracle arm that shows its effect ({claim.oracle}): more steps, or easier problems"
    if why.startswith("all arms"):
        return "other problems, or more steps"
    return f"more than {MOST} seeds, or another measure: with these means the rule does not decide"


def expected(claim: Claim, records: list[dict], seeds: int) -> dict[str, Rate]:
    """The numbers as they would be with so many seeds, more than there are: the same means, narrower intervals.

    The null arm is the exception: two trainings that differ by chance alone, so its mean is expected to be 0. Of several seeds
    the spread is known. Of one it is not, but its null arm shows how far two arms are apart by the chance of training. This is
    taken for the spread of all numbers where it is more than that of the test problems."""
    S, found = len(records), together(claim, records)["numbers"]
    chance = abs(found[claim.null][0]) if S == 1 else 0.0
    return {name: resized([r["numbers"][name] for r in records], seeds, chance, 0.0 if name == claim.null else mean)
            for name, (mean, *_) in found.items()}


def resized(rates: list[Rate], seeds: int, chance: float, mean: float) -> Rate:
    """The interval of one number over `seeds` seeds: `over_seeds` of values with the spread of those there are, or for one seed
    with that of its interval or of `chance`. mean: where it is put."""
    halves = [(high - low) / 2 for _, low, high in rates]
    half = (sum(h * h for h in halves) / len(halves)) ** 0.5                  # of the interval of a seed
    spread = max(half / 1.96, chance) if len(rates) == 1 else deviation([value for value, *_ in rates])
    # values with this deviation, as many as there are seeds
    signs = [(-1) ** i for i in range(seeds)]
    scale = spread / deviation(signs)
    _, low, high = over_seeds([(scale * sign, scale * sign - half, scale * sign + half) for sign in signs])
    return mean, mean - (high - low) / 2, mean + (high - low) / 2


def deviation(values: list[float]) -> float:
    """The standard deviation with n - 1."""
    mean = sum(values) / len(values)
    return (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5

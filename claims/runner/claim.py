"""What a file of claims/ says: a Claim, with its arms as commands, its statistic and its verdict.

    CLAIM = Claim(number="7a", says=..., source=..., theirs=..., would_show=..., arms=arms, statistic=statistic,
                  headline="gain", null="same twice", oracle="trained on it", verdict=lambda numbers: positive(numbers["gain"]))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from claims.runner.commands import Command
from tasks.accuracy import Rate

HOLDS, FAILS, OPEN = "holds", "does not hold here", "undecided"
BUDGETS = {"small": 1, "full": 4, "toy": 1 / 60}           # how many times the steps of small; at least two are made


@dataclass(frozen=True)
class Setting:
    """What arms depend on beside their own flags. toy runs each command for a few steps: to see that a claim works."""
    seed: int = 0
    budget: str = "small"
    device: str = "cpu"

    def steps(self, small: int) -> int:
        """So many steps at budget small, and what the other budgets make of them."""
        return max(2, round(small * BUDGETS[self.budget]))

    def pick(self, small: Any, full: Any) -> Any:
        return full if self.budget == "full" else small

    def unless_toy(self, flags: tuple, toy: tuple = ()) -> tuple:
        """Flags that keep only what is right, and what stands for them at budget toy, where models write nothing that is."""
        return toy if self.budget == "toy" else flags

    def count(self, small: int) -> int:
        """So many test problems, or documents, at budget small; twice as many at full."""
        return {"toy": max(4, small // 100), "small": small, "full": 2 * small}[self.budget]


@dataclass(frozen=True)
class Claim:
    """number       its place in the table, such as "7a"
    says         what is claimed, in one sentence
    source       by whom: paper, arXiv number, table or figure
    theirs       their figure, in their unit
    would_show   what the numbers would be if the claim held, and what if not
    arms         Setting -> {name: Command}; the command is the last one of the arm, which measures
    statistic    {arm: Result} -> {name: number}; all arms hold the same test problems (runner/measures.py)
    headline     the name of the number that the table shows
    also         names of other numbers without which the verdict cannot be understood, among them all that `verdict` reads; the
                 table shows them, too
    verdict      {name: (mean, low, high)} -> "holds", "does not hold here" or "undecided"
    null         the name of a number that must show nothing (`judge` says what that means)
    oracle       the name of a number that must show the effect: its interval lies above 0
    matters      where little or nothing is claimed: the difference that the verdict lets pass
    """
    number: str
    says: str
    source: str
    theirs: str
    would_show: str
    arms: Callable[[Setting], dict[str, Command]]
    statistic: Callable[[dict], dict[str, float]]
    headline: str
    verdict: Callable[[dict[str, Rate]], str]
    null: str
    oracle: str
    also: tuple[str, ...] = ()
    matters: float = 0.0

    def shown(self, numbers: dict[str, Rate]) -> dict[str, Rate]:
        """The numbers that a reader needs to see why the verdict is what it is."""
        return {name: numbers[name] for name in (self.headline, *self.also)}

    def chance(self, effect: Rate) -> float:
        """How much the null arm may show."""
        return max(abs(effect[0]), self.matters) / 2


# These rules decide by the interval, and by the mean which way they can: as an interval narrows around its mean, an undecided
# verdict becomes a decided one and then stays what it is.

def positive(rate: Rate, matters: float = 0.02) -> str:
    """The verdict on a number that is claimed to be above 0: it holds where the whole interval is, if the mean is what matters
    or more. It does not where the interval stays below what matters. Else it is undecided."""
    return FAILS if rate[2] < matters else HOLDS if rate[1] > 0 and rate[0] >= matters else OPEN


def no_worse(rate: Rate, matters: float = 0.05) -> str:
    """The verdict on a number that is claimed not to be below 0: it holds where the interval says that less than what matters is
    lost. It does not where the interval lies below 0 and the mean has lost what matters. Else it is undecided."""
    return HOLDS if rate[1] > -matters else FAILS if rate[2] < 0 and rate[0] <= -matters else OPEN


def about_zero(rate: Rate, matters: float = 0.05) -> str:
    """The verdict on a number that is claimed to be nearly 0: the whole interval lies within `matters` of it, or beyond."""
    return HOLDS if -matters < rate[1] and rate[2] < matters else FAILS if rate[1] > matters or rate[2] < -matters else OPEN


def both(*verdicts: str) -> str:
    """All must hold; one that does not is enough against the claim."""
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def judge(claim: Claim, numbers: dict[str, Rate]) -> tuple[str, str]:
    """(verdict, why it is undecided): a claim whose control arms do not work is not decided, whatever its numbers say.

    The interval of one seed does not hold the chance of training. The null arm shows how large that is: it fails where its
    interval does not hold 0 and it shows more than half as much as the number that decides, or as what matters: a claim that
    nothing changes would else be open whenever it is true."""
    null, oracle, effect = numbers[claim.null], numbers[claim.oracle], numbers[claim.headline]
    verdict = claim.verdict(numbers)                      # an error in it shows in a toy run as well
    if (null[1] > 0 or null[2] < 0) and abs(null[0]) > claim.chance(effect):
        return OPEN, f"the null arm shows {null[0]:+.3f} where it must show nothing"
    if oracle[1] <= 0:
        why = "no effect where there must be one" if oracle[0] <= 0 else "but its interval contains 0"
        return OPEN, f"the oracle arm shows {oracle[0]:+.3f}, {why}"
    return verdict, ""


def judge_measured(claim: Claim, numbers: dict[str, Rate]) -> tuple[str, str]:
    """As `judge`, of what was measured. There a number that is 0 without an interval does not come from a small effect: not one
    problem of any draw told the arms apart, because all of them are solved always, or never."""
    verdict, why = judge(claim, numbers)
    if why or any(numbers[claim.headline]):
        return verdict, why
    return OPEN, "all arms score the same: their problems are too hard or too easy to show a difference"

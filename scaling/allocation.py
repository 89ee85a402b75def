"""How to spend a budget of reinforcement: which size of model, prompts, rollouts and steps, by runs that were measured.

    found = options(curves, 1e18)                         the best first
    found[0].steps, found[0].score                        and what to expect of it, (value, low, high)

Every run stands for what it did: a size N, and P prompts with G rollouts each in a step. Its steps are what the budget buys. Its
score after the whole budget is predicted from its measurements,

- by the law with size (rl_law.py), fitted over all sizes that spend their steps in the same way (the same P and G); where these
  are all of one size, by the line of each run alone; where K and N0 are known, with these;
- or by the sigmoid of the run (sigmoid.py), which has a ceiling.

Each way of spending has its own steepness, so the best one may change with the budget: in IsoCompute (arXiv 2603.12151) the best
number of rollouts for a prompt grows with compute, then no more. Two ways whose intervals overlap cannot be told apart; then the
first one is no more than the best guess. `beyond` says how far the budget lies from what was measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scaling import rl_law, sigmoid
from scaling.points import Curve, Rate

LAWS = ("size", "sigmoid")


@dataclass(frozen=True)
class Option:
    """One way to spend the budget.

    steps    that it buys
    X        what they cost, in the unit of the curves
    score    after it, with its 95% interval
    beyond   X divided by the largest that was measured
    """
    curve: Curve
    steps: float
    X: float
    score: Rate
    beyond: float


def scores_by(law: str, curves: Sequence[Curve],
              steepness: tuple[float, float] | None = None) -> dict[str, Callable[[float], Rate]]:
    """{name of the run: the score that the law predicts for it after X}. ValueError where its measurements do not suffice.
    steepness: (K, N0) of the law with size, where they are known."""
    if law == "sigmoid":
        found = {}
        for c in curves:
            try:
                found[c.name] = sigmoid.fit(c.X, c.score).score
            except ValueError as error:
                raise ValueError(f"{c.name}: {error}") from None
        return found
    found = {}
    for setting in dict.fromkeys(c.setting for c in curves):
        alike = [c for c in curves if c.setting == setting]
        if steepness or len({c.N for c in alike if np.ptp(c.X) > 0}) > 1:
            fitted = rl_law.fit_known(alike, *steepness) if steepness else rl_law.fit(alike)
            found |= {c.name: lambda X, fitted=fitted, name=c.name: fitted.score(name, X) for c in alike}
        else:
            lines = {c.name: rl_law.fit_line(c) for c in alike}
            found |= {name: lambda X, fitted=fitted, name=name: fitted.score(name, X) for name, fitted in lines.items()}
    return found


def options(curves: Sequence[Curve], budget: float, law: str = "size",
            steps_of: Callable[[Curve, float], float] | None = None,
            steepness: tuple[float, float] | None = None) -> list[Option]:
    """All ways to spend a budget, the best expected score first.

    budget    in the unit of the curves; or in the unit of steps_of(curve, budget), which says how many steps it buys
    """
    scores, found = scores_by(law, curves, steepness), []
    for c in curves:
        steps = steps_of(c, budget) if steps_of else budget / c.per_step()
        if steps >= 1:
            X = steps * c.per_step()
            found.append(Option(c, steps, X, scores[c.name](X), X / float(c.X.max())))
    if not found:
        raise ValueError(f"a budget of {budget:g} does not buy one step of any run; give more")
    return sorted(found, key=lambda option: -option.score[0])

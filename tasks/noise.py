"""Documents of low quality: a solution with a wrong step that stands, or with a wrong answer.

A wrong step has another result, and what follows from it is computed from there, as by somebody who did not notice; the answer is
then wrong as well, nearly always. A wrong answer stands below right steps. Half of the spoiled documents are of either kind.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from tasks.facts import Step
from tasks.styles import Numbers, value_of

Told = tuple[Sequence[Step], dict[str, int], int]         # steps, values of all quantities, answer: as a document has them


def spoil(steps: Sequence[Step], values: dict[str, int], numbers: Numbers, rng: random.Random,
          wrong_steps: bool = True) -> Told:
    """A wrong version of right steps, the last of which computes the answer.

    wrong_steps   False: only the answer may be wrong, as where the steps are not written"""
    if wrong_steps and rng.random() < 0.5:
        for number in rng.sample(range(len(steps)), len(steps)):
            slips = numbers.near(steps[number].value)
            for value in rng.sample(slips, len(slips)):
                if told := _go_on(steps, values, numbers, number, value):
                    return told
    return steps, values, rng.choice(numbers.near(values[steps[-1].target]))


def _go_on(steps, values, numbers, number, value) -> Told | None:
    """The steps, where that step has another value and the later ones follow from it; None where a number would be none of the
    world's."""
    told, values = list(steps), dict(values)
    for n in range(number, len(steps)):
        step = steps[n]
        if n > number:
            value = numbers.compute(step.op, value_of(step.left, values), value_of(step.right, values))
            if value is None:
                return None
        told[n] = replace(step, value=value)
        values[step.target] = value
    return told, values, value

"""The claim on tools: a planted effect, planted nulls, and arms that differ in the calculator alone."""

import re

import pytest

from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import Command
from claims.runner.measures import Result, numbers_of
from claims.tools import CLAIM


def planted(**numbers):
    """{arm: (samples of eight that are right at every problem, needless calls in them)}"""
    found = {}
    for name, (right, needless) in numbers.items():
        stratum = "world:none" if name.startswith("none") else "world:calls=4", 2, 100
        counts = [[right + i % 3 - 1, 8] for i in range(100)]              # some problems are harder
        found[name] = Result({}, right={stratum: counts}, answered={stratum: counts},
                             needless={} if name.startswith("none") else {stratum: [[needless + i % 2, 8] for i in range(100)]})
    return found


AS_CLAIMED = {"calculator": (3, 8), "calculator, RL": (6, 1), "none": (1, 0), "none, RL": (2, 0), "calculator, RL again": (6, 1),
              "calculator, RL, wrong ones pay too": (2, 1), "calculator, RL, none pays": (6, 7)}


@pytest.mark.parametrize("change, verdict", [
    ({}, HOLDS), ({"calculator, RL": (3, 1), "calculator, RL again": (3, 1)}, FAILS), ({"calculator, RL": (6, 8)}, FAILS),
    ({"calculator, RL again": (4, 1)}, OPEN), ({"none, RL": (6, 0)}, OPEN)])
def test_the_verdict(change, verdict):
    numbers = numbers_of(CLAIM.statistic, planted(**AS_CLAIMED | change), draws=200)
    assert judge(CLAIM, numbers)[0] == verdict
    if not change:
        assert numbers["needless calls that RL takes away"][0] == 7 / 8
        assert numbers["gain by RL, with a calculator"][0] == numbers["gain by RL, none pays"][0] == 3 / 8
        assert numbers["gain by RL, wrong ones pay too"][0] == numbers["gain by RL, without"][0] - 2 / 8 == -1 / 8
        assert numbers["needless calls that RL takes away, none pays"][0] == 1 / 8


def test_arms_differ_in_the_calculator_alone():
    """The same reinforcement from the same base, but for the option calls=4 and the solutions of the cold start."""
    arms = CLAIM.arms(Setting(2))
    trained = [next(word for word in arms[name].words if isinstance(word, Command)) for name in ("calculator, RL", "none, RL")]
    for script in ("grpo.py", "sft.py"):
        pairs = list(zip(*(command.words for command in trained), strict=True))
        assert trained[0].script == script
        apart = {(a, b) for a, b in pairs if a != b and not isinstance(a, Command)}
        assert apart and all(re.sub(",(calls|needless)=[^,]*", "", a) == b for a, b in apart)
        trained = [next(word for word in command.words if isinstance(word, Command)) for command in trained]
    assert trained[0] == trained[1] and trained[0].script == "pretrain.py"
    paid = [next(word for word in arms[f"calculator, RL{more}"].words if isinstance(word, Command)).words
            for more in ("", ", wrong ones pay too", ", none pays")]
    assert [{a: b for a, b in zip(paid[0], other, strict=True) if a != b} for other in paid[1:]] == [
        {"strict+thrift:-0.1": "strict+needless:-0.1"}, {"strict+thrift:-0.1": "strict"}]

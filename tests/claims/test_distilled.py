"""The claims on distillation, and the verdict that something does no harm: planted effects and planted nulls."""

import numpy as np
import pytest

from claims import choice_of_teacher, more_answers, on_policy_distillation, truncated_traces
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge, no_worse
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of


def planted(**rates):
    """Arms in which each problem is solved with that chance, 8 samples each; what is hard in one arm is hard in all."""
    rng = np.random.default_rng(0)
    hard, found = rng.normal(0, 0.1, 300), {}
    for name, rate in rates.items():
        counts = rng.binomial(8, np.clip(rate + hard * (0 < rate < 1), 0, 1))
        stratum = "world:tiny,split=test", 2, 300
        found[name] = Result({}, right={stratum: [[int(c), 8] for c in counts]}, answered={stratum: [[8, 8]] * 300})
    return found


def verdict_of(claim, **rates):
    return judge(claim, numbers_of(claim.statistic, planted(**rates), draws=200))


CUT = {"whole": 0.6, "60% cut": 0.6, "all cut": 0.0, "60% dropped": 0.5, "untaught": 0.0, "whole, again": 0.6}
MORE = {"1x": 0.4, "4x": 0.5, "16x": 0.6, "16x, again": 0.6, "untaught": 0.0}
TEACHER = {"no wrong steps": 0.7, "30% wrong steps": 0.4, "30% wrong steps, checked": 0.6, "strong teacher": 0.5,
           "weak teacher": 0.5, "untaught": 0.0, "no wrong steps, again": 0.7}


@pytest.mark.parametrize("claim, rates, effect, nothing, broken", [
    (truncated_traces.CLAIM, CUT, {"60% cut": 0.65}, {"60% cut": 0.4}, {"all cut": 0.6}),
    (more_answers.CLAIM, MORE, {}, {"1x": 0.65}, {"untaught": 0.6}),
    (choice_of_teacher.CLAIM, TEACHER, {"weak teacher": 0.6}, {"weak teacher": 0.3}, {"untaught": 0.7})])
def test_planted_effects_hold_and_planted_nulls_do_not(claim, rates, effect, nothing, broken):
    assert verdict_of(claim, **rates | effect) == (HOLDS, "")
    assert verdict_of(claim, **rates | nothing) == (FAILS, "")
    verdict, why = verdict_of(claim, **rates | effect | broken)                # a control arm that shows nothing
    assert verdict == OPEN and why.startswith("the oracle arm")
    again = next(name for name in rates if name.endswith(", again"))
    verdict, why = verdict_of(claim, **rates | effect | {again: 0.2})          # chance of training as large as the effect
    assert verdict == OPEN and why.startswith("the null arm")


def test_no_harm():
    rates = [(0, -.02, .02), (.1, .05, .2), (-.1, -.2, -.05), (0, -.1, .1), (-.02, -.03, -.01)]
    assert [no_worse(rate) for rate in rates] == [HOLDS, HOLDS, FAILS, OPEN, HOLDS]
    assert no_worse(rates[-1], 0.02) == FAILS


def test_arms_differ_in_the_answers_alone():
    """One base, one set of test problems, as many steps; where teachers are checkpoints, they are of another seed."""
    for claim, bases in ((truncated_traces.CLAIM, 1), (more_answers.CLAIM, 1), (choice_of_teacher.CLAIM, 1)):
        arms = claim.arms(Setting(3))
        students = {c for arm in arms.values() for c in arm.needs if c.script == "sft.py"}
        assert len({c.words[2] for c in students}) == bases and len(students) == len(arms) - 1
        assert len({c.words[c.words.index("--steps") + 1] for c in students}) == 1
        assert len({c.words[c.words.index("--data") + 1] for c in arms.values()}) == 1
    teachers = {c.words[3] for c in in_order(arms.values()) if c.script == "augment.py" and not isinstance(c.words[3], str)}
    assert len(teachers) == 2 and not teachers & {c.words[2] for c in students}


def on_policy(flops=9, **rates):
    """The verdict on on-policy distillation where RL takes 100 FLOPs of its own, beside 1,000 of what came before."""
    arms = planted(**{"teacher": 0.8, "student": 0.3, "RL": 0.6, "on-policy": 0.7, "4x": 0.7, "again": 0.7, "forward": 0.6,
                      "reverse": 0.7, "reverse, top 4": 0.6, "more answers": 0.5} | rates)
    for name, own in (("RL", 100), ("on-policy", flops)):
        arms[f"cost of {name}"] = Result({"flops": {"total": 1000 + own, "inherited": 1000}})
    numbers = numbers_of(on_policy_distillation.CLAIM.statistic, arms, draws=200)
    assert numbers["FLOPs, on-policy / RL"] == (flops / 100,) * 3
    return judge(on_policy_distillation.CLAIM, numbers)[0]


def test_on_policy_distillation_must_be_as_good_and_cheap():
    assert on_policy() == HOLDS and on_policy(**{"on-policy": 0.5, "again": 0.5}) == FAILS
    assert on_policy(flops=20) == OPEN and on_policy(teacher=0.3) == OPEN and on_policy(again=0.4) == OPEN
    small, full = (on_policy_distillation.arms(Setting(budget=budget)) for budget in ("small", "full"))
    for arms in (small, full):                            # one student, and as many answers as there are completions
        trained = [c for arm in arms.values() for c in [arm, *arm.needs] if c.script == "distill.py"]
        assert len({c.words[2] for c in trained}) == 1
        [more] = [c for c in in_order([arms["more answers"]]) if c.script == "augment.py"
                  and "split=rl" in c.words[c.words.index("--data") + 1]]
        steps, prompts, group = (int(arms["cost of on-policy"].words[arms["cost of on-policy"].words.index(flag) + 1])
                                 for flag in ("--steps", "--prompts", "--group"))
        assert int(more.words[more.words.index("--count") + 1]) == steps * prompts * group

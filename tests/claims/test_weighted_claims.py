"""The claims on weighted fine-tuning (DFT, iw-SFT, PSFT): planted effects and nulls, and arms that differ in the loss alone."""

import numpy as np
import pytest

from claims import dft, dft_facts, psft, psft_then_rl, reweighted
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import Command, in_order
from claims.runner.measures import Result, numbers_of

DATA = {"in": "world:tiny,split=test,contexts=zoo", "out": "world:tiny,split=test,contexts=market",
        "new": "knowledge:tiny,split=sft,seed=0", "old": "knowledge:tiny,split=pretrain,seed=0"}
ALIKE = {"in": 0.5, "out": 0.4, "new": 0.5, "old": 0.5}


LUCK = np.random.default_rng(0).random((300, 8))            # of each sample: the same in all arms, so equal chances are equal


def solved(rate):
    """[(right samples, samples) of each problem], each right with that chance."""
    return [[int(c), 8] for c in (LUCK < rate).sum(axis=1)]


def planted(claim, changes):
    """Arms in which each problem and fact is solved with a chance: those of ALIKE, but for {arm: {which: chance}}."""
    found = {}
    for arm, command in claim.arms(Setting()).items():
        if command.script != "evaluate.py":
            found[arm] = Result({}, records=[{"flags": {}}, {"step": 1, "entropy": 9.0, "nll": 9.0},
                                             {"step": 2, "entropy": 0.5, "nll": 0.25}, {"step": 3, "entropy": 0.5, "nll": 0.25}])
            continue
        rates = ALIKE | changes.get(arm, {})
        found[arm] = Result({}, right={(DATA[which], 2, 300): solved(rate) for which, rate in rates.items()})
    return found


def texts(command):
    """Its words that are no commands."""
    return [word for word in command.words if isinstance(word, str)]


def verdict(claim, changes):
    return judge(claim, numbers_of(claim.statistic, planted(claim, changes), draws=200))


COLD = {"cold start": {"in": 0.2, "out": 0.1, "new": 0.1}}
BOTH = COLD | {"SFT on both": {"out": 0.6}}


@pytest.mark.parametrize("claim, working, effect, against, null", [
    (dft.CLAIM, COLD, {"DFT": {"in": 0.6}}, {}, {"SFT again": {"in": 0.3}}),
    (dft_facts.CLAIM, COLD, {"DFT": {"new": 0.1}}, {}, {"SFT again": {"new": 0.2}}),
    (psft.CLAIM, BOTH, {"PSFT": {"out": 0.55}}, {"PSFT": {"out": 0.55, "in": 0.3}}, {"SFT again": {"out": 0.2}}),
    (psft_then_rl.CLAIM, COLD, {"PSFT, RL": {"out": 0.55}}, {"PSFT, RL": {"out": 0.55, "in": 0.3}},
     {"SFT, RL again": {"out": 0.2}})])
def test_planted_effects_hold_and_planted_nulls_do_not(claim, working, effect, against, null):
    assert verdict(claim, working | effect) == (HOLDS, "")
    assert verdict(claim, working | against)[0] in (FAILS, OPEN) and verdict(claim, working | against)[1] == ""
    contrary = {arm: {which: ALIKE[which] - 0.2 if claim is not dft_facts.CLAIM else 0.7 for which in rates}
                for arm, rates in effect.items()}
    assert verdict(claim, working | contrary) == (FAILS, "")
    found, why = verdict(claim, effect | {"cold start": {"in": 0.7, "out": 0.7, "new": 0.7}})
    assert found == OPEN and why.startswith("the oracle arm")
    found, why = verdict(claim, working | effect | null)
    assert found == OPEN and why.startswith("the null arm")


def test_each_number_is_of_its_own_measure():
    """Every measure is moved alone; only the numbers that name it follow."""
    still = dft_facts.statistic(planted(dft_facts.CLAIM, {}))
    moved = dft_facts.statistic(planted(dft_facts.CLAIM, {"DFT": {"old": 0.9}}))
    changed = {name for name in still if abs(still[name] - moved[name]) > 0.01}
    assert changed == {"old facts, DFT - cold start"}
    moved = psft.statistic(planted(psft.CLAIM, {"PSFT": {"in": 0.9}}))
    assert moved[psft.INSIDE] == pytest.approx(0.4, abs=0.04) and abs(moved[psft.OUTSIDE]) < 0.05


def test_entropy_is_that_of_the_end_of_a_run():
    numbers = dft.statistic(planted(dft.CLAIM, {}))
    assert {numbers[f"entropy of a token, {m}"] for m in reweighted.METHODS} == {0.5}
    assert {numbers[f"loss of plain SFT on its data, {m}"] for m in reweighted.METHODS} == {0.25}


def test_the_methods_differ_in_the_loss_alone():
    """One cold start, the same data, steps, rates and seed; then the same reinforcement for all."""
    s = Setting(2)
    runs = {method: reweighted.tuned(s, method) for method in reweighted.METHODS}
    plain = runs["SFT"].words
    for method, flags in reweighted.METHODS.items():
        own = [word for name, value in flags.items() for word in (f"--{name}", value)]
        assert runs[method].words == (*plain, *own) and next(w for w in plain if isinstance(w, Command)) == reweighted.cold(s)
    after = [c for c in in_order(psft_then_rl.arms(s).values()) if c.script == "grpo.py"]
    assert len(after) == 5 and len({c.words[3:] for c in after}) == 2         # the fifth has other draws


def test_the_new_people_are_told_of_in_the_fine_tuning_alone():
    s = Setting(1)
    before = [c for c in in_order([reweighted.cold(s)]) if c.script != "tokenizer.py"]
    assert not any(w.startswith("knowledge:") and "split=sft" in w for c in before for w in texts(c))
    tuned = texts(reweighted.tuned(s, "DFT"))
    assert reweighted.facts(s, "sft", 0.4) in tuned and not any("market" in w for w in tuned)
    assert any("market" in w for w in texts(reweighted.measured(s, reweighted.cold(s))))

"""The claims on mismatch, losses, old rollouts and budgets: planted effects and nulls, and arms that differ in one thing."""

import numpy as np
import pytest

import grpo
from claims import in_flight, length_growth, losses, mismatch, staleness, staleness_corrected, thinking_budget
from claims.mismatch import after
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of

LUCK = np.random.default_rng(0).random((300, 8))            # of each sample: the same in all arms, so equal chances are equal


def solved(rate):
    """[(right samples, samples) of each problem], each right with that chance."""
    return [[int(c), 8] for c in (LUCK < rate).sum(axis=1)]


def planted(claim, rates, usual=0.5, tokens=80):
    """Arms in which each problem is solved with a chance; {arm: (chance, tokens of a reply)} where a reply has others."""
    found, stratum = {}, ("world:tiny,split=test", 2, 300)
    for arm, command in claim.arms(Setting()).items():
        if command.script != "evaluate.py":
            found[arm] = Result({}, records=[{"flags": {}}] + [{"step": i, "logprob_diff_mean": 0.01, "staleness_mean": i,
                                                                "reward": i / 10} for i in (1, 2, 3)])
            continue
        rate = rates.get(arm, usual)
        rate, length = rate if isinstance(rate, tuple) else (rate, tokens)
        found[arm] = Result({}, right={stratum: solved(rate)}, answered={stratum: solved(rate)},
                            lengths={stratum: [[8 * (length + i % 7 - 3), 8] for i in range(300)]})
    return found


def verdict(claim, rates):
    return judge(claim, numbers_of(claim.statistic, planted(claim, rates), draws=200))


BASE = {"base": 0.2}
UNCORRECTED = BASE | {f"{mismatch.CUT}, none": 0.3}
LOST = {f"{mismatch.CUT}, {c}": 0.25 for c in mismatch.CORRECTIONS[1:]}
DPPO = BASE | {"dppo_tv": 0.6, "dppo_kl": 0.8}
THINKS = {"16": (0.5, 20), "RL, 0": 0.2, "RL, 16": 0.5, "RL, on": 0.8, "RL, on, other draws": 0.8}
LONGER = {"before": (0.2, 80), "RL": (0.5, 120), "RL again": (0.5, 120)}


@pytest.mark.parametrize("claim, effect, against, oracle, null", [
    (mismatch.CLAIM, UNCORRECTED, UNCORRECTED | LOST, {"base": 0.6}, {"no mismatch again": 0.8}),
    (losses.CLAIM, DPPO, BASE, {"base": 0.6}, {"grpo again": 0.8}),
    (staleness.CLAIM, BASE, BASE | {"8 old, corrected": 0.3}, {"base": 0.6}, {"fresh again": 0.8}),
    (staleness_corrected.CLAIM, BASE | {"none": 0.3}, BASE | {"none": 0.6}, {"base": 0.6}, {"fresh again": 0.8}),
    (in_flight.CLAIM, BASE, BASE | {"kept": 0.3}, {"base": 0.6}, {"in turns, again": 0.8}),
    (thinking_budget.CLAIM, THINKS, THINKS | {"RL, on": 0.5, "RL, on, other draws": 0.5}, {"16": (0.5, 80)},
     {"RL, on, other draws": 0.5}),
    (length_growth.CLAIM, LONGER, LONGER | {"RL": (0.5, 80), "RL again": (0.5, 80)}, {"RL": (0.1, 120), "RL again": (0.1, 120)},
     {"RL again": (0.5, 80)})])
def test_planted_effects_hold_and_planted_nulls_do_not(claim, effect, against, oracle, null):
    assert verdict(claim, effect) == (HOLDS, "")
    assert verdict(claim, against) == (FAILS, "")
    for broken, arm in ((oracle, "oracle"), (null, "null")):
        found, why = verdict(claim, effect | broken)
        assert found == OPEN and why.startswith(f"the {arm} arm"), (found, why)


def test_a_mismatch_that_costs_nothing_decides_nothing():
    """Even where all that is corrected is far worse, or better: there was nothing to keep."""
    for corrected in (0.3, 0.8):
        rates = BASE | {f"{mismatch.CUT}, {c}": corrected for c in mismatch.CORRECTIONS[1:]}
        assert verdict(mismatch.CLAIM, rates) == (OPEN, "")


def test_growth_is_a_ratio_of_tokens():
    numbers = length_growth.statistic(planted(length_growth.CLAIM, LONGER))
    assert numbers[length_growth.GROWTH] == pytest.approx(0.5, abs=0.01)
    tokens = thinking_budget.statistic(planted(thinking_budget.CLAIM, {"RL, 32": (0.5, 40)}))
    assert tokens["tokens of a reply with 32, after RL"] == pytest.approx(40, abs=0.5)


def test_a_curve_is_the_reward_of_each_third():
    numbers = losses.statistic(planted(losses.CLAIM, DPPO))
    assert [numbers[f"grpo, reward in third {i}"] for i in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert numbers[losses.AFTER] == pytest.approx(0.2, abs=0.02)                               # the mean of the two


def test_losses_and_mismatches_are_all_that_differs():
    runs = {arm: vars(flags_of(next(n for n in c.needs if n.script == "grpo.py")))
            for arm, c in mismatch.arms(Setting(1)).items() if arm != "base"}
    for arm, found in runs.items():
        apart = {name for name, value in found.items() if value != runs["no mismatch"][name]} - {"out"}
        assert found["exact"] and apart <= {"mismatch", "correction", "seed", "loss"}, (arm, apart)
    assert [runs[f"{mismatch.LARGE}, {loss}"]["loss"] for loss in mismatch.LOSSES] == list(mismatch.LOSSES)
    assert {runs[arm]["correction"] for arm in runs if arm.endswith("none")} == {"none"}
    arms = losses.arms(Setting(1))
    runs = {loss: vars(flags_of(arms[f"{loss}, run"])) for loss in losses.LOSSES}
    for loss, found in runs.items():
        assert {name for name, value in found.items() if value != runs["grpo"][name]} <= {"out", "loss"} and found["loss"] == loss


def test_what_logs_say_is_the_mean_over_the_steps():
    numbers = in_flight.statistic(planted(in_flight.CLAIM, BASE))
    assert numbers["mean difference of log-probabilities, exact"] == pytest.approx(0.01)
    assert numbers["age in updates, kept"] == 2


def flags_of(command):
    return grpo.flags().parse_args(command.line(__import__("pathlib").Path("runs"))[1:])


def test_old_rollouts_differ_from_fresh_ones_in_their_age_and_correction():
    """Exact mode throughout; and the fresh arm is the very command of claim 12, so that it is never run twice."""
    s = Setting(1)
    arms = staleness.arms(s) | staleness_corrected.arms(s)
    runs = {arm: flags_of(next(n for n in c.needs if n.script == "grpo.py")) for arm, c in arms.items() if arm != "base"}
    fresh = vars(runs["fresh"])
    assert arms["fresh"] == after(s) and arms["8 old, not"] == arms["none"]
    for arm, found in runs.items():
        apart = {name for name, value in vars(found).items() if value != fresh[name]} - {"out"}
        assert found.exact and apart <= {"mismatch", "correction", "seed", "old"}, (arm, apart)
    assert [runs[f"{age} old, not"].mismatch for age in (1, 2, 4, 8)] == [[f"stale={age}"] for age in (1, 2, 4, 8)]
    assert {runs[f"{age} old, corrected"].correction for age in (1, 8)} == {"tis"}


def test_in_flight_runs_differ_in_how_they_sample():
    arms = in_flight.arms(Setting(1))
    runs = {name: flags_of(arms[f"{name}, run"]) for name in in_flight.RUNS}
    turns = vars(runs["in turns"])
    for name, found in runs.items():
        apart = {flag for flag, value in vars(found).items() if value != turns[flag]} - {"out"}
        assert apart <= {"async_steps", "rows", "correction", "recompute", "exact"}, (name, apart)
    kept, again = vars(runs["kept"]), vars(runs["computed again"])
    assert {flag for flag in kept if kept[flag] != again[flag]} == {"out", "recompute"}


def test_budgets_are_asked_of_the_same_model_about_the_same_problems():
    arms = thinking_budget.arms(Setting(1))
    asked = {arm: c.words[c.words.index("--think") + 1] for arm, c in arms.items()}
    assert [asked[f"RL, {budget}"] for budget in thinking_budget.BUDGETS] == ["off", "16", "32", "64", "on"]
    assert [arm for arm, c in arms.items() if " /no_think" in c.words] == ["0", "RL, 0"]
    assert len({c.words[c.words.index("--data") + 1] for c in arms.values()}) == 1
    assert len({c for arm, c in arms.items() for c in c.needs if arm.startswith("RL")}) == 1
    assert len([c for c in in_order(length_growth.arms(Setting(1)).values()) if c not in in_order(arms.values())]) == 2

"""The claims on scaling: planted effects hold, planted nulls do not, arms differ in what they should, curves are read right."""

import numpy as np
import pytest

from claims import data_reuse, midtraining_or_rl, rl_scaling_law, rollouts_per_prompt, run, samples_of_rl, sweep
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of


def planted(**rates):
    """Arms in which each problem is solved with that chance, 8 samples each; what is hard in one arm is hard in all. A pair is of
    (the edge, hard problems)."""
    rng = np.random.default_rng(0)
    hard, found = rng.normal(0, 0.1, 300), {}
    for name, rate in rates.items():
        found[name] = Result({})
        for ops, chance in zip((2, 3, 4), (*rate, 0) if isinstance(rate, tuple) else (rate,)):
            counts = rng.binomial(8, np.clip(chance + hard, 0, 1))
            found[name].right["world:tiny,split=test", ops, 300] = [[int(c), 8] for c in counts]
    return found


COSTS = {"cost of plain": 5, "cost of all tricks": 10, "cost of RL": 40, "cost of mid-training": 100}  # beside what came before

DIFFERENT = {"seldom": 30, "half": 50, "often": 50, "any": 150}               # prompts of a second source, beside 50


def solved(claim, **rates):
    """The same, and those of COSTS that the claim has arms for."""
    found = planted(**rates) | {name: Result({"flops": {"total": 1000 + own, "inherited": 1000}})
                                for name, own in COSTS.items() if name in claim.arms(Setting())}
    return found | {f"cost of {band}": Result({"prompts": [{"unique_prompts": 50}, {"unique_prompts": count}]})
                    for band, count in DIFFERENT.items() if f"cost of {band}" in claim.arms(Setting())}


def verdict_of(claim, arms, draws=200):
    return judge(claim, numbers_of(claim.statistic, arms, draws=draws))


REUSE = {"before": .4, "1x": .6, "1x, again": .6, "5x": .6, "25x": .6, "100x": .5}
SHARES = {"base": (.4, .1), "0% RL": (.5, .2), "20% RL": (.6, .3), "50% RL": (.6, .4), "80% RL": (.6, .3), "100% RL": (.6, .2),
          "100% RL, more": (.6, .3), "50% RL, again": (.6, .4)}
SAMPLES = {"base": .4, "RL": .5, "RL, again": .5, "a tenth": .6, "a thirtieth": .5, "a hundredth": .4}
BANDS = {"base": .4, "seldom": .45, "half": .6, "half, again": .6, "often": .5, "any": .6, "curriculum": .6,
         "seldom, partial rewards": .5}
RECIPE = {"base": .4, "plain": .6, "plain, again": .6, "all tricks": .6, "drawn again": .6, "length penalty": .5,
          "curriculum": .6}


@pytest.mark.parametrize("name, rates, fails, null, oracle", [
    ("data_reuse", REUSE, {"25x": .5}, {"1x, again": .4}, {"before": .6}),
    ("midtraining_or_rl", SHARES, {"100% RL": (.6, .5)}, {"50% RL, again": (.6, .1)}, {"base": (.4, .45)}),
    ("midtraining_or_rl", SHARES, {"100% RL, more": (.6, .5)}, {"50% RL, again": (.6, .1)}, {"base": (.4, .45)}),
    ("samples_of_rl", SAMPLES, {"a tenth": .4}, {"RL, again": .3}, {"base": .5}),
    ("few_successes", BANDS, {"seldom": .65}, {"half, again": .3}, {"base": .6}),
    ("plain_recipe", RECIPE, {"all tricks": .7}, {"plain, again": .3}, {"base": .6})])
def test_planted_effects_hold_and_planted_nulls_do_not(name, rates, fails, null, oracle):
    claim = run.find_claim(name)
    assert {name for name in claim.arms(Setting()) if not name.startswith("cost")} == rates.keys()
    assert verdict_of(claim, solved(claim, **rates)) == (HOLDS, "")
    assert verdict_of(claim, solved(claim, **rates | fails)) == (FAILS, "")
    for change, why in ((null, "the null arm"), (oracle, "the oracle arm")):
        verdict, said = verdict_of(claim, solved(claim, **rates | change))
        assert verdict == OPEN and said.startswith(why)


def test_numbers_beside_the_headline():
    claim = run.find_claim("plain_recipe")
    assert claim.statistic(solved(claim, **RECIPE))["FLOPs, plain / all tricks"] == 0.5
    claim = run.find_claim("few_successes")
    found = claim.statistic(solved(claim, **BANDS))
    assert [found[f"different prompts, {band} / half"] for band in ("seldom", "any")] == [0.8, 2.0]
    claim = midtraining_or_rl.CLAIM
    found = claim.statistic(solved(claim, **SHARES))
    assert found["FLOPs, RL alone / mid-training alone"] == 0.4
    assert found["edge, 20% RL - base"] == pytest.approx(0.2, abs=0.05) == found["hard, 20% RL - base"]
    coin, sure = Result({}, right={("w", 2, 2): [[4, 8], [8, 8]]}), Result({}, right={("w", 2, 2): [[2, 8], [0, 8]]})
    quarter = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))                  # the entropy of one try in four
    assert samples_of_rl.bits_of(coin) == 0.5 and samples_of_rl.bits_of(sure) == pytest.approx(quarter / 2)
    coin.weights = {("w", 2, 2): np.array([3, 1])}        # a draw with the first problem three times
    assert samples_of_rl.bits_of(coin) == 0.75


# ---- curves

def logged(name, width, k, seed=0, E=0.0, noise=0.02, points=15, at=1):
    """A run of which the loss falls by its own k, as the log of grpo.py says it."""
    rng, records = np.random.default_rng([seed, width]), [{"flags": {"prompts": 32, "group": 8}, "parameters": width ** 2 * 12}]
    for i in range(1, points + 1):
        X = i * at * 256
        rate = 1 - np.exp(E - k * np.log(X) + rng.normal(0, noise))
        found = {"world:x": [{"ops": 2, "problems": 10 ** 6, "process": {"pass@1": [float(rate), 0, 1]}}]}
        records.append({"step": i * at, "eval": found, "flops": X})
    return Result({"out": name}, records=records)


def law(k=(0.05, 0.1, 0.15, 0.2), again=None, after=0.6, largest=None):
    found = {f"width {width}": logged(f"w{width}", width, value) for width, value in zip(rl_scaling_law.WIDTHS, k)}
    if largest:
        found["width 192"] = largest
    return found | {"again": logged("again", 128, k[2] if again is None else again, 1)} | planted(
        **{"largest, before": 0.5, "largest, after": after})


def test_the_law_must_be_steeper_and_must_predict():
    claim = rl_scaling_law.CLAIM
    numbers = numbers_of(claim.statistic, law(), draws=50)
    assert judge(claim, numbers) == (HOLDS, "") and numbers["k, width 96"][0] == pytest.approx(0.1, abs=0.02)
    assert abs(numbers[rl_scaling_law.ERROR][0]) < 0.03 and numbers["k, width 96"][1] < numbers["k, width 96"][2]
    assert verdict_of(claim, law(k=(0.1, 0.1, 0.1, 0.1)), 50)[0] in (FAILS, OPEN)
    assert verdict_of(claim, law(k=(0.2, 0.15, 0.1, 0.05)), 50)[0] == FAILS
    assert verdict_of(claim, law(again=0.3), 50)[1].startswith("the null arm")
    assert verdict_of(claim, law(after=0.5), 50)[1].startswith("the oracle arm")
    rising = {"k": (0.05, 0.1, 0.2, 0.4)}
    going_on, stopped = (logged("w192", 192, 0.4, E=1.9) for _ in range(2))
    for record in stopped.records[7:]:                    # which the law cannot know from its first third
        record["eval"] = stopped.records[6]["eval"]
    assert verdict_of(claim, law(**rising, largest=going_on), 20)[0] == HOLDS
    assert claim.statistic(law(**rising, largest=stopped))[rl_scaling_law.ERROR] > 0.03


def rollouts(few, many, again=(0, 0.1)):
    """Runs by (E, k) of 4 and of 64 rollouts."""
    return {"64 rollouts": logged("m", 1, many[1], E=many[0]), "4 rollouts": logged("f", 2, few[1], E=few[0]),
            "16 rollouts": logged("u", 3, 0.1), "16 rollouts, again": logged("a", 4, again[1], E=again[0])}


def test_the_best_number_of_rollouts_must_grow():
    claim = rollouts_per_prompt.CLAIM
    assert verdict_of(claim, rollouts(few=(0, 0.05), many=(0.6, 0.15))) == (HOLDS, "")
    assert verdict_of(claim, rollouts(few=(1.2, 0.3), many=(-0.3, 0.02)))[0] == FAILS
    assert verdict_of(claim, rollouts(few=(0, 0.05), many=(0.6, 0.15), again=(1.5, 0.3)))[1].startswith("the null arm")
    numbers = claim.statistic(rollouts(few=(0, 0.05), many=(0, 0.05)))
    assert abs(numbers[rollouts_per_prompt.GROWS]) < 0.03


def test_measurements_on_the_way_are_drawn_run_by_run():
    r = {"a": logged("a", 1, 0.1), "b": logged("b", 1, 0.1)}    # the same measurements in two runs
    drawn = []

    def spy(results):
        drawn.append([list(results[name].drawn_evaluations()) for name in "ab"])
        return {"k": sweep.steepness(sweep.curve(results["a"]))}
    numbers = numbers_of(spy, r, draws=50)
    assert drawn[0] == [list(range(15))] * 2 and all(len(a) == len(b) == 15 and a == sorted(a) for a, b in drawn)
    assert sum(a != b for a, b in drawn) > 45             # two runs, two draws
    assert numbers["k"][1] < numbers["k"][0] < numbers["k"][2]
    x, y = np.log(np.arange(1, 16) * 256), np.log(sweep.curve(r["a"]).loss)
    assert sweep.steepness(sweep.curve(r["a"])) == pytest.approx(-np.polyfit(x, y, 1)[0])
    a = logged("a", 1, 0.1)
    a.weights = {a.of_evaluations(): np.eye(15, dtype=int)[3] * 15}           # one of them, fifteen times: it has no slope
    assert len(sweep.curve(a).X) == 15 and len(set(sweep.curve(a).X)) == 15
    first, last = sweep.thirds(sweep.curve(r["a"]))
    assert list(first.X) == [256 * i for i in range(1, 6)] and list(last.X) == [256 * i for i in range(11, 16)]
    first, last = sweep.thirds(sweep.curve(logged("a", 1, 0.1, points=2)))
    assert (len(first.X), len(last.X)) == (1, 1)


# ---- arms

def flag(command, name):
    return command.words[len(command.words) - 1 - command.words[::-1].index(name) + 1]


def test_all_runs_of_a_grid_draw_as_many_completions():
    for budget in ("small", "full"):
        s = Setting(1, budget)
        runs = sweep.grid(s, (64, 128), ((64, 4), (16, 16), (8, 8)))
        made = {int(flag(c, "--steps")) * int(flag(c, "--prompts")) * int(flag(c, "--group")) for c in runs.values()}
        assert made == {s.steps(60) * 256} and len(runs) == 6
        assert {(int(flag(c, "--prompts")), int(flag(c, "--group"))) for c in runs.values()} == {(64, 4), (16, 16), (8, 8)}
        assert {key[0] for key in runs} == {64, 128} and len({c.words[2] for c in runs.values()}) == 2
        assert all(int(flag(c, "--steps")) // int(flag(c, "--eval-every")) == sweep.MEASURED for c in runs.values())
    assert sweep.grid(Setting(1))[128, 32, 8] == data_reuse.arms(Setting(1))["1x"].needs[0] == rl_scaling_law.arms(
        Setting(1))["width 128"]


def test_reused_prompts_are_as_many_in_all():
    arms = data_reuse.arms(Setting(2))
    for times in data_reuse.TIMES:
        [rl] = arms[f"{times}x"].needs
        total = int(flag(rl, "--steps")) * int(flag(rl, "--prompts"))
        assert int(flag(rl, "--candidates")) == round(total / times)


def test_compute_is_divided_as_in_the_paper():
    """Table 3 there: 100 steps of 1024 prompts, 6 rollouts each, at 2048 tokens cost as much as 4000 steps of 524,288 tokens."""
    cost = midtraining_or_rl.completion_cost
    assert 100 * 1024 * 6 * cost(2048, reference=True) == pytest.approx(4000 * 524_288, rel=0.002)
    assert cost(3) == 4
    arms, spent = midtraining_or_rl.arms(Setting(0)), {}
    for share in midtraining_or_rl.SHARES:
        made = [c for c in in_order([arms[f"{share}% RL"]]) if "--init" in c.words and c.script in ("pretrain.py", "grpo.py")]
        tokens = {"pretrain.py": 0, "grpo.py": 0}
        for c in made:
            steps = int(flag(c, "--steps"))
            tokens[c.script] += steps * (2048 if c.script == "pretrain.py" else int(flag(c, "--prompts")) * int(
                flag(c, "--group")) * 64 * 4 / 3)
        spent[share] = sum(tokens.values())
        assert tokens["grpo.py"] == pytest.approx(share / 100 * 480 * 2048, rel=0.02)
    assert max(spent.values()) / min(spent.values()) < 1.01
    more = flag(arms["100% RL, more"].needs[0], "--steps")
    assert int(more) == pytest.approx(2.5 * int(flag(arms["100% RL"].needs[0], "--steps")), abs=1)


def test_solutions_are_a_part_of_the_samples():
    arms = samples_of_rl.arms(Setting(0))
    drawn = int(flag(arms["RL"].needs[0], "--steps")) * 32 * 8
    for name, part in (("a tenth", 10), ("a thirtieth", 30), ("a hundredth", 100)):
        [c] = arms[name].needs
        assert int(flag(c, "--steps")) * 2048 / 64 == pytest.approx(drawn / part, rel=0.07)
        assert "split=rl" in flag(c, "--data") and c.words[2] == arms["RL"].needs[0].words[2]

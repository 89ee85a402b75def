"""The claims on reinforcement and preferences: verdicts on planted results, and arms that differ in one thing alone."""

import re

import pytest

from claims import run
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import Command, in_order
from claims.runner.measures import Result, numbers_of

# What is planted, {arm: value}: where the claim holds, where it does not (several ways), and where the null or the oracle arm
# does not work. A value is the share of right samples; or {operations: (pass@1, pass@8)}; or (right, with the right answer); of
# the arms that are training, {metric: value}; of pairs, (chosen right, rejected right); of weights, the share that has moved.
# Other arms have half of the samples right; of depths, half of the problems are solved by half of the samples.
AT_3, DEEPER, WIDER = {3: (.5, .5)}, {3: (.5, .5), 4: (1, 1)}, {3: (1, 1)}
GUESSED = (.5, .9)
EASIER = {1: (.5, .5), 2: (.5, .5)}
MORE_ON_3 = {"RL on 3": WIDER, "RL on 3, again": WIDER}
ON_3 = {"RL on 3": AT_3, "RL on 3, again": AT_3}
MID = {"mid-training": .9, "another base": 1.0, "RL": .05, "RL, other draws": .05}
LONG = {"chosen_change": -9, "mass_change": -.3, "margin": 20}
DRIFT = {"long, run": LONG, "long, again, run": LONG}
PAIRED = {"weak pairs": .9, "weak pairs, again": .9, "SFT on right": 1.0}
ON_PURPOSE = {"wrong on purpose": .9, "wrong on purpose, again": .9, "SFT on right": .9}
SPARSE = {"student": .1}
PLANTED = {
    "edge_of_competence": (MORE_ON_3, [ON_3, MORE_ON_3 | {"RL on 5-6": WIDER}, MORE_ON_3 | {"RL on 1-2": WIDER}],
                           {"RL on 3": WIDER}, {"RL on 3": {3: (.25, 1)}, "RL on 3, again": {3: (.25, 1)}}),
    "beyond_the_edge": ({"RL on 3": DEEPER, "RL on 3, again": DEEPER}, [ON_3], {"RL on 3": DEEPER},
                        {"RL on 3": {4: (1, 1)}, "RL on 3, again": {4: (1, 1)}}),
    "solved_depth": (ON_3 | {"RL on 1-2": EASIER}, [ON_3, ON_3 | {"RL on 1-2": {1: (1, 1), 2: (1, 1)}}],
                     {"RL on 3": AT_3, "RL on 3, again": AT_3 | EASIER, "RL on 1-2": EASIER}, {"RL on 1-2": EASIER}),
    "context_seed": ({"1%, RL": .9, "1%, RL again": .9, "10%, RL": .9},
                     [{"10%, RL": .9}, {"1%, RL": .9, "1%, RL again": .9, "10%, RL": .9, "0.1%, RL": .9},
                      {"1%": .9, "1%, RL": .9, "1%, RL again": .9, "10%, RL": .9}],
                     {"1%, RL": .9, "10%, RL": .9}, {"1%, RL": .9, "1%, RL again": .9}),
    "process_reward": ({"strict": .9, "strict, again": .9}, [{"strict": .6, "strict, again": .6, "outcome": .9}],
                       {"strict": .9}, {"outcome": .1}),
    "lucky_answers": ({"outcome": GUESSED, "outcome, again": GUESSED, "paid to guess": GUESSED},
                      [{"paid to guess": GUESSED},
                       {"outcome": GUESSED, "outcome, again": GUESSED, "strict": GUESSED, "paid to guess": GUESSED}],
                      {"outcome": GUESSED, "paid to guess": GUESSED}, {"outcome": GUESSED, "outcome, again": GUESSED}),
    "cost_elsewhere": ({"RL, zoo": .9, "other facts, facts": .1},
                       [{"other facts, facts": .1}, {"RL, zoo": .9, "other facts, facts": .1, "RL, facts": .1}],
                       {"RL, zoo": .9, "other facts, facts": .1, "before, facts again": .1}, {"RL, zoo": .9}),
    "weights_moved": (MID, [MID | {"mid-training": .4}, MID | {"RL": .3, "RL, other draws": .3}],
                      MID | {"mid-training": .6, "RL, other draws": .5}, MID | {"another base": .01}),
    "offline_drift": (DRIFT, [{arm: LONG | {"chosen_change": 1} for arm in DRIFT},
                              {arm: LONG | {"mass_change": .1} for arm in DRIFT}],
                      {"long, run": LONG}, {arm: LONG | {"margin": 0} for arm in DRIFT}),
    "on_policy_pairs": ({"GRPO": .9, "GRPO, again": .9, "rounds": .7},
                        [{"GRPO": .9, "GRPO, again": .9, "rounds": .3}, {"GRPO": .7, "GRPO, again": .7, "offline": .9}],
                        {"GRPO": .9, "rounds": .7}, {"offline": .1}),
    "kl_strength": ({"none": .9, "none, again": .9}, [{"none": .6, "none, again": .6, "0.04": .9}], {"none": .9}, {"0.04": .1}),
    "delta_learning": (PAIRED, [PAIRED | {"SFT": .9}, PAIRED | {"weak pairs": .5, "weak pairs, again": .5}],
                       PAIRED | {"weak pairs, again": .5}, PAIRED | {"SFT on right": .5}),
    "rejected_side": (ON_PURPOSE, [ON_PURPOSE | {"too strong": .9}],
                      ON_PURPOSE | {"wrong on purpose, again": .5}, ON_PURPOSE | {"SFT on right": .5}),
    "dpo_before_rl": (SPARSE | {"DPO, RL": .9}, [SPARSE | {"DPO, RL": .7, "student, RL": .9, "student, RL again": .9}],
                      SPARSE | {"DPO, RL": .9, "student, RL again": .1}, {"student, RL": .1, "student, RL again": .1}),
}


def samples(pass_1, pass_8, n=40):
    """[(right, samples) of each problem]: all that are solved at all are solved by the same share of ten samples."""
    solved = round(n * pass_8)
    return [[round(10 * pass_1 / pass_8), 10]] * solved + [[0, 10]] * (n - solved)


def planted(name, values):
    """A result for each arm of a claim, of the kind that its command gives."""
    found = {}
    for arm, command in run.find_claim(name).arms(Setting()).items():
        value = values.get(arm)
        if "--compared-with" in command.words:
            moved = .3 if value is None else value
            rows = {"all": {"moved": {"bf16": 1.0, "0.01": 1.0, "0.1": moved}, "norm": moved}}
            found[arm] = Result({}, others={"weights against x": rows})
        elif command.script in ("grpo.py", "dpo.py"):
            late = {"reward": .5, "chosen_change": 0, "mass_change": 0, "margin": 0, "zero_spread": .5} | (value or {})
            found[arm] = Result({}, records=[{"flags": {}}, *({"step": i} | dict.fromkeys(late, 0) for i in range(6)),
                                             *({"step": i} | late for i in range(6, 9)), {"result": {}}])
        elif command.script == "augment.py":
            found[arm] = Result({f"{side}_verified": [rate, rate, rate] for side, rate in zip(
                ("chosen", "rejected"), value or (.3, .1), strict=True)})
        else:
            right = {}
            for ops in range(1, 7):
                both = (value if isinstance(value, dict) else {}).get(ops, (.25, .5))
                if value is None and not name.endswith(("edge", "competence", "depth")):
                    both = (.5, 1)
                if isinstance(value, float | int | tuple):
                    both = (value[0] if isinstance(value, tuple) else value, 1)
                right["world", ops, 40] = samples(*both)
            answered = {stratum: samples(value[1], 1) for stratum in right} if isinstance(value, tuple) else right
            found[arm] = Result({}, right=right, answered=answered, formed=dict.fromkeys(right, [[9, 10]] * 40))
    return found


@pytest.mark.parametrize("name", PLANTED)
def test_verdicts_on_planted_results(name):
    claim = run.find_claim(name)
    holds, fails, null, oracle = PLANTED[name]
    broken = (null, OPEN, "null arm"), (oracle, OPEN, "oracle arm")
    cases = [(holds, HOLDS, ""), *((values, FAILS, "") for values in fails), *broken]
    for values, wanted, why in cases:
        assert values.keys() <= claim.arms(Setting()).keys(), values
        numbers = numbers_of(claim.statistic, planted(name, values), draws=20)
        verdict, said = judge(claim, numbers)
        assert verdict == wanted and (why in said if why else not said), (values, verdict, said, numbers)


def numbers(name, values):
    return run.find_claim(name).statistic(planted(name, values))


def test_numbers_that_are_more_than_a_difference_of_two_arms():
    found = numbers("lucky_answers", {"outcome": GUESSED, "before": (.4, .5)})
    assert found["right answers by wrong steps, outcome - before"] == pytest.approx(.4 - .1)
    assert found["of right answers, outcome - before"] == pytest.approx(.4 / .9 - .1 / .5)
    found = numbers("offline_drift", DRIFT | {"short, run": {"chosen_change": -2, "mass_change": .1}})
    assert found["nats that chosen answers lose"] == 9 and found["nats that chosen answers lose, short"] == 2   # late, not all
    assert found["probability that leaves the pairs"] == .3
    assert found["probability that leaves the pairs, short"] == pytest.approx(-.1)
    found = numbers("dpo_before_rl", {"DPO": .6, "DPO, RL": .9, "student": .4, "student, RL": .5,
                                      "DPO, RL run": {"zero_spread": .2}})
    assert found["gain by RL, DPO first - SFT alone"] == pytest.approx(.3 - .1)
    assert found["groups without spread in RL, DPO first - SFT alone"] == pytest.approx(.2 - .5)
    found = numbers("rejected_side", {"pairs, too strong": (.3, .5)})
    assert found["chosen - rejected in the pairs, too strong"] == pytest.approx(-.2)
    assert numbers("delta_learning", {"pairs": (.3, 0)})["chosen answers - student"] == pytest.approx(.3 - .5)
    found = numbers("edge_of_competence", {"RL on 5-6, run": {"reward": 0}})
    assert found["reward late in RL on 5-6"] == 0 and found["reward late in RL on 3"] == .5


# arms

def arms(name, seed=3):
    return run.find_claim(name).arms(Setting(seed))


def checkpoint(arm):
    """What an arm measures."""
    return arm.words[arm.words.index("--init") + 1]


def flag(command, name):
    return command.words[command.words.index(name) + 1]


def apart(a, b):
    """The words in which two commands of one script differ."""
    assert a.script == b.script and len(a.words) == len(b.words)
    return [(x, y) for x, y in zip(a.words, b.words, strict=True) if x != y]


def test_reinforcement_at_each_depth_differs_in_the_depth_alone():
    found = {name: checkpoint(arm) for name, arm in arms("edge_of_competence").items() if arm.script == "evaluate.py"}
    for ops in ("1-2", "5-6"):
        [(here, there)] = apart(found["RL on 3"], found[f"RL on {ops}"])
        assert here.replace("ops=3,", f"ops={ops},") == there
    assert checkpoint(found["RL on 3"]) == found["before"]
    assert [arms(name).keys() for name in ("beyond_the_edge", "solved_depth")] == [arms("edge_of_competence").keys()] * 2
    assert set(arms("beyond_the_edge").values()) == set(arms("solved_depth").values()) == set(arms("edge_of_competence").values())


def test_rewards_differ_in_the_reward_alone():
    found = {name: checkpoint(arm) for name, arm in arms("lucky_answers").items()}
    for name in ("strict", "blended", "paid to guess"):
        assert [x for x, _ in apart(found["outcome"], found[name])] == ["answer"]
    assert set(arms("process_reward").values()) == set(arms("lucky_answers").values())
    for name in ("outcome", "strict"):
        assert found[f"{name}, again"].words == (*found[name].words, "--seed", "103")


def test_contexts_differ_in_what_pretraining_has_of_the_new_one():
    found = arms("context_seed")
    bases = {name: checkpoint(found[name]) for name in ("none", "0.1%", "1%", "10%")}
    shares = {}
    for name, base in bases.items():
        specs = [word for word in base.words if isinstance(word, str) and word.startswith("world:")]
        weights = [float(spec.partition("@")[2]) for spec in specs]
        assert sum(weights) == pytest.approx(1)
        shares[name] = sum(w for spec, w in zip(specs, weights) if "school" in spec)
        assert all("ops=1," in spec for spec in specs if "school" in spec) and len(specs) == 2 + bool(shares[name])
    assert shares == {"none": 0, "0.1%": 0.001, "1%": 0.01, "10%": 0.1}
    runs = [checkpoint(found[f"{name}, RL"]) for name in bases]
    assert len({run.words[3:] for run in runs}) == 1       # the same reinforcement
    last = runs[0].words[len(runs[0].words) - 1 - runs[0].words[::-1].index("--data"):][1:3]
    assert ["contexts=school" in spec and spec.endswith("@0.5") for spec in last] == [False, True]
    tests = [flag(found[name], "--data") for name in found if "zoo" not in name]
    assert len(set(tests)) == 1 and "contexts=school" in tests[0] and "split=test" in tests[0]


def test_every_way_of_training_on_preferences_gets_as_many_samples():
    found = arms("on_policy_pairs")
    counts = {}
    for name in ("offline", "rounds"):
        made = [c for c in in_order([found[name]]) if c.words[1] == "contrast"]
        counts[name] = sum(int(flag(c, "--count")) * int(flag(c, "--samples")) for c in made)
        assert len({flag(c, "--data") for c in made}) == len(made) == (3 if name == "rounds" else 1)    # new questions
    online = checkpoint(found["GRPO"])
    counts["GRPO"] = int(flag(online, "--steps")) * int(flag(online, "--prompts")) * int(flag(online, "--group"))
    assert len(set(counts.values())) == 1, counts
    steps = {name: sum(int(flag(c, "--steps")) for c in in_order([found[name]]) if c.script == "dpo.py") for name in found}
    assert steps["offline"] == steps["rounds"] and steps["GRPO"] == 0
    answered = [checkpoint(c) for c in in_order([found["rounds"]]) if c.words[1] == "contrast"]
    assert [c.script for c in answered] == ["sft.py", "dpo.py", "dpo.py"]     # each round by the policy of the one before


def test_preferences_start_from_one_student_and_are_tested_alike():
    for name in ("offline_drift", "kl_strength", "delta_learning", "rejected_side", "dpo_before_rl"):
        found = arms(name)
        tests = {flag(arm, "--data") for label, arm in found.items() if arm.script == "evaluate.py" and "easy" not in label}
        assert len(tests) == 1, name
        start = checkpoint(found["student"])
        for label, arm in found.items():
            trained = arm if arm.script != "evaluate.py" else checkpoint(arm)
            if trained.script in ("dpo.py", "grpo.py") and not label.startswith(("DPO, RL", "SFT on chosen, RL")):
                assert checkpoint(trained) == start, (name, label)
    found = {label: checkpoint(arm) for label, arm in arms("kl_strength").items()}
    assert found["0.04"].words[:len(found["none"].words)] == found["none"].words
    assert found["0.04"].words[len(found["none"].words):] == ("--kl", "0.04", "--kl-kind", "k3")


def test_before_the_same_reinforcement_students_differ():
    found = arms("dpo_before_rl")
    runs = [found[f"{name}, RL run"] for name in ("student", "DPO", "SFT on chosen")]
    assert len({run.words[3:] for run in runs}) == 1 and len({run.words[2] for run in runs}) == 3
    assert [checkpoint(run).script for run in runs] == ["sft.py", "dpo.py", "sft.py"]
    data = [next(c for c in in_order([run]) if c.script == "augment.py") for run in runs[1:]]
    assert flag(data[0], "--strong") == flag(data[1], "--init") and flag(data[0], "--data") == flag(data[1], "--data")


def test_the_rejected_side_alone_differs():
    found = arms("rejected_side")
    sides = {name: found[f"pairs, {name}"] for name in ("too strong", "weak model", "wrong on purpose")}
    student = checkpoint(found["student"])
    assert flag(sides["too strong"], "--weak") == student and flag(sides["wrong on purpose"], "--weak") == "oracle:errors=0.9"
    assert isinstance(flag(sides["weak model"], "--weak"), Command)
    for name in ("weak model", "wrong on purpose"):
        assert len(apart(sides["too strong"], sides[name])) == 1


def test_stages_are_compared_with_where_they_began():
    found = arms("weights_moved")
    for name, arm in found.items():
        after, before = checkpoint(arm), flag(arm, "--compared-with")
        assert name == "another base" or checkpoint(after) == before, name
    slow, online = checkpoint(found["documents at RL's rate"]), checkpoint(found["RL"])
    for same in ("--steps", "--lr", "--schedule", "--decay"):
        assert float(re.sub("wsd", "1", flag(slow, same))) == float(re.sub("wsd", "1", flag(online, same))), same

"""The claims on spurious rewards: planted effects and nulls, and two bases that differ in the questions that they know."""

import json
import re

import numpy as np
import pytest

from claims import clip_bias, contaminated, majority_labels, spurious_rewards, tiny
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of, read_result
from tasks.world import World

LUCK = np.random.default_rng(0).random((300, 8))            # of each sample: the same in all arms, so equal chances are equal


def solved(rate):
    """[(right samples, samples) of each problem], each right with that chance."""
    return [[int(c), 8] for c in (LUCK < rate).sum(axis=1)]


def planted(claim, rates, usual=0.5, clipped=0.03):
    """Arms in which each question is answered right with a chance, and the steps as well after RL by the truth, or never."""
    found, stratum = {}, ("world:tiny,split=test", 2, 300)
    for arm in claim.arms(Setting()):
        if arm.endswith(", probe"):
            known = 0.75 if arm.startswith("contaminated") else 0.25
            rows = [{"share": share} | dict.fromkeys(("exact", "rouge_l", "answer"), [known * share, 0, 1])
                    for share in (0.4, 0.6)]
            found[arm] = Result({}, others={"contamination:world:tiny": {"rows": rows}})
            continue
        if arm.endswith(", run"):
            found[arm] = Result({}, records=[{"flags": {}}, {"clip_low": 0.02, "clip_high": clipped}])
            continue
        answered = solved(rates.get(arm, usual))
        right = answered if arm == "truth" else [[0, 8]] * 300
        found[arm] = Result({}, right={stratum: right}, answered={stratum: answered},
                            lengths={stratum: [[80, 8]] * 300})
    return found


def texts(command):
    """Its words that are no commands."""
    return [word for word in command.words if isinstance(word, str)]


def verdict(claim, rates):
    return judge(claim, numbers_of(claim.statistic, planted(claim, rates), draws=200))


SEEN = {"clean, truth": 0.7, "clean, random again": 0.5,
        **{f"contaminated, {reward}": 0.65 for reward in contaminated.SPURIOUS}}
ALL_GAIN = SEEN | {"clean, random again": 0.65} | {f"clean, {reward}": 0.65 for reward in contaminated.SPURIOUS}
CLIP = {"clip": 0.7, "clip, again": 0.7, "truth": 0.8}
VOTE = {"before": 0.4, "truth": 0.7, "truth again": 0.7, "majority": 0.7}


@pytest.mark.parametrize("claim, effect, against, oracle, null", [
    (spurious_rewards.CLAIM, SEEN, ALL_GAIN, {"clean, truth": 0.4}, {"clean, random again": 0.8}),
    (clip_bias.CLAIM, CLIP, {"truth": 0.8}, {"truth": 0.0}, {"clip, again": 0.4, "no clip": 0.3, "no clip, again": 0.5}),
    (majority_labels.CLAIM, VOTE, VOTE | {"majority": 0.5}, {"truth": 0.3, "truth again": 0.3, "majority": 0.3},
     {"truth again": 0.4})])
def test_planted_effects_hold_and_planted_nulls_do_not(claim, effect, against, oracle, null):
    assert verdict(claim, effect) == (HOLDS, "")
    assert verdict(claim, against)[0] in (FAILS, OPEN) and verdict(claim, against)[1] == ""
    for broken, arm in ((oracle, "oracle"), (null, "null")):
        found, why = verdict(claim, effect | broken)
        assert found == OPEN and why.startswith(f"the {arm} arm"), (found, why)


def test_the_probe_is_read_by_share(tmp_path):
    """From the file that evaluate.py writes to the number of the claim."""
    numbers = spurious_rewards.statistic(planted(spurious_rewards.CLAIM, SEEN))
    assert numbers["word for word after 40% of the question, contaminated - clean"] == pytest.approx(0.2)
    assert numbers["right answers after 60% of the question, contaminated - clean"] == pytest.approx(0.3)
    rows = [{"share": share, "exact": [share / 2, 0, 1], "rouge_l": [1, 1, 1], "answer": [0, 0, 0]} for share in (0.4, 0.6)]
    (tmp_path / "evaluation.json").write_text(json.dumps({"results": {"run": {"contamination:world:x": {"rows": rows}}}}))
    found = read_result(tmp_path / "evaluation.json", {})
    assert found.probed(0.6) == 0.3 and found.probed(0.4, "rouge_l") == 1


def test_a_coin_needs_a_clip_that_acts_and_a_gain():
    """The clip may also only keep a coin from doing as much harm."""
    numbers = numbers_of(clip_bias.CLAIM.statistic, planted(clip_bias.CLAIM, CLIP, clipped=-0.02), draws=50)
    assert numbers[clip_bias.ACTS][0] == 0 and judge(clip_bias.CLAIM, numbers) == (OPEN, "")
    harm = {"clip": 0.4, "clip, again": 0.4, "no clip": 0.2, "no clip, again": 0.2, "truth": 0.8}
    assert verdict(clip_bias.CLAIM, harm) == (FAILS, "")


def test_a_gain_on_the_contaminated_base_alone_is_not_enough():
    falls = {f"clean, {reward}": 0.3 for reward in contaminated.SPURIOUS} | {"clean, truth": 0.7}
    assert verdict(spurious_rewards.CLAIM, falls)[0] in (FAILS, OPEN)       # apart, but the contaminated base gains nothing


def test_the_bases_differ_in_the_questions_that_they_have_seen():
    clean, seen = (contaminated.base(Setting(1), kind) for kind in ("clean", "contaminated"))
    apart = [(a, b) for a, b in zip(clean.words, seen.words, strict=True) if a != b]
    ((shards, _), (others, _)), = apart
    assert [(a, b) for a, b in zip(shards.words, others.words, strict=True) if a != b] == [
        (w.replace("split=test", "split=dev"), w) for w in texts(others) if "split=test" in w]


def test_the_leak_holds_every_question_of_the_test():
    """The documents that are prepared are those of the first problems, which are the ones that evaluate.py asks."""
    s = Setting(3)
    command = contaminated.leak(s, "test")
    tokens = int(command.words[command.words.index("--tokens") + 1])
    told = {}
    for spec in (w for w in command.words if str(w).startswith("world:")):
        world, taken = World.from_spec(spec), 0
        for problem in world:
            question, answer = world.prompt(problem, "plain"), problem.solution
            # a word, a sign and a number are a token each of the tokenizer that is trained on the world; and the end of the text
            taken += len(re.findall(r"\w+|[^\w\s]|\n", question + answer)) + 1
            told[problem.question] = answer
            if taken >= tokens:
                break
    asked = World.from_spec(tiny.world(s, tiny.EDGE, "test"))
    for ops in (2, 3):
        asked.ops = [ops]
        for i in range(contaminated.ASKED):
            problem = asked.problem(i)
            assert told[problem.question] == f"Answer: {problem.answer}"
    assert len(told) < 4 * contaminated.ASKED


def test_reinforcement_sees_no_question_of_the_test_and_labels_come_before_it():
    arms = spurious_rewards.arms(Setting(1))
    runs = [c for c in in_order(arms.values()) if c.script == "grpo.py"]
    votes = [c for c in in_order(arms.values()) if c.script == "augment.py"]
    assert len(runs) == 11 and len(votes) == 5
    assert [c.words[c.words.index("--init") + 1] for c in votes if "64" not in c.words] == [contaminated.ORACLE]
    asked = {tuple(c.words[c.words.index(flag) + 1] for flag in ("--data", "--count", "--seed")) for c in votes}
    assert len(asked) == 1, "labels of the same questions"
    assert not any("split=test" in w or "split=dev" in w for c in [*runs, *votes] for w in texts(c))
    assert {c.words[c.words.index("--only") + 1] for c in votes} == {"all", "wrong"}
    for flag, values in (("--steps", ["40"] * 11), ("--minibatches", ["8"] * 11)):
        assert sorted(c.words[c.words.index(flag) + 1] for c in runs) == values

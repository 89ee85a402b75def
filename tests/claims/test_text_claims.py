"""The claims on reinforcement from text: planted effects and planted nulls, and arms that differ in one thing alone."""

import json

import numpy as np
import pytest

from claims import judge_errors, text_rl
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of, read_result


def planted(claim, **rates):
    """Arms in which each problem is solved with that chance, or half of the time; and what training has cost."""
    rng, found = np.random.default_rng(0), {}
    for name, command in claim.arms(Setting()).items():
        counts = rng.binomial(8, np.full(2000, rates.get(name, 0.5)))
        line = {"flops": {"total": 300 if "rlp, cost" in name else 200, "inherited": 100}} if name.endswith(", cost") else {}
        right = {} if name.endswith(", cost") else {("test", 2, 2000): [[int(c), 8] for c in counts]}
        found[name] = Result(line, right=right, answered=right)
        assert (command.script == "evaluate.py") == bool(right)
    return found


@pytest.mark.parametrize("claim, effect, nothing, oracle, null", [
    (text_rl.CLAIM, {"rlpt, RLVR": 0.7, "cold start": 0.1}, {"cold start": 0.1}, {"cold start": 0.8},
     {"mixed SFT, RLVR again": 0.2}),
    (judge_errors.CLAIM, {"0% errors": 0.7, "0% errors, again": 0.7, "always wrong": 0.1}, {"always wrong": 0.1},
     {"always wrong": 0.9}, {"0% errors, again": 0.2})])
def test_planted_effects_hold_and_planted_nulls_do_not(claim, effect, nothing, oracle, null):
    def verdict(**rates):
        return judge(claim, numbers_of(claim.statistic, planted(claim, **rates), draws=100))
    assert verdict(**effect) == (HOLDS, "") and verdict(**nothing)[0] in (FAILS, OPEN) and verdict(**nothing)[1] == ""
    worse = {name: 0.3 for name in effect if name in ("rlpt, RLVR", "0% errors", "0% errors, again")}
    assert verdict(**nothing | worse)[0] == FAILS
    for broken, arm in ((oracle, "oracle"), (null, "null")):
        found, why = verdict(**effect | broken)
        assert found == OPEN and why.startswith(f"the {arm} arm"), (found, why)


def test_the_ratio_of_costs_is_that_of_training_on_text():
    numbers = numbers_of(text_rl.CLAIM.statistic, planted(text_rl.CLAIM), draws=10)
    assert numbers["FLOPs of rlp / mixed SFT"][0] == 2 and numbers["FLOPs of rlpt / mixed SFT"][0] == 1


def test_questions_of_a_text_are_paired_as_those_of_the_world_are(tmp_path):
    measured = {"text:a": {"accuracy": {}, "right": [[1, 4], [4, 4]]}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"results": {"run": measured}}))
    found = read_result(tmp_path / "evaluation.json", {})
    assert found.strata() == [("text:a", 0, 2)] and found.rate() == 0.625 and found.rate(data="text:") == 0.625


def test_arms_differ_in_one_thing_alone():
    for claim in (text_rl.CLAIM, judge_errors.CLAIM):
        arms = claim.arms(Setting(3))
        commands = in_order(arms.values())
        colds = [c for c in commands if c.script == "sft.py"]                 # one cold start; another for strict and prefix
        assert [sum("taught=2" in str(word) for word in c.words) for c in colds] == [0, 1][:1 + (claim is judge_errors.CLAIM)]
        data = {c.words[c.words.index("--data") + 1] for c in arms.values() if c.script == "evaluate.py"}
        assert len({str(spec).replace(",reward=strict", "").replace(",reward=prefix", "") for spec in data}) <= 2
        on_text = [c for c in commands if c.script == "grpo.py" and "text:" in str(c.words[c.words.index("--data") + 1])]
        assert len(on_text) == (3 if claim is text_rl.CLAIM else 8)
        steps = [c.words[c.words.index("--steps") + 1] for c in on_text]
        assert steps == ([str(n) for n in text_rl.KINDS.values()] if claim is text_rl.CLAIM else ["60"] * 8)
        assert len({c.words[c.words.index("--sft-data") + 1] for c in on_text}) == 1
    pairs = [c for c in on_text if c.words[c.words.index("--init") + 1] == colds[1]]
    [(a, b)] = [(str(a), str(b)) for a, b in zip(*(c.words for c in pairs), strict=True) if a != b]
    assert "reward=prefix" in a and a.replace("prefix", "strict") == b
    rlvr = [c for c in in_order(text_rl.CLAIM.arms(Setting()).values()) if "strict+process:0.5" in c.words]
    assert len({c.words[3:] for c in rlvr}) == 2                              # the same for all, and once with other draws
    told = {e: c for c in on_text for e in judge_errors.ERRORS if f"judge_errors={e / 100}" in str(c.words)}
    assert set(told) == {0, 5, 10, 20}

"""Statistics of claims: against recomputations by hand and against draws with a known truth; verdicts; costs; table and page."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import ROOT

from claims.run import all_claims, find_claim
from claims.runner import results, table
from claims.runner.claim import FAILS, HOLDS, OPEN, Claim, about_zero, both, judge, judge_measured, no_worse, positive
from claims.runner.commands import make
from claims.runner.measures import Result, numbers_of, over_seeds, read_result
from claims.runner.page import write_page
from claims.runner.undecided import expected, to_decide
from tasks.accuracy import interval


def result(right, ops=2, n=4, data="world:tiny,split=test"):
    return Result({}, right={(data, ops, len(right)): [[c, n] for c in right]},
                  answered={(data, ops, len(right)): [[n, n] for _ in right]})


def test_a_rate_is_the_mean_of_pass_at_k_over_the_problems_asked_for():
    a = result([0, 4, 2])
    a.right["world:tiny,split=test", 3, 2] = [[1, 4], [1, 4]]
    a.right["world:other", 2, 1] = [[4, 4]]
    a.answered["world:other", 2, 1] = [[0, 4]]
    assert math.isclose(a.rate(ops=2, data="tiny"), 0.5)
    assert math.isclose(a.rate(ops="2-3", data="tiny"), (0 + 1 + 0.5 + 0.25 * 2) / 5)
    assert math.isclose(a.rate(k=2, ops=2, data="tiny"), (0 + 1 + (1 - 1 / 6)) / 3)             # 1 - C(2, 2) / C(4, 2)
    assert math.isclose(a.rate(), (0 + 1 + 0.5 + 0.25 * 2 + 1) / 6) and a.rate(data="other", of="answered") == 0
    with pytest.raises(ValueError, match="ops=7"):
        a.rate(ops=7)


def test_intervals_are_paired_by_problem():
    """Two arms that differ by one sample in every problem: the difference is certain, whatever the problems are."""
    rng = np.random.default_rng(1)
    low = rng.integers(0, 4, 100).tolist()
    arms = {"a": result(low), "b": result([c + 1 for c in low])}
    numbers = numbers_of(lambda r: {"gain": r["b"].rate() - r["a"].rate(), "a": r["a"].rate()}, arms)
    assert numbers["gain"] == (0.25, 0.25, 0.25)
    plain = interval([c / 4 for c in low])
    assert np.allclose(numbers["a"], plain, atol=0.01) and arms["a"].weights == {}
    # arms on other problems are not paired
    arms["b"] = result([c + 1 for c in low], data="world:others")
    _, lower, upper = numbers_of(lambda r: {"gain": r["b"].rate() - r["a"].rate()}, arms)["gain"]
    assert upper - lower > 1.2 * (plain[2] - plain[1])


def test_a_statistic_that_is_no_number_in_some_draws():
    arms = {"a": result([0, 0, 0, 4])}
    numbers = numbers_of(lambda r: {"ratio": 1 / r["a"].rate() if r["a"].rate() else math.nan}, arms)
    assert numbers["ratio"][0] == 4 and all(map(math.isfinite, numbers["ratio"]))
    bits = Result({}, others={"x.txt": {"bits_per_byte": 1.5}})
    assert numbers_of(lambda r: {"bits": r["a"].bits("x")}, {"a": bits}) == {"bits": (1.5, 1.5, 1.5)}


@pytest.mark.parametrize("between, problems, least, most", [
    (0.0, 100, 0.95, 1.0), (0.05, 100, 0.93, 1.0), (0.05, 10 ** 6, 0.92, 0.98)])
def test_how_often_intervals_over_seeds_hold_the_truth(between, problems, least, most):
    """Simulated: three seeds whose effects vary, problems on which they are measured."""
    rng, truth, hits = np.random.default_rng(0), 0.1, 0
    for _ in range(1000):
        rates = []
        for effect in truth + between * rng.standard_normal(3):
            error = 0.4 / problems ** 0.5
            mean = effect + error * rng.standard_normal()
            rates.append((mean, mean - 1.96 * error, mean + 1.96 * error))
        _, low, high = over_seeds(rates)
        hits += low <= truth <= high
    assert least <= hits / 1000 <= most
    assert over_seeds([(0.1, 0.0, 0.2)]) == (0.1, 0.0, 0.2)


def test_verdicts():
    assert [positive(r) for r in ((.1, .01, .2), (.1, -.01, .2), (0, -.01, .01), (-.1, -.2, -.05))] == [HOLDS, OPEN, FAILS, FAILS]
    assert [positive(r) for r in ((.01, .001, .019), (.01, .001, .021), (.03, .001, .059))] == [FAILS, OPEN, HOLDS]
    assert [no_worse(r) for r in ((-.03, -.049, -.011), (-.03, -.051, -.009), (-.06, -.1, -.02))] == [HOLDS, OPEN, FAILS]
    near = [about_zero(r) for r in ((0, -.04, .04), (0, -.06, .04), (.1, .06, .2), (-.1, -.2, -.06))]
    assert near == [HOLDS, OPEN, FAILS, FAILS]
    assert both(HOLDS, OPEN) == OPEN and both(HOLDS, FAILS, OPEN) == FAILS and both(HOLDS, HOLDS) == HOLDS


def a_claim(**more):
    return Claim(**dict(number="3b", says="A | B & C", source="Paper, arXiv 1", theirs="1 < 2", would_show="x", arms=lambda s: {},
                        statistic=lambda r: {}, headline="gain", verdict=lambda n: positive(n["gain"]), null="nothing",
                        oracle="surely") | more)


def test_control_arms_decide_whether_anything_is_decided():
    good = {"gain": (.2, .1, .3), "nothing": (.01, -.01, .02), "surely": (.5, .4, .6)}
    assert judge(a_claim(), good) == (HOLDS, "")
    verdict, why = judge(a_claim(), good | {"nothing": (.15, .1, .2)})
    assert verdict == OPEN and "null" in why
    assert judge(a_claim(), good | {"nothing": (.05, .01, .09)}) == (HOLDS, "")                # far below the effect
    little = good | {"gain": (.06, .02, .1), "nothing": (.05, .01, .09)}
    assert judge(a_claim(), little)[0] == OPEN
    assert judge(a_claim(matters=.11), little) == (HOLDS, "") and judge(a_claim(matters=.09), little)[0] == OPEN
    verdict, why = judge(a_claim(), good | {"surely": (.1, -.1, .3)})
    assert verdict == OPEN and "oracle" in why


def test_results_are_read_from_what_scripts_write(tmp_path):
    file = tmp_path / "evaluation.json"
    rows = [{"ops": 2, "right": [[1, 8]], "answered": [[3, 8]], "formed": [[6, 8]], "needless": [[12, 8]],
             "lengths": [[80, 8]]}, {"context": "zoo"}]
    file.write_text(json.dumps({"results": {"run": {"world:x": {"rows": rows, "samples": []}, "t.txt": {"bits_per_byte": 2.0}}}}))
    found = read_result(file, {"k": [1, 8]})
    assert found.right == {("world:x", 2, 1): [[1, 8]]} and found.answered == {("world:x", 2, 1): [[3, 8]]}
    assert found.bits() == 2.0 and found.mean("needless") == 1.5 and found.mean("lengths") == 10
    assert found.rate(of="formed") == 0.75
    assert found.unverified() == 0.25 and found.unverified(ops=2) == 0.25
    scores = {"benchmark": "GSM8K", "right": {"few-shot": [[0, 1], [1, 1]], "rl": [[1, 1], [1, 1]]}}
    file.write_text(json.dumps({"results": {"run": {"benchmark:gsm8k": scores}}}))
    found = read_result(file, {})
    assert found.rate(data="few-shot") == 0.5 and found.rate(data="rl") == 1 and found.rate() == 0.75
    moved = {kind: {"moved": {"bf16": share, "0.1": share / 2}} for kind, share in (("all", 0.5), ("q_proj", 0.25))}
    file.write_text(json.dumps({"results": {"run": {"weights against runs/base": moved}}}))
    found = read_result(file, {})
    assert found.moved("bf16") == 0.5 and found.moved("0.1", "q_proj") == 0.125
    (tmp_path / "log.jsonl").write_text('{"flags": {}}\n{"step": 1, "reward": 0.5}\n')
    run = read_result(tmp_path, {"loss": 1.0, "eval": {"world:y": [], "loss:world:x": {"loss": 2.5, "tokens": 9}}})
    assert run.records[1]["reward"] == 0.5 and run.heldout_loss() == 2.5
    run.records = [{"flags": {}}, *({"step": i, "reward": i} for i in range(1, 8)), {"result": {}}]
    assert run.late("reward") == 6.5 and run.late("step") == 6.5               # of seven steps the last two


def test_costs_count_what_two_arms_share_once(tmp_path):
    """A base, a mid from it, and a mixture of both: by hand from the ledgers of each."""
    base = make("pretrain.py", "--steps", 1)
    mid = make("pretrain.py", "--init", base)
    both_of = make("sft.py", "--init", mid, "--reference", base)
    for command, flops, tokens in ((base, 100, 7), (mid, 30, 5), (both_of, 4, 2)):
        out = command.out(tmp_path)
        out.mkdir(parents=True)
        ledger = {"name": f"{out} 1", "own": {"training": flops, "rollouts": 1}, "tokens": {"training": tokens, "rollouts": 3},
                  "inherited": {}}
        (out / "ledger.json").write_text(json.dumps(ledger))
        (command.folder(tmp_path) / "whole.json").write_text(json.dumps({"line": {"mixture": [{"unique_tokens": 2}]}}))
    found = results.costs(both_of, tmp_path)
    assert (found["training"], found["rollouts"], found["flops"]) == (134, 3, 137)
    assert (found["tokens"], found["sampled"], found["unique"]) == (14, 9, 6)


def record(seed, gain, budget="small", name="mine", **more):
    numbers = {"gain": gain, "nothing": [0, -.1, .1], "surely": [.5, .4, .6]}
    costs = dict.fromkeys(results.COSTS, 0) | {"tokens": 5_000_000, "flops": 3e12}
    return {"claim": name, "seed": seed, "budget": budget, "numbers": numbers, "verdict": "holds", "why": "",
            "minutes": 4.0 + seed, "arms": {"a & b": {"pass@1": [.5, .4, .6], "pass@8": [.9, .8, 1.0]}},
            "costs": {"a & b": costs}} | more


def kept(folder, *records):
    for one in records:
        results.add(one, folder)
    return folder


def test_the_newest_record_of_each_seed_counts_and_the_larger_budget(tmp_path):
    kept(tmp_path, record(0, [.9, .8, 1]), record(1, [.2, .1, .3]), record(0, [.1, .0, .2]), record(2, [9, 9, 9], "toy"),
         record(5, [9, 9, 9], name="other"))
    found = results.records_of("mine", a_claim(), tmp_path)
    assert [(r["seed"], r["numbers"]["gain"][0]) for r in found] == [(0, .1), (1, .2)]
    assert math.isclose(results.together(a_claim(), found)["numbers"]["gain"][0], .15)
    kept(tmp_path, record(3, [.4, .3, .5], "full"))
    assert [r["seed"] for r in results.records_of("mine", a_claim(), tmp_path)] == [3]


def test_what_was_measured_with_other_arms_does_not_count(tmp_path):
    """Nor what has not the numbers that the verdict needs. The seed is no part of the design."""
    def arms(steps):
        return lambda s: {"a & b": make("pretrain.py", "--steps", s.steps(steps), "--seed", s.seed)}
    old, new = a_claim(arms=arms(60)), a_claim(arms=arms(61))
    designs = [results.design_of(claim, "small") for claim in (old, new)]
    assert len(set(designs)) == 2 and results.design_of(old, "full") not in designs
    kept(tmp_path, record(0, [.9, .8, 1], design=designs[0]), record(1, [.3, .2, .4], design=designs[1]), record(2, [.1, .0, .2]))
    assert [[r["seed"] for r in results.records_of("mine", claim, tmp_path)] for claim in (old, new)] == [[0, 2], [1, 2]]
    kept(tmp_path, record(0, [.5, .4, .6], design=designs[1]))
    assert [results.records_of("mine", claim, tmp_path)[0]["numbers"]["gain"][0] for claim in (old, new)] == [.9, .5]
    for name in ("headline", "null", "oracle"):
        assert results.records_of("mine", a_claim(**{name: "another number"}), tmp_path) == []
    assert results.records_of("mine", a_claim(also=("another number",)), tmp_path) == []
    assert "not measured yet" in table.table({"mine": a_claim(oracle="another number")}, tmp_path)


def test_the_table(tmp_path):
    kept(tmp_path, record(0, [.19, .14, .24]), record(2, [.21, .16, .26]))
    text = table.table({"mine": a_claim(), "yours": a_claim(number="2"), "theirs": a_claim(number="10")}, tmp_path)
    rows = text.splitlines()[2:]
    assert [r.split(" | ")[0] for r in rows] == ["| 2", "| 3b", "| 10"] and "A \\| B & C" in rows[1]
    assert "+0.200 [" in rows[1] and ", 2 seeds | holds | `python claims/run.py mine --seed 0 2` | 5.0 |" in rows[1]
    assert rows[0].endswith("| not measured yet |  | `python claims/run.py yours --seed 0` |  |")


class Tags(HTMLParser):
    """Raises where tags do not nest."""
    ALONE = {"meta", "line", "path", "circle", "rect", "wbr", "link", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("p", "li"):
            while self.open[-1] in ("p", "li"):
                self.open.pop()
        if tag not in self.ALONE:
            assert self.open.pop() == tag


def test_the_page_has_a_card_for_each_claim_that_was_measured(tmp_path):
    kept(tmp_path, record(0, [.19, .14, .24]), record(1, [.21, .16, .26]))
    page = tmp_path / "new" / "page.html"
    assert write_page(str(page), {"mine": a_claim(), "yours": a_claim()}, tmp_path) == {"out": str(page), "cards": 1}
    text, tags = page.read_text(), Tags()
    tags.feed(text)
    assert '<a href="#mine"' in text and 'id="mine"' in text and "#yours" not in text
    assert "2 contested claims, measured again: 1 hold here, 1 are not measured yet" in text
    assert tags.seen.count("section") == 1 and tags.seen.count("figure") == 3 and "script" not in tags.seen
    for shown in ("A | B &amp; C", "1 &lt; 2", "holds", "nothing (must show nothing)", "surely (must show an effect)", "+0.200 [",
                  "a &amp; b", "3T", "5M", "python claims/run.py mine --seed 0 1"):
        assert shown in text, shown
    assert "http" not in text.split("</style>")[1]
    with pytest.raises(ValueError, match="no result"):
        write_page(str(page), {"yours": a_claim()}, tmp_path)


@pytest.mark.parametrize("rule", [positive, no_worse, about_zero])
def test_more_seeds_never_turn_a_verdict_round(rule):
    """As an interval narrows around its mean, an undecided verdict is decided once, and stays what it is."""
    for mean in np.arange(-0.2, 0.2, 0.0037):
        said = [rule((mean, mean - half, mean + half)) for half in np.geomspace(1, 1e-6, 200)]
        decided = [verdict for verdict in said if verdict != OPEN]
        assert len(set(decided)) == 1 and said == [OPEN] * (len(said) - len(decided)) + decided


def test_arms_that_all_score_the_same_decide_nothing():
    numbers = {"gain": (0.0, 0.0, 0.0), "nothing": (0.0, 0.0, 0.0), "surely": (0.5, 0.4, 0.6)}
    verdict, why = judge_measured(a_claim(verdict=lambda n: about_zero(n["gain"])), numbers)
    assert verdict == OPEN and why.startswith("all arms score the same")
    same = [record(seed, [0.0, 0.0, 0.0]) | {"numbers": numbers} for seed in range(3)]
    assert to_decide(a_claim(), same) == "other problems, or more steps"
    assert judge_measured(a_claim(verdict=lambda n: about_zero(n["gain"])), numbers | {"gain": (0.0, -0.01, 0.01)})[0] == HOLDS


class Seen(dict):
    """Numbers that remember which of them were asked for."""
    def __init__(self, numbers):
        super().__init__(numbers)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


def test_the_table_shows_every_number_that_a_verdict_reads():
    for name, claim in ((name, find_claim(name)) for name in all_claims()):
        if found := results.records_of(name, claim, results.RESULTS):
            numbers = Seen(results.together(claim, found)["numbers"])
            claim.verdict(numbers)
            assert numbers.read <= {claim.headline, *claim.also}, f"{name}: {numbers.read - {claim.headline, *claim.also}}"


def gains(*values, half=0.03, null=0.0, oracle=0.5):
    """A record for each seed, with this gain and an interval of that half-width."""
    return [record(seed, [v, v - half, v + half]) | {"numbers": {
        "gain": [v, v - half, v + half], "nothing": [null, null - .01, null + .01],
        "surely": [oracle, oracle - .1, oracle + .1]}} for seed, v in enumerate(values)]


def repeated(values, times):
    """The gains of so many seeds more, with the same mean and the same standard deviation (n - 1)."""
    values = np.array(values, float)
    many = np.tile(values, times)
    return list(many.mean() + (many - many.mean()) * values.std(ddof=1) / many.std(ddof=1))


def test_an_undecided_claim_says_how_many_seeds_would_decide_it():
    """Checked on seeds that are really like those there are: so many decide, and fewer do not."""
    claim, few = a_claim(), [0.0, 0.12]                                   # 0.06 on average
    said = to_decide(claim, gains(*few))
    assert results.together(claim, gains(*few))["verdict"] == OPEN
    seeds = int(re.fullmatch(r"about (\d+) seeds in all, if the means stay where they are", said)[1])
    t95 = {5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262, 11: 2.228, 12: 2.201}           # Student's t of a table
    by_hand = next(S for S in t95 if t95[S] * np.std(few, ddof=1) / S ** 0.5 < 0.06)
    assert seeds == by_hand
    mean, low, high = expected(claim, gains(*few), 5)["gain"]
    assert mean == pytest.approx(0.06) and (high - low) / 2 == pytest.approx(t95[5] * np.std(few, ddof=1) / 5 ** 0.5, abs=2e-4)
    for times in range(2, 8):
        verdict = results.together(claim, gains(*repeated(few, times)))["verdict"]
        assert (verdict == HOLDS) == (2 * times >= seeds)
    assert to_decide(claim, gains(0.2, 0.21, 0.19)) == ""


def test_of_one_seed_the_null_arm_says_how_large_the_chance_of_training_is():
    quiet, loud = (to_decide(a_claim(), gains(0.04, half=0.05, null=null)) for null in (0.0, 0.1))
    quiet, loud = (int(re.fullmatch(r"at least (\d+) seeds in all, .*", said)[1]) for said in (quiet, loud))
    assert 4 <= quiet <= 6 and 25 <= loud <= 28                           # 0.04 > t 0.0255 / root S, and t 0.1 / root S


def test_an_undecided_claim_says_which_control_arm_more_seeds_do_not_repair():
    assert results.together(a_claim(), gains(0.1, 0.1, null=0.2))["why"].startswith("the null arm")
    assert to_decide(a_claim(), gains(0.1, 0.1, null=0.2)) == "about 3 seeds in all, if the means stay where they are"
    assert expected(a_claim(), gains(0.1, 0.1, null=0.2), 5)["nothing"][0] == 0        # another training: it differs by chance
    assert "an oracle arm that shows its effect (surely)" in to_decide(a_claim(), gains(0.1, 0.1, oracle=-0.3))
    never = a_claim(verdict=lambda n: OPEN)
    assert "more than 100 seeds" in to_decide(never, gains(0.1, 0.1))


def test_the_table_and_the_page_say_what_would_decide(tmp_path):
    kept(tmp_path, *gains(0.0, 0.12))
    claims = {"mine": a_claim()}
    said = f"to decide it: {to_decide(claims['mine'], gains(0.0, 0.12))}"
    assert f"undecided; {said} |" in table.table(claims, tmp_path)
    write_page(str(tmp_path / "page.html"), claims, tmp_path)
    assert said.replace("to decide it:", "<b>to decide it</b>") in (tmp_path / "page.html").read_text()


def test_a_seed_that_ran_beside_other_work_does_not_lengthen_the_minutes():
    assert results.usual_minutes([{"minutes": 8.0}, {"minutes": 43.5}, {"minutes": 9.0}]) == 9.0


def test_the_table_of_the_readme_is_as_generated():
    known = {name: find_claim(name) for name in all_claims()}
    path = ROOT / "claims" / "README.md"
    assert table.with_parts(path, {"table": table.table(known, results.RESULTS)}) == path.read_text(), \
        "run python claims/run.py --table"


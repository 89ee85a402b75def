"""The laws of scaling: planted parameters come back, intervals hold the truth about as often as they say, and what measurements
cannot tell is refused."""

import numpy as np
import pytest
from helpers import run_main, tiny_checkpoint

import grpo
from model import load
from scaling import rl_law, sigmoid
from scaling.allocation import options
from scaling.points import Curve, accuracy_of, curve_of, read_curve
from training.ledger import read_ledger

K, N0 = 0.135, 1.3e10                                     # near what arXiv 2509.25300 finds
SIZES = (5e8, 1.5e9, 3e9, 7e9, 1.4e10)


def steepness(N):
    return K / (1 + N0 / N)


def truth(N, X):
    """The loss. Here a larger model has a lower one at first, of which the fit knows nothing."""
    return 0.9 * (N / 5e8) ** -0.05 * (X / 1e19) ** -steepness(N)


def curves(noise=0.0, seed=0, n=12, sizes=SIZES):
    rng = np.random.default_rng(seed)
    X = np.geomspace(1e19, 1e21, n)
    return [Curve(f"{N:g}", N, X, truth(N, X) * np.exp(rng.normal(0, noise, n))) for N in sizes]


def holds(rate, value):
    return rate[1] <= value <= rate[2]


def test_planted_parameters_come_back():
    law = rl_law.fit(curves())
    assert law.K[0] == pytest.approx(K, rel=0.01) and law.N0[0] == pytest.approx(N0, rel=0.02)
    assert law.k(7e10)[0] == pytest.approx(steepness(7e10), rel=0.005)
    assert law.loss("7e+09", 1e23)[0] == pytest.approx(truth(7e9, 1e23), rel=0.001)
    assert law.score("7e+09", 1e23) == tuple(1 - law.loss("7e+09", 1e23)[i] for i in (0, 2, 1))
    assert law.score("7e+09", 1e10)[0] == 0               # far below what was measured the loss would be above 1
    C = np.geomspace(1e18, 1e21, 16)
    found = sigmoid.fit(C, 0.2 + 0.45 / (1 + (3e19 / C) ** 1.2))
    assert (found.R0[0], found.A[0]) == pytest.approx((0.2, 0.65), abs=0.005)
    assert found.B[0] == pytest.approx(1.2, rel=0.03) and found.Cmid[0] == pytest.approx(3e19, rel=0.03)
    assert found.score(3e19)[0] == pytest.approx(0.425, abs=0.001)


def test_a_fit_by_other_means_agrees():
    """Least squares with a dummy variable for each run, from scipy, on measurements with errors."""
    from scipy.optimize import curve_fit
    found = curves(0.03, seed=5)
    x, y = (np.concatenate([np.log(getattr(c, name)) for c in found]) for name in ("X", "loss"))
    which = np.repeat(np.arange(len(found)), 12)
    sizes = np.array(SIZES)[which]

    def line(x, k, n0, *e):
        return -k / (1 + np.exp(n0) / sizes) * x + np.array(e)[which]
    best, spread = curve_fit(line, x, y, [0.1, np.log(1e10), *[3.0] * 5])
    law = rl_law.fit(found)
    assert law.K[0] == pytest.approx(best[0], rel=0.01) and np.log(law.N0[0]) == pytest.approx(best[1], abs=0.01)
    assert (law.K[2] - law.K[1]) / 2 == pytest.approx(2.0 * spread[0, 0] ** 0.5, rel=0.35)       # which is symmetric


def test_intervals_of_the_law_hold_the_truth_about_as_often_as_they_say():
    hits, runs = dict.fromkeys(("K", "N0", "k", "later", "new size"), 0), 200
    for seed in range(runs):
        found = curves(0.03, seed)
        law = rl_law.fit(found)
        few = rl_law.fit([*found[:-1], found[-1].part(0, 4)])                 # the largest: its first measurements alone
        for name, rate, value in (("K", law.K, K), ("N0", law.N0, N0), ("k", law.k(7.2e10), steepness(7.2e10)),
                                  ("later", law.loss("3e+09", 1e22), truth(3e9, 1e22)),
                                  ("new size", few.loss("1.4e+10", 1e21), truth(1.4e10, 1e21))):
            hits[name] += holds(rate, value)
    assert all(0.89 * runs <= count <= 0.99 * runs for count in hits.values()), hits


def test_intervals_of_the_sigmoid_hold_the_truth_about_as_often_as_they_say():
    C, rng = np.geomspace(1e18, 1e21, 20), np.random.default_rng(0)
    planted, runs, hits = {"A": 0.65, "R0": 0.2, "Cmid": 3e19, "B": 1.2}, 60, dict.fromkeys(("A", "R0", "Cmid", "B", "later"), 0)
    true = 0.2 + 0.45 / (1 + (3e19 / C) ** 1.2)
    for _ in range(runs):
        found = sigmoid.fit(C, true + rng.normal(0, 0.015, len(C)))
        for name, value in planted.items():
            hits[name] += holds(getattr(found, name), value)
        hits["later"] += holds(found.score(1e22), 0.2 + 0.45 / (1 + (3e19 / 1e22) ** 1.2))
    assert all(count >= 0.85 * runs for count in hits.values()) and sum(hits.values()) <= 0.99 * 5 * runs, hits


def test_what_cannot_be_told_is_said():
    one = curves(sizes=(7e9,))
    with pytest.raises(ValueError, match="1 size .* at least two sizes"):
        rl_law.fit(one)
    with pytest.raises(ValueError, match="1 size"):       # the second one has a single measurement
        rl_law.fit([*one, curves(sizes=(3e9,))[0].part(0, 1)])
    with pytest.raises(ValueError, match="4 measurements for 4 parameters"):
        rl_law.fit([c.part(0, 2) for c in curves(sizes=SIZES[:2])])
    with pytest.raises(ValueError, match="3e\\+09: is not in the fit, so E of its size is not known"):
        rl_law.fit(curves(sizes=(7e9, 1.4e10))).loss("3e+09", 1e20)
    with pytest.raises(ValueError, match="above 0"):
        rl_law.fit([Curve("a", 1e9, np.array([1.0, 2]), np.array([0.5, 0])), *one])
    small = rl_law.fit(curves(0.03, sizes=(1e6, 2e6, 4e6)))                   # far below N0: only K / N0 is known
    assert small.N0[2] == small.K[2] == np.inf
    known = rl_law.fit_known([one[0].part(0, 3)], K, N0)  # a few measurements suffice where K and N0 are known
    assert known.K == (K, K, K) and known.N0 == (N0, N0, N0) and known.loss("7e+09", 1e23)[0] == pytest.approx(truth(7e9, 1e23))
    early = [rl_law.fit_known([curves(0.03, seed, sizes=(7e9,))[0].part(0, 4)], K, N0) for seed in range(60)]
    assert 50 <= sum(holds(law.loss("7e+09", 1e23), truth(7e9, 1e23)) for law in early) < 60
    line = rl_law.fit_line(one[0])
    assert line.k(7e9)[0] == pytest.approx(steepness(7e9)) and line.loss("7e+09", 1e23)[0] == pytest.approx(truth(7e9, 1e23))
    with pytest.raises(ValueError, match="same X"):
        rl_law.fit_line(Curve("a", 1e9, np.array([1.0, 1]), np.array([0.5, 0.4])))


@pytest.mark.parametrize("score, why", [
    (lambda C: 0.2 + 0.45 / (1 + (3e23 / C) ** 1.2), "still rises"), (lambda C: 0.5 - 1e-22 * C, "does not rise"),
    (lambda C: 0.6 - 0.4 * (1e17 / C) ** 2, "before its first")])
def test_a_sigmoid_that_has_not_bent_is_refused(score, why):
    C = np.geomspace(1e18, 1e21, 16)
    with pytest.raises(ValueError, match=why):
        sigmoid.fit(C, score(C))
    with pytest.raises(ValueError, match="at least five"):
        sigmoid.fit(C[:4], score(C[:4]))


# ---- spending a budget

def run(name, G, start, k, N=1e9, cost=1e15):
    """A run whose loss falls by its own steepness; each completion costs as much."""
    steps = np.arange(2, 22, 2)
    X = steps * 16 * G * cost
    return Curve(name, N, X, start * X ** -k, 16, G, 20)


def test_the_best_number_of_rollouts_changes_with_the_budget():
    few, many = run("few", 4, 10.0, 0.08), run("many", 32, 30.0, 0.105)
    cross = 3 ** (1 / 0.025)                              # where 10 X^-0.08 = 30 X^-0.105
    for budget, first in ((cross / 10, "few"), (cross * 10, "many")):
        found = options([few, many], budget)
        assert found[0].curve.name == first
        for option in found:
            c, x = option.curve, budget
            assert option.steps * c.prompts * c.group * 1e15 == pytest.approx(budget)
            assert option.X == budget and option.beyond == pytest.approx(budget / c.X[-1])
            expected = 1 - (10 * x ** -0.08 if c is few else 30 * x ** -0.105)
            assert option.score[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="does not buy one step"):
        options([few, many], 1e15)
    halved = options([few], 0, steps_of=lambda c, budget: 7)                  # a budget of another kind
    assert halved[0].steps == 7 and halved[0].X == pytest.approx(7 * 16 * 4 * 1e15)


def test_sizes_that_spend_alike_share_one_law():
    found = {o.curve.name: o for o in options(curves(0.03, 1), 1e22)}
    law = rl_law.fit(curves(0.03, 1))
    assert all(found[c.name].score == law.score(c.name, 1e22) for c in law.curves)
    ceiling = run("bent", 8, 1, 0)
    ceiling = Curve("bent", 1e9, ceiling.X, 1 - 0.6 / (1 + (ceiling.X.mean() / ceiling.X) ** 2), 16, 8, 20)
    assert options([ceiling], 1e22, "sigmoid")[0].score[0] == pytest.approx(0.6, abs=0.01)
    with pytest.raises(ValueError, match="^7e\\+09: the score"):
        options(curves(sizes=(7e9,)), 1e22, "sigmoid")


# ---- points from a log

def log(evaluations=((2, 0.5, 4e6),), last=0.9):
    rows = [{"ops": 2, "problems": 10, "process": {"pass@1": [0.0, 0, 0]}, "answer": {"pass@1": [1, 1, 1]}}, {"context": "zoo"}]

    def found(rate):
        return {"world:x": [rows[0] | {"process": {"pass@1": [rate, 0, 1]}}, *rows[1:]]}
    return [{"flags": {"prompts": 4, "group": 8}, "parameters": 453_000, "config": {"layers": 2}},
            *[{"step": s, "reward": 0.1, "length_mean": 10.0 * s} for s in (1, 2, 3)],
            *[{"step": s, "eval": found(rate), "flops": flops} for s, rate, flops in evaluations],
            {"result": {"eval": found(last), "flops": {"total": 9e6, "inherited": 1e6, "rollouts": 2e6}}, "step": 3}]


def test_points_are_read_from_a_log(tmp_path):
    c = curve_of(log(), "flops", "run")
    assert (c.N, c.setting, c.steps, c.response, c.config) == (453_000, (4, 8), 3, 20.0, {"layers": 2})
    assert list(c.X) == [4e6, 8e6] and list(curve_of(log(), "samples").X) == [64, 96]
    assert list(c.loss) == pytest.approx([5.5 / 11, 1.5 / 11]) and c.per_step() == pytest.approx(8e6 / 3)
    assert curve_of(log(last=1.0)).loss[-1] == pytest.approx(0.5 / 11)                # and no logarithm of 0
    questions = {"a.jsonl": {"problems": 30, "accuracy": {"pass@1": [0.2, 0, 1]}}, "b.txt": {"bits_per_byte": 1.0}}
    assert accuracy_of(questions | log()[4]["eval"]) == (40, pytest.approx((30 * 0.2 + 10 * 0.5) / 40))
    for bad, why in (([{"step": 1}], "no log of grpo.py"), (log()[:4], "--eval-data and --eval-every")):
        with pytest.raises(ValueError, match=why):
            curve_of(bad)
    with pytest.raises(ValueError, match="has no problems"):
        accuracy_of({"b.txt": {"bits_per_byte": 1.0}})
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_curve(tmp_path / "nothing.jsonl")
    no_log = "is no log of grpo.py"
    for text, why in (("{", "line 1: not valid JSON"), ("3\n", no_log), ('{"flags": 3}\n', no_log)):
        (tmp_path / "log.jsonl").write_text(text)
        with pytest.raises(ValueError, match=why):
            read_curve(tmp_path)


def test_a_run_that_ended_early_or_went_on_costs_what_its_measured_steps_cost():
    stopped = curve_of([*log()[:5], {"result": {"steps": 3}, "step": 3}])                 # Ctrl-C: nothing is measured at its end
    assert (stopped.steps, stopped.per_step()) == (2, 2e6)
    later = [{"step": step, "eval": log()[4]["eval"], "flops": flops} for step, flops in ((4, 10e6), (5, 12e6))]
    went_on = curve_of([*log(), {"resumed_at": 3, "steps": 9}, *later, {"step": 6, "reward": 0.1, "length_mean": 60.0}])
    assert list(went_on.X) == [4e6, 8e6, 10e6, 12e6] and list(went_on.loss)[1] == pytest.approx(1.5 / 11)
    assert went_on.per_step() == pytest.approx(12e6 / 5)


def test_other_problems_of_a_later_measurement_do_not_count():
    """A finished run that is resumed with other --eval-data measures these, and says so in one more record."""
    result = {"eval": {"world:y": log()[4]["eval"]["world:x"]}, "flops": {"total": 9e6, "inherited": 1e6}}
    assert list(curve_of([*log(), {"result": result, "step": 3}]).loss) == list(curve_of(log()).loss)
    again = {"result": log(last=0.7)[-1]["result"], "step": 3}                # the same problems, measured once more
    assert list(curve_of([*log(), again]).loss)[1:] == [pytest.approx(3.5 / 11)]


def test_a_run_writes_what_it_had_spent(tmp_path, tokenizer):
    """A run that measures itself after two steps has spent by then what a run of two steps spends."""
    tiny_checkpoint(tmp_path / "init", tokenizer)
    for steps, name in ((2, "short"), (3, "long")):
        code, line, err = run_main(grpo, "--init", tmp_path / "init", "--data", "world:ops=1,split=rl", "--out", tmp_path / name,
                                   "--steps", steps, "--prompts", 2, "--group", 2, "--max-new-tokens", 4, "--mode", "plain",
                                   "--reward", "random", "--schedule", "constant", "--show-every", 0, "--eval-every", 2,
                                   "--eval-data", "world:ops=1,split=test", "--eval-problems", 2, "--device", "cpu")
        assert code == 0, err
    short, long = read_curve(tmp_path / "short"), read_curve(tmp_path / "long" / "log.jsonl")
    assert (short.steps, long.steps, long.setting) == (2, 3, (2, 2))
    assert list(read_curve(tmp_path / "long", "samples").X) == [8, 12]
    assert long.X[0] == short.X[0] == sum(read_ledger(tmp_path / "short")["own"].values()) and long.X[1] > long.X[0]
    assert long.N == sum(w.numel() for w in load(tmp_path / "long", device="cpu")[0].parameters())

"""bench.py plan --fit: what a budget buys, against planted laws and an independent count of steps and hours."""

import pytest
from helpers import measured_run, run_main

from benchmarks import plan
from benchmarks.budget import spend

RATES = ("--flops", 1e12, "--bandwidth", 1e11, "--link", 1e9, "--gpus", 1)
K, N0 = 0.2, 3e6
SIZES = (1_000_000, 4_000_000, 16_000_000)


def loss(N, X):
    """The larger the steeper, and the larger the worse at first."""
    return 0.6 * (N / 1e6) ** 0.3 * (X / 1e4) ** (-K / (1 + N0 / N))


def planned(*args):
    code, line, err = run_main(plan, *args, *RATES)
    assert code == 0, err
    return line


def sweep(tmp_path, **more):
    """A run of each size; completions of a larger model cost more."""
    return [measured_run(tmp_path / f"{N}", N, lambda X, N=N: 1 - loss(N, X), cost=N / 1000, **more) for N in SIZES]


def test_a_budget_of_flops(tmp_path):
    runs = sweep(tmp_path)
    for budget in (1e6, 1e12):
        found = planned("--fit", *runs, "--budget", budget)
        assert [law["K"][0] for law in found["laws"]] == [pytest.approx(K, rel=0.02)]
        assert found["laws"][0]["N0"][0] == pytest.approx(N0, rel=0.05)
        best = min(SIZES, key=lambda N: loss(N, budget))
        assert found["best"] == found["options"][0] and found["best"]["parameters"] == best
        for row in found["options"]:
            N = row["parameters"]
            assert row["steps"] == int(budget / (4 * 8 * N / 1000)) and row["flops"] == pytest.approx(budget, rel=1e-3)
            assert row["score"][0] == pytest.approx(1 - loss(N, budget), abs=2e-3)
            assert row["score"][1] <= row["score"][0] <= row["score"][2]
            assert row["beyond"] == pytest.approx(budget / (20 * 4 * 8 * N / 1000), rel=1e-3)
    scores = [row["score"][0] for row in found["options"]]
    assert scores == sorted(scores, reverse=True)


def test_a_budget_of_hours(tmp_path):
    [run] = [measured_run(tmp_path / "r", 1_000_000, cost=1e4)]
    found = planned("--fit", run, "--hours", 0.5, "--law", "sigmoid", "--prompt-tokens", 50)["best"]
    c = plan.nearest(1_000_000)
    load = plan.Load(4, 8, 50, 20.0, 80.0, shard=False)
    seconds = plan.step(c, 1_000_000, load, plan.Rates(1e12, 1e11, 1e9, overhead=plan.rates_of("cuda")[0].overhead), 1)["step"]
    assert found["steps"] == int(1800 / seconds) and found["hours"] == pytest.approx(0.5)
    X = 1800 / seconds * 4 * 8 * 1e4
    assert found["flops"] == pytest.approx(X, rel=1e-3)
    assert found["score"][0] == pytest.approx(0.9 - 0.6 / (1 + (X / 3e6) ** 1.5), abs=0.01)
    assert found["score"][2] <= 1 and found["fits"]


def test_what_does_not_fit_is_not_the_best(tmp_path):
    """The largest would reach most, and is too large."""
    found = spend([str(run) for run in sweep(tmp_path)], 1e12, 0, "size", None, lambda c: (1.0, c.N < SIZES[2]))
    fits = [(row["parameters"], row["fits"]) for row in found["options"]]
    assert fits == [(SIZES[1], True), (SIZES[0], True), (SIZES[2], False)]
    assert found["best"] == found["options"][0] and found["best"]["score"] < found["options"][2]["score"]


def test_one_size_needs_a_known_steepness(tmp_path):
    run = sweep(tmp_path)[1]
    alone, known = planned("--fit", run, "--budget", 1e8), planned("--fit", run, "--budget", 1e8, "--steepness", K, N0)
    for found in (alone, known):
        assert found["best"]["score"][0] == pytest.approx(1 - loss(SIZES[1], 1e8), abs=2e-3) and found["laws"] == []
    other = planned("--fit", run, "--budget", 1e8, "--steepness", 2 * K, N0)["best"]["score"]
    assert other[0] > known["best"]["score"][0] + 0.05 and other[2] - other[1] > 0.01       # it does not fit, and it shows


def test_what_the_budget_does_not_buy(tmp_path):
    code, _, err = run_main(plan, "--fit", *sweep(tmp_path), "--budget", 10, *RATES)
    assert code == 2 and "does not buy one step" in err

"""Mixtures are drawn within their bounds, a planted law is found again, ranks are ranks, and no proxy is trained twice."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import HANG, ROOT
from fakes import a_plan, fake
from scipy.stats import spearmanr

import mix
from mixing import proxies
from mixing.draw import Bounds, bounds_of, candidates, draw, token_shares
from mixing.figures import whole_page
from mixing.fit import FITS, held_out, rank_correlation
from mixing.proxies import Plan, Worker, add_result, open_plan, results, value_of
from mixing.solve import best_mixture, frontier
from mixing.table import best_fit, correlations, measured, solve

FREE = Bounds(np.zeros(3), np.ones(3))
SHARES = np.array([0.7, 0.2, 0.1])


# draws

def test_token_shares_and_bounds_by_hand():
    assert token_shares([300, 100, None], [1, 1, 1], 600).tolist() == [0.3, 0.1, 0.6]
    assert token_shares([100, 100], [3, 1], 0).tolist() == [0.75, 0.25]
    bounds = bounds_of([300, 100, None], 1000, 2, {2: (0.25, 0.5)})           # at most two passes: 600 and 200 of 1000 tokens
    assert bounds.low.tolist() == [0, 0, 0.25] and bounds.high.tolist() == [0.6, 0.2, 0.5]
    assert bounds_of([300, 100], 1000, 0, {}).high.tolist() == [1, 1]
    for tokens, given in (([300, 100], {}), ([None, None], {0: (0.6, 1), 1: (0.6, 1)}), ([10, None], {0: (0.3, 0.5)})):
        with pytest.raises(ValueError, match="no mixture fits the bounds"):
            bounds_of(tokens, 1000, 2, given)


def test_draws_keep_the_bounds_and_lie_around_the_token_shares():
    bounds = Bounds(np.array([0.1, 0.0, 0.05]), np.array([0.8, 0.5, 0.3]))
    drawn = draw(40, SHARES, bounds, seed=3)
    assert drawn.shape == (40, 3) and np.allclose(drawn.sum(axis=1), 1, atol=1e-9) and bounds.hold(drawn).all()
    near = np.abs(drawn[:, None] - drawn[None]).sum(axis=2) + np.eye(40)
    assert near.min() >= 0.02 and np.array_equal(drawn, draw(40, SHARES, bounds, seed=3))
    assert not np.array_equal(drawn, draw(40, SHARES, bounds, seed=4))
    assert not bounds.hold(np.array([[0.05, 0.7, 0.25], [0.5, 0.1, 0.4]])).any()
    many = candidates(np.random.default_rng(0), 20_000, SHARES, FREE, temperature=1.0)
    assert np.allclose(many.mean(axis=0), SHARES, atol=0.01)                  # a Dirichlet's mean
    flat = candidates(np.random.default_rng(0), 20_000, SHARES, FREE, temperature=0.0)
    assert np.allclose(flat.mean(axis=0), 1 / 3, atol=0.01)
    smooth = SHARES ** 0.5 / (SHARES ** 0.5).sum()
    assert np.allclose(candidates(np.random.default_rng(0), 20_000, SHARES, FREE).mean(axis=0), smooth, atol=0.01)
    spread = [candidates(np.random.default_rng(0), 5000, SHARES, FREE, strength=(s, s)).std() for s in (0.5, 50)]
    assert spread[0] > 2 * spread[1]


def test_bounds_that_leave_no_room_are_refused():
    with pytest.raises(ValueError, match="widen --bound"):
        draw(5, SHARES, Bounds(np.zeros(3), np.array([0.3333, 0.3334, 0.3334])))
    point = Bounds(np.array([0.2, 0.3, 0.5]), np.array([0.2, 0.3, 0.5]))
    assert draw(1, SHARES, point).tolist() == [[0.2, 0.3, 0.5]]
    with pytest.raises(ValueError, match="only 1 mixtures that differ"):
        draw(2, SHARES, point)


# a planted law: two targets, each falls with one source; a third source helps neither

LAW = {"reasoning": (1.0, np.array([-1.2, 0.6, 0.9])), "knowledge": (0.5, np.array([0.8, -0.9, 0.7]))}
WEIGHTS = {"reasoning": 0.6, "knowledge": 0.4}


def truth(mixtures):
    """The weighted value of mixtures (n, 3) under the planted law."""
    return sum(WEIGHTS[name] * (c + np.exp(mixtures @ a)) for name, (c, a) in LAW.items())


def grid(step=0.005):
    """All mixtures of three sources on a grid."""
    n = round(1 / step)
    return np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n


def planted(seed, n=24, noise=0.01, bounds=FREE):
    """A plan of one size, and results under the law with noise."""
    mixtures = np.vstack([[SHARES], draw(n - 1, SHARES, bounds, seed)])
    plan = Plan(["a", "b", "c"], mixtures.tolist(), {"1x16": []}, WEIGHTS, [], 0, {})
    rng, found = np.random.default_rng(seed + 1000), {}
    for i, x in enumerate(mixtures):
        values = {name: c + float(np.exp(x @ a)) + rng.normal(0, noise) for name, (c, a) in LAW.items()}
        found["1x16", i] = {"size": "1x16", "mixture": i, "values": values, "parameters": 1000}
    return plan, found


@pytest.mark.parametrize("fit, seed", [(fit, seed) for fit in FITS for seed in range(2 if fit == "tree" else 5)])
def test_the_optimum_of_a_planted_law_is_found(fit, seed):
    """The smooth fits are within 0.05 of each share and 0.01 of the lowest value, the tree within 0.1 of that; the token shares
    are more than 0.12 above it."""
    plan, found = planted(seed)
    best = truth(grid()).min()
    assert truth(SHARES[None])[0] - best > 0.12
    solved = solve(plan, found, fit, FREE, SHARES, 20_000, 64, seed)
    chosen = np.array(list(solved["shares"].values()))
    assert chosen.sum() == pytest.approx(1, abs=1e-9)
    assert truth(chosen[None])[0] < best + (0.1 if fit == "tree" else 0.01) and truth(chosen[None])[0] < truth(SHARES[None])[0]
    assert fit == "tree" or np.abs(chosen - grid()[truth(grid()).argmin()]).max() < 0.05
    assert solved["token_shares"]["value"] == pytest.approx(truth(SHARES[None])[0], abs=0.05)


@pytest.mark.parametrize("fit", ["log-linear", "additive"])
def test_a_planted_bound_is_kept(fit):
    free = grid()[truth(grid()).argmin()]
    # less of the best source, more of the worst
    bounds = Bounds(np.array([0.0, 0.0, 0.1]), np.array([free[0] - 0.2, 1.0, 1.0]))
    plan, found = planted(1, bounds=bounds)
    solved = solve(plan, found, fit, bounds, SHARES, 20_000, 64, 0)
    chosen = np.array(list(solved["shares"].values()))
    allowed = grid()[bounds.hold(grid())]
    assert (chosen >= bounds.low - 1e-3).all() and (chosen <= bounds.high + 1e-3).all()
    assert truth(chosen[None])[0] < truth(allowed).min() + 0.04


def test_the_log_linear_fit_finds_its_law_without_noise():
    plan, found = planted(2, noise=0.0)
    X = np.array(plan.mixtures)
    for t, (c, a) in enumerate(LAW.values()):
        fit = FITS["log-linear"](ridge=1e-6).fit(X, measured(plan, found, "1x16")[:, t])
        assert np.allclose(fit.predict(grid(0.1)), c + np.exp(grid(0.1) @ a), rtol=0.01)


@pytest.mark.parametrize("slope", [1.2, 9.0])
def test_problems_that_proxies_solve_completely_have_a_fit(slope):
    """The share that is wrong falls with a source until it is exactly 0; with the steep slope it is 0 for every mixture."""
    plan, found = planted(4, n=10, noise=0.0)
    X = np.array(plan.mixtures)
    y = np.maximum(0, 1 - slope * (X[:, 0] + 0.2)) if slope < 9 else np.zeros(10)
    assert (y == 0).any() and (slope == 9 or (y > 0).sum() > 2)
    for i in range(10):
        found["1x16", i]["values"]["knowledge"] = float(y[i])
    assert np.abs(FITS["log-linear"]().fit(X, y).predict(X) - y).max() < (0.2 if slope < 9 else 1e-3)
    rows = correlations(plan, found, folds=2)
    assert (rows[1]["log-linear"] is None) == (slope == 9)
    solved = solve(plan, found, "log-linear", FREE, SHARES, 200, 8, 0)
    assert np.isfinite(solved["predictions"]).all() and whole_page(plan, found, rows, solved, tuple(WEIGHTS), {})


def test_rank_correlations_find_the_noise_of_small_proxies():
    """The larger size has the law, the smaller one the law and noise as large as its spread."""
    plan, found = planted(5, n=20, noise=0.0)
    plan.sizes = {"small": [], "large": []}
    rng = np.random.default_rng(0)
    for i in range(20):
        row = found.pop(("1x16", i))
        found["large", i] = row
        found["small", i] = row | {"values": {k: v + rng.normal(0, 0.5) for k, v in row["values"].items()}, "parameters": 100}
    rows = correlations(plan, found, folds=4)
    assert [(row["target"], row["size"]) for row in rows] == [(t, s) for t in WEIGHTS for s in ("small", "large")]
    for small, large in (rows[:2], rows[2:]):
        assert large["log-linear"][0] > 0.98 and large["proxies"] is None
        expected = spearmanr([found["small", i]["values"][small["target"]] for i in range(20)],
                             [found["large", i]["values"][small["target"]] for i in range(20)])[0]
        assert small["proxies"][0] == pytest.approx(expected, abs=1e-4) and small["proxies"][0] < 0.9
        assert small["log-linear"][0] < large["log-linear"][0]
    assert best_fit(rows, plan) in ("log-linear", "additive")


# ranks, folds, frontiers

def test_rank_correlation_and_its_interval_are_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 25), rng.normal(size=25)                        # with ties
    b = b + a / 3
    rho, low, high = rank_correlation(a, b, resamples=300, seed=7)
    assert rho == pytest.approx(spearmanr(a, b)[0], abs=1e-4)
    draws = np.random.default_rng(7).integers(0, 25, (300, 25))
    again = np.percentile([spearmanr(a[d], b[d])[0] for d in draws], [2.5, 97.5])
    assert [low, high] == pytest.approx(again.tolist(), abs=1e-4)
    assert rank_correlation(a[:2], b[:2]) is None and rank_correlation(np.ones(9), b[:9]) is None
    assert rank_correlation(np.arange(5), -np.arange(5) ** 3)[0] == -1


def test_no_prediction_comes_from_a_fit_that_has_seen_it():
    seen = []

    class Spy:
        def fit(self, X, y):
            self.known = {tuple(x) for x in X}
            seen.append(len(X))
            return self

        def predict(self, X):
            assert not self.known & {tuple(x) for x in X}
            return X[:, 0]
    X = np.random.default_rng(0).random((23, 2))
    assert np.array_equal(held_out(Spy, X, X[:, 1], folds=5), X[:, 0]) and sum(seen) == 4 * 23


def test_the_frontier_is_what_nobody_beats():
    points = np.random.default_rng(0).random((200, 2)).round(2)
    kept = frontier(points)
    for i, p in enumerate(points):
        beaten = ((points <= p).all(axis=1) & (points < p).any(axis=1)).any()
        assert not beaten if i in kept else beaten or any((points[k] == p).all() for k in kept)


def test_the_best_mixture_is_the_mean_of_the_lowest():
    mixtures = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.6, 0.4]])
    assert best_mixture(mixtures, np.array([3.0, 9.0, 1.0, 2.0]), 2, np.zeros(2)).tolist() == [0.55, 0.45]


def test_one_number_of_whatever_was_measured():
    rows = [{"ops": 1, "process": {"pass@1": [0.8, 0, 1]}}, {"ops": 2, "process": {"pass@1": [0.4, 0, 1]}}, {"context": "zoo"}]
    assert value_of(rows) == pytest.approx(0.4) and value_of({"accuracy": {"pass@1": [0.25, 0, 1]}}) == 0.75
    assert value_of({"bits_per_byte": 1.5, "loss": 9}) == 1.5 and value_of({"loss": 2.5}) == 2.5


# proxies, with a program in the place of pretrain.py that needs no torch

DRIVER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from fakes import a_plan, fake
from mixing import proxies
fake(Path({folder!r}), {seconds})
plan = a_plan()
proxies.open_plan(Path({folder!r}) / "out", plan, join=True)
proxies.Worker(Path({folder!r}) / "out", plan, 2).run(shown=False)
"""


@pytest.fixture
def faked(tmp_path, monkeypatch):
    monkeypatch.setattr(proxies, "command", proxies.command)                  # put back afterwards
    fake(tmp_path)
    return tmp_path


def driver(folder, seconds, **how):
    code = DRIVER.format(root=str(ROOT), tests=str(Path(__file__).parent), folder=str(folder), seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **how)


def seen(folder):
    return Counter((folder / "seen").read_text().split("\n")) if (folder / "seen").exists() else Counter()


def without_time(found):
    return {job: {k: v for k, v in row.items() if k != "seconds"} for job, row in found.items()}


def test_a_killed_worker_goes_on_without_doing_anything_twice(faked):
    process = driver(faked, 0.6)
    deadline = time.time() + HANG

    def in_the_middle():                                  # something is done, and something else is begun
        events = seen(faked)
        running = sum(n * (1 if name.startswith("begun") else -1) for name, n in events.items() if name)
        return results(faked / "out") and running > 0
    while not in_the_middle() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)                   # its proxies run on, and nobody may begin them meanwhile
    process.wait()
    before = results(faked / "out")
    assert 0 < len(before) < 12
    open_plan(faked / "out", a_plan(), join=True)
    found = Worker(faked / "out", a_plan(), 2).run(shown=False)
    assert len(found) == 12 and all(found[job] == row for job, row in before.items())
    assert all(seen(faked)[f"begun {proxies.name_of(job)}"] == 1 for job in before)
    for job in found:                                     # never twice at the same time
        events = [line.split()[0] for line in (faked / "seen").read_text().split("\n") if line.endswith(proxies.name_of(job))]
        assert events == ["begun", "ended"] * (len(events) // 2), (job, events)
    (faked / "whole").mkdir()
    fake(faked / "whole")
    open_plan(faked / "whole" / "out", a_plan(), join=False)
    assert without_time(Worker(faked / "whole" / "out", a_plan(), 3).run(shown=False)) == without_time(found)


def test_ctrl_c_in_a_terminal_asks_each_proxy_to_save_once(faked):
    """The terminal sends it to the whole group of processes. A proxy that is asked twice ends unsaved (training/run.py)."""
    process = driver(faked, HANG, start_new_session=True)
    deadline = time.time() + HANG
    while sum(name.startswith("begun") for name in seen(faked)) < 2 and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)                                       # the worker has noted what it began, and waits
    os.killpg(process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=HANG)[1]
    assert {name: n for name, n in seen(faked).items() if name} == {
        f"{what} {job}": 1 for what in ("begun", "asked", "ended") for job in ("s-000", "s-001")}


def test_two_workers_share_the_proxies(faked):
    workers = [driver(faked, 0.05) for _ in range(2)]
    assert [w.wait(timeout=HANG) for w in workers] == [0, 0], [w.stderr.read() for w in workers]
    assert len(results(faked / "out")) == 12
    assert {n for name, n in seen(faked).items() if name.startswith("begun")} == {1}
    assert len((faked / "out" / "proxies.jsonl").read_text().splitlines()) == 12


def test_a_proxy_that_fails_is_told_with_its_own_words(faked):
    (faked / "fake.py").write_text("import sys\nprint('pretrain.py: the disk is full', file=sys.stderr)\nsys.exit(2)")
    open_plan(faked / "out", a_plan(), join=False)
    with pytest.raises(ValueError, match="proxy s-000 ended with 2: pretrain.py: the disk is full"):
        Worker(faked / "out", a_plan(), 1).run(shown=False)
    fake(faked)
    assert len(Worker(faked / "out", a_plan(), 3).run(shown=False)) == 12     # and can be done later


def test_a_confirmation_goes_on_with_more_seeds_and_with_fewer(faked):
    """It trains what is new. Another mixture is refused, and the line says which folder is in the way."""
    def confirm(seeds, share=0.3):
        args = Namespace(out=str(faked), confirm=seeds, jobs=2)
        return mix.confirm(args, a_plan(), {"shares": {"a": share, "b": 1 - share}})
    for seeds, trained in ((1, 2), (2, 4), (1, 4)):
        rate = confirm(seeds)["chosen"]["value"]
        assert rate[0] == len("large-000") and sum(name.startswith("begun") for name in seen(faked)) == trained
        assert set(seen(faked).values()) == {1}
    assert len(json.loads((faked / "confirm" / "plan.json").read_text())["mixtures"]) == 4
    with pytest.raises(ValueError, match=f"has other mixtures; .*, or remove {faked / 'confirm'}, and only what confirms"):
        confirm(2, share=0.4)


def test_a_line_that_was_cut_off_is_no_result(tmp_path):
    add_result(tmp_path, {"size": "s", "mixture": 0, "x": 1})
    with open(tmp_path / "proxies.jsonl", "a") as file:
        file.write('{"size": "s", "mix')
    assert list(results(tmp_path)) == [("s", 0)]
    add_result(tmp_path, {"size": "s", "mixture": 1, "x": 2})
    assert [row["x"] for row in results(tmp_path).values()] == [1, 2]


def test_another_plan_is_refused_and_named(tmp_path):
    open_plan(tmp_path / "out", a_plan(), join=False)
    with pytest.raises(ValueError, match="add --resume"):
        open_plan(tmp_path / "out", a_plan(), join=False)
    open_plan(tmp_path / "out", Plan(**json.loads(json.dumps(asdict(a_plan())))), join=True)
    with pytest.raises(ValueError, match="has other mixtures;"):
        open_plan(tmp_path / "out", a_plan(5), join=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds thesis.tex, and no plan"):
        open_plan(tmp_path / "mine", a_plan(), join=True)

"""The claims on mixtures: planted proxies whose truth is known, read from files as mix.py writes them."""

import json
import math

import numpy as np
import pytest
from scipy.stats import spearmanr

import mix
from claims import mixtures, proxy_size, target_weights
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.measures import numbers_of, read_result
from mixing.draw import Bounds, candidates
from mixing.table import correlations

SOURCES = mixtures.sources(Setting())
MIXTURES = candidates(np.random.default_rng(1), 20, np.full(4, 0.25), Bounds(np.zeros(4), np.ones(4)), temperature=0)


def law(X, size):
    """(n, 4) -> (n, 2): losses on knowledge and on problems which fall with what is told of each, the more the larger the model.
    So the best mixture for knowledge alone has no problems, and for problems alone nothing else."""
    problems, facts = X[:, :2].sum(1), X[:, 2:].sum(1)
    return np.column_stack([1 + 3 / size + np.exp(-2.5 * facts), 2 + 1 / size + 2 * np.exp(-2 * problems)])


def written(folder, measure):
    """Read back from files: a plan, and the lines of its proxies in another order. measure: (X, size) -> (n, 2)."""
    targets = ["loss:knowledge", "loss:world"]
    plan = {"sources": SOURCES, "mixtures": MIXTURES.tolist(), "targets": dict(zip(targets, (0.8, 0.2))),
            "sizes": {size: [] for size in mixtures.SIZES}, "flags": [], "seed": 0, "inputs": {}}
    (folder / "plan.json").write_text(json.dumps(plan))
    rows = [{"size": name, "mixture": i, "values": dict(zip(targets, values)), "parameters": size} for name, size in
            zip(mixtures.SIZES, (1, 2, 6)) for i, values in enumerate(measure(MIXTURES, size).tolist())]
    np.random.default_rng(0).shuffle(rows)
    (folder / "proxies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_result(folder, {"shares": {}})


def judged(claim, found, draws=60):
    numbers = numbers_of(claim.statistic, {"mixtures": found}, draws)
    return judge(claim, numbers), numbers


def test_what_mix_wrote_is_read_in_its_order(tmp_path):
    found = written(tmp_path, law)
    assert found.sources == SOURCES and np.array_equal(found.mixtures, MIXTURES)
    assert list(found.measured) == list(mixtures.SIZES)
    for name, size in zip(mixtures.SIZES, (1, 2, 6)):
        assert np.allclose(found.measured[name], law(MIXTURES, size))


def test_ranks_are_those_of_mix(tmp_path):
    """The same number as in the table of mix.py, computed from the same files."""
    def noisy(X, size):
        return law(X, size) + 0.2 * np.random.default_rng(size).standard_normal((len(X), 2))
    found = written(tmp_path, noisy)
    plan = mix.Plan(**json.loads((tmp_path / "plan.json").read_text()))
    rows = correlations(plan, mix.results(tmp_path), folds=10)
    for target, row in ((0, rows[0]), (1, rows[3])):
        assert row["size"] == mixtures.SIZES[0]
        goal = found.measured[mixtures.SIZES[-1]][:, target]
        said = mixtures.predictions(found, mixtures.SIZES[0])[:, target]
        assert math.isclose(mixtures.rank(found, said, goal), row[mixtures.FIT][0], abs_tol=1e-4)
        assert math.isclose(mixtures.rank(found, found.measured[mixtures.SIZES[0]][:, target], goal), row["proxies"][0],
                            abs_tol=1e-4)


def test_a_draw_takes_the_same_mixtures_at_every_size(tmp_path):
    found, seen = written(tmp_path, law), []
    numbers_of(lambda r: seen.append(r["mixtures"].drawn_mixtures()) or {"x": 0.0}, {"mixtures": found}, draws=30)
    assert np.array_equal(seen[0], np.arange(20)) and all(len(s) == 20 and len(set(s)) < 20 for s in seen[1:])
    counts = np.bincount(np.concatenate(seen[1:]), minlength=20)
    assert counts.min() > 10 and counts.max() < 55         # 30 expected of each
    x, y = np.arange(20.0), np.random.default_rng(3).standard_normal(20)
    found.weights = {found.of_mixtures(): np.array([2] * 10 + [0] * 10)}
    expected = spearmanr(np.repeat(x[:10], 2), np.repeat(y[:10], 2)).statistic
    assert math.isclose(mixtures.rank(found, x, y), expected) and math.isnan(mixtures.rank(found, x, np.ones(20)))


def test_small_proxies_rank_or_do_not(tmp_path):
    (verdict, why), numbers = judged(proxy_size.CLAIM, written(tmp_path, law))
    assert verdict == HOLDS and not why and numbers[proxy_size.SMALL][0] > 0.9 and numbers[proxy_size.SHARE][1] > 0.8

    def turned(X, size):                                  # what is good for small ones is bad for large ones
        return law(X, size) if size > 5 else 9 - law(X, size)
    (verdict, why), numbers = judged(proxy_size.CLAIM, written(tmp_path, turned))
    assert (verdict, why) == (FAILS, "") and numbers[proxy_size.SHARE][1] > 0.8

    def mixed_up(X, size):                                # rows of another mixture at the largest size: a broken harness
        values = law(X, size)
        return values[np.random.default_rng(5).permutation(20)] if size > 5 else values
    (verdict, why), _ = judged(proxy_size.CLAIM, written(tmp_path, mixed_up))
    assert verdict == OPEN and why


def test_the_optimum_moves_with_the_target_or_does_not(tmp_path):
    (verdict, why), numbers = judged(target_weights.CLAIM, written(tmp_path, law))
    assert verdict == HOLDS and not why and numbers[target_weights.SHIFT][0] > 0.05
    assert numbers[target_weights.FAR][1] > 0.5 and abs(numbers[target_weights.CHANCE][0]) < 0.1
    assert numbers["price: loss on knowledge, target 20% reasoning - none"][0] > 0
    assert numbers["gain: loss on problems, target none - 20% reasoning"][0] > 0

    def steep(X, size):                                   # knowledge counts so much that a fifth moves nothing
        return law(X, size) * [50, 1]
    (verdict, _), numbers = judged(target_weights.CLAIM, written(tmp_path, steep))
    assert verdict == FAILS and abs(numbers[target_weights.SHIFT][0]) < 0.05

    def one(X, size):                                     # both targets are the same: even all of the weight moves nothing
        return law(X, size)[:, [0, 0]]
    (verdict, why), numbers = judged(target_weights.CLAIM, written(tmp_path, one))
    assert abs(numbers[target_weights.SHIFT][0]) < 1e-3 and (verdict, why.split(" shows")[0]) == (OPEN, "the oracle arm")


@pytest.mark.parametrize("shares, problems", [([0.5, 0.25, 0.25, 0], 0.75), ([0, 0, 0.4, 0.6], 0)])
def test_the_share_of_problems(tmp_path, shares, problems):
    found = written(tmp_path, law)
    assert math.isclose(mixtures.of_reasoning(found, np.array(shares)), problems)
    assert np.allclose(mixtures.of_reasoning(found, np.array([shares, shares])), problems)

"""What the proxies say: how well each fit ranks mixtures, by size of the proxy; the best mixture; what it promises."""

import numpy as np

from mixing.draw import Bounds, candidates
from mixing.fit import FITS, held_out, rank_correlation
from mixing.proxies import Plan
from mixing.solve import best_mixture, weighted


def measured(plan: Plan, results: dict, size: str) -> np.ndarray:
    """The value of each target for each mixture at a size: (n, M), lower is better."""
    return np.array([[results[size, i]["values"][target] for target in plan.targets] for i in range(len(plan.mixtures))])


def correlations(plan: Plan, results: dict, folds: int) -> list[dict]:
    """For each target and size how well mixtures are ranked. Spearman's rho with its interval over mixtures, of the measured
    values at the largest size with

    proxies      the measured values at this size: no fit, and what a fit can hope for
    FIT          what a fit at this size predicts for mixtures that it has not seen

    and, as FIT_here, of the measured values at this size with the same predictions.
    """
    X, (*_, largest), rows = np.array(plan.mixtures), plan.sizes, []
    for t, target in enumerate(plan.targets):
        goal = measured(plan, results, largest)[:, t]
        for size in plan.sizes:
            y = measured(plan, results, size)[:, t]
            row = {"target": target, "size": size, "parameters": results[size, 0]["parameters"], "mixtures": len(y),
                   "spread": round(float(y.std()), 5), "proxies": None if size == largest else rank_correlation(y, goal)}
            for name, make in FITS.items():
                predicted = held_out(make, X, y, folds)
                row |= {name: rank_correlation(predicted, goal), f"{name}_here": rank_correlation(predicted, y)}
            rows.append(row)
    return rows


def best_fit(rows: list[dict], plan: Plan) -> str:
    """The fit that ranks best at the largest size, by its mean over the targets with a weight."""
    *_, largest = plan.sizes
    mine = [row for row in rows if row["size"] == largest and plan.targets[row["target"]]]
    return max(FITS, key=lambda name: sum(row[name][0] if row[name] else 0 for row in mine))


def solve(plan: Plan, results: dict, fit: str, bounds: Bounds, shares: np.ndarray, simulate: int, average: int, seed: int,
          **how) -> dict:
    """The best mixture by the fits of all targets at the largest size: {"shares", "predicted", "token_shares" (what is predicted
    and what was measured for them), "best_proxy"}; and under "simulated" and "predictions" the mixtures it was chosen from."""
    *_, largest = plan.sizes
    X, Y, weights = np.array(plan.mixtures), measured(plan, results, largest), list(plan.targets.values())
    fits = [FITS[fit]().fit(X, y) for y in Y.T]

    def predict(mixtures):
        return np.column_stack([f.predict(mixtures) for f in fits])           # (n, M)
    simulated = candidates(np.random.default_rng(seed), simulate, shares, bounds, **how)
    predictions = predict(simulated)
    best = best_mixture(simulated, weighted(predictions, weights), average, bounds.low)
    at_best, at_shares = predict(best[None])[0], predict(X[:1])[0]
    top = int(np.argmin(weighted(Y, weights)))

    def named(values):
        return {target: round(float(v), 5) for target, v in zip(plan.targets, values)}
    return {"fit": fit, "shares": {source: round(float(s), 4) for source, s in zip(plan.sources, best)},
            "predicted": named(at_best), "value": round(float(weighted(at_best, weights)), 5),
            "token_shares": {"shares": {source: float(s) for source, s in zip(plan.sources, X[0])}, "predicted": named(at_shares),
                             "measured": named(Y[0]), "value": round(float(weighted(Y[0], weights)), 5)},
            "best_proxy": {"shares": {source: float(s) for source, s in zip(plan.sources, X[top])}, "measured": named(Y[top]),
                           "value": round(float(weighted(Y[top], weights)), 5)},
            "simulated": simulated, "predictions": predictions}

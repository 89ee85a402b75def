"""From the losses of a few mixtures to the loss of any: three fits, and how well each ranks mixtures that it has not seen.

    log-linear   c + exp(a . x), c at least 0        data mixing laws (arXiv 2403.16952), Olmix (2602.12237)
    additive     a sum over the sources of a curve in their share, made of x, sqrt(x) and x^2, by ridge regression
    tree         boosted regression trees, as RegMix (2407.01492) has them

x is a mixture (S,). The first two are smooth; a tree knows nothing beyond the mixtures that it has seen. A fit is any object with
fit(X (n, S), y (n,)) and predict(X) -> (n,); one more is one more entry of FITS.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.stats import rankdata
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

LEAST = 1e-3                         # of the mean loss: a smaller one has a logarithm that would drown all others; 0 has none


class LogLinear:
    """c + exp(a . x). There is no constant beside a, for the shares of a mixture are 1 together. For each of a few c below the
    lowest loss, a is a linear regression of log(y - c); from the best of them least squares go on, on the losses themselves. A
    weak pull of all a towards their mean (`ridge`) keeps them where few proxies say little."""

    def __init__(self, ridge: float = 1e-3):
        self.ridge = ridge

    def fit(self, X: np.ndarray, y: np.ndarray) -> "LogLinear":
        scale = float(y.mean()) or 1.0                    # losses around 1, whatever their unit; 0: all problems are solved
        y = y / scale

        def apart(found):                                 # what least squares square: the errors, then the pull
            c, a = found[0], found[1:]
            return np.concatenate([c + np.exp(X @ a) - y, self.ridge * np.sqrt(len(y)) * (a - a.mean())])
        starts = []
        for c in np.linspace(0, 0.98 * y.min(), 25):
            more = np.eye(X.shape[1]) * 1e-3              # a source that no mixture has needs some value, too
            target = np.log(np.maximum(y - c, LEAST))
            a = np.linalg.lstsq(np.vstack([X, more]), np.concatenate([target, 1e-3 * np.full(len(more), target.mean())]),
                                rcond=None)[0]
            starts.append(np.array([c, *a]))
        start = min(starts, key=lambda found: float((apart(found) ** 2).sum()))
        low = np.array([0.0] + [-30.0] * X.shape[1])
        high = np.array([max(float(y.min()), 1e-6)] + [5.0] * X.shape[1])
        found = least_squares(apart, np.clip(start, low + 1e-9, high - 1e-9), bounds=(low, high)).x
        self.c, self.a, self.scale = found[0], found[1:], scale
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.scale * (self.c + np.exp(X @ self.a))


def curves(X: np.ndarray) -> np.ndarray:
    """(n, S) -> (n, 3 S): each share, its root and its square."""
    return np.hstack([X, np.sqrt(np.maximum(X, 0)), X ** 2])


def additive() -> Any:
    return make_pipeline(FunctionTransformer(curves), StandardScaler(), RidgeCV(np.geomspace(1e-4, 1e3, 29)))


def tree() -> Any:
    return GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, max_depth=3, random_state=0)


FITS = {"log-linear": LogLinear, "additive": additive, "tree": tree}


def held_out(make: Callable[[], Any], X: np.ndarray, y: np.ndarray, folds: int = 10, seed: int = 0) -> np.ndarray:
    """The prediction for each mixture by a fit that has not seen it, (n,): the mixtures are cut into folds, and each fold is
    predicted from the others. Nothing is tuned on what it is measured on."""
    found = np.zeros(len(y))
    for seen, new in KFold(min(folds, len(y)), shuffle=True, random_state=seed).split(X):
        found[new] = make().fit(X[seen], y[seen]).predict(X[new])
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray, resamples: int = 2000, seed: int = 0) -> list[float] | None:
    """Spearman's rho of two rows of numbers (n,), with its 95% bootstrap interval over the n mixtures: [rho, low, high]. None
    where one of them is constant or n is below 3, for then there is no order to compare."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    draws = np.random.default_rng(seed).integers(0, len(a), (resamples, len(a)))
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may be constant: it has no rho
        found = _rho(np.asarray(a)[draws], np.asarray(b)[draws])
    rho = _rho(np.asarray(a)[None], np.asarray(b)[None])[0]
    return [round(float(x), 4) for x in (rho, *np.percentile(found[np.isfinite(found)], [2.5, 97.5]))]


def _rho(a, b):
    """Rows (m, n), (m, n) -> (m,): the correlation of their ranks, ties having their mean rank."""
    a, b = (rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return (a * b).sum(axis=1) / np.sqrt((a ** 2).sum(axis=1) * (b ** 2).sum(axis=1))

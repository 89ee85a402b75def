"""The best mixture by the fits, and what one target costs another.

As RegMix (arXiv 2407.01492) solves it: very many mixtures are drawn like those of the proxies, so that no fit is asked far from
what it has seen; the fits say which are the best; their mean is the answer. One best draw would be a lucky error of the fit. The
bounds are linear, so the mean keeps them.
"""

import numpy as np

from mixing.draw import rounded


def weighted(predictions: np.ndarray, weights: list[float]) -> np.ndarray:
    """Predictions of all targets (n, M) and their weights (M,) -> the value of each mixture (n,), lower is better."""
    return predictions @ np.asarray(weights, float)


def best_mixture(mixtures: np.ndarray, values: np.ndarray, average: int, low: np.ndarray) -> np.ndarray:
    """The mean of the `average` mixtures (n, S) of the lowest values (n,), (S,). low: the least shares."""
    chosen = mixtures[np.argsort(values, kind="stable")[:average]]
    return rounded(chosen.mean(axis=0, keepdims=True), low)[0]


def frontier(points: np.ndarray) -> list[int]:
    """Which of the points (n, 2) no other one beats in both numbers, lower being better; in the order of the first number."""
    kept, least = [], np.inf
    for i in np.lexsort((points[:, 1], points[:, 0])):
        if points[i, 1] < least:
            kept.append(int(i))
            least = points[i, 1]
    return kept

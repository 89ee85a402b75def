"""The sigmoid of reinforcement in compute: R(C) = R0 + (A - R0) / (1 + (Cmid / C)^B) (ScaleRL, arXiv 2510.13786).

    found = fit(C, score)                                 C (n,) compute, score (n,) of one run, or of runs of one recipe
    found.A, found.B, found.Cmid, found.R0                each (value, low, high), a 95% interval
    found.score(1e21)                                     the score after so much compute

R0 is the score without reinforcement, A the ceiling, Cmid the compute at which half of the rise is done, and B how sudden it is.
Unlike the law of rl_law.py it has a ceiling; but it is that of one size and one recipe.

How it is fitted. With B and Cmid given it is linear in R0 and A, so least squares have a formula; B and Cmid are tried on a grid,
first a coarse one over all that is possible, then a fine one over what fits nearly as well as the best.
Intervals are likelihood intervals, as in rl_law.py: the range of a number over all parameters that fit nearly as well as the
best. A score lies from 0 to 1, and so do the ends of its interval. Early measurements, before a run is stable, may bend the
curve; the paper leaves them out.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from scaling.points import Rate

POWERS = 0.2, 10.0                   # between which B is tried
AROUND = 10, 100                     # Cmid is tried from a tenth of the smallest C to a hundred times the largest
TRIED = 60                           # values of each on a grid


@dataclass(frozen=True)
class Sigmoid:
    """A fit. M pairs of B and Cmid were tried; with each pair R(C) = (1 - h) R0 + h A, where h = 1 / (1 + (Cmid / C)^B).

    Bs, Cmids    (M,);  limits: the (smallest, largest) of each that were tried at first
    ends         (M, 2) R0 and A, the best ones for each pair
    spread       (M, 2, 2) the inverse of the sums of products of 1 - h and h
    rss, most    (M,) the sum of squares with them, and the largest that is not too bad
    """
    Bs: np.ndarray
    Cmids: np.ndarray
    ends: np.ndarray
    spread: np.ndarray
    rss: np.ndarray
    most: float
    limits: tuple

    @property
    def B(self) -> Rate:
        return self._of_grid(self.Bs, *self.limits[0])

    @property
    def Cmid(self) -> Rate:
        return self._of_grid(self.Cmids, *self.limits[1])

    @property
    def R0(self) -> Rate:
        return self._range(np.zeros(len(self.Bs)))

    @property
    def A(self) -> Rate:
        return self._range(np.ones(len(self.Bs)))

    def score(self, C: float) -> Rate:
        return self._range(risen(C, self.Bs, self.Cmids))

    def _range(self, h):
        """(best, low, high) of (1 - h) R0 + h A; h (M,)."""
        mix = np.stack([1 - h, h], axis=1)                                                          # (M, 2)
        values, fits = (mix * self.ends).sum(axis=1), self.rss <= self.most
        off = np.sqrt((self.most - self.rss) * np.einsum("mi,mij,mj->m", mix, self.spread, mix), where=fits, out=np.zeros(len(h)))
        found = values[self.rss.argmin()], (values - off)[fits].min(), (values + off)[fits].max()
        return tuple(float(v) for v in np.clip(found, 0, 1))

    def _of_grid(self, values, least, largest):
        """The same of a number that is tried; what was tried ends at limits, which are no ends of the interval."""
        found = values[self.rss <= self.most]
        low, high = 0.0 if found.min() <= least else found.min(), np.inf if found.max() >= largest else found.max()
        return float(values[self.rss.argmin()]), float(low), float(high)


def risen(C: float | np.ndarray, B: float | np.ndarray, Cmid: float | np.ndarray) -> np.ndarray:
    """The share of the rise that is done."""
    return 1 / (1 + (Cmid / C) ** B)


def fit(C: np.ndarray, score: np.ndarray, level: float = 0.95) -> Sigmoid:
    """Fits the curve to C (n,) and score (n,). ValueError, in one line, where they cannot tell its parameters."""
    C, score = np.asarray(C, float), np.asarray(score, float)
    left = len(C) - 4
    if left < 1 or len(set(C)) < 5:
        raise ValueError(f"{len(set(C))} measurements: the four parameters of a sigmoid need at least five; measure more often")
    if (C <= 0).any():
        raise ValueError("a sigmoid in compute needs compute above 0; R0 is fitted, so leave the score without training out")
    limits, most = (POWERS, (C.min() / AROUND[0], C.max() * AROUND[1])), 1 + t.ppf((1 + level) / 2, left) ** 2 / left
    coarse = _tried(C, score, limits, limits, most)
    near, box = coarse.rss <= coarse.most, []
    for values, (low, high) in zip((coarse.Bs, coarse.Cmids), limits, strict=True):
        step = (high / low) ** (1 / (TRIED - 1))          # from one value of the coarse grid to the next
        box.append((max(values[near].min() / step, low), min(values[near].max() * step, high)))
    found = _tried(C, score, box, limits, most)
    R0, A, Cmid = *found.ends[found.rss.argmin()], found.Cmid[0]
    if A <= R0:
        raise ValueError("the score does not rise with compute: a sigmoid that rises says nothing about it")
    if Cmid > C.max() or A > 1:
        raise ValueError("the score still rises at its last measurement, so its ceiling A cannot be told; train for longer, "
                         "or use the law without a ceiling")
    if Cmid < C.min():
        raise ValueError("the score has risen before its first measurement, so Cmid cannot be told; measure earlier")
    return found


def _tried(C, score, box, limits, most):
    """The fits with each B and Cmid on a grid over the box."""
    Bs, Cmids = (grid.ravel() for grid in np.meshgrid(*(np.geomspace(low, high, TRIED) for low, high in box)))
    h = risen(C, Bs[:, None], Cmids[:, None])                                                       # (M, n)
    parts = np.stack([1 - h, h], axis=2)                                                            # (M, n, 2)
    squares = np.einsum("mni,mnj->mij", parts, parts)                                               # (M, 2, 2)
    able = np.linalg.det(squares) > 1e-9 * len(C) ** 2    # where h hardly changes, R0 and A cannot be told apart
    Bs, Cmids, parts, spread = Bs[able], Cmids[able], parts[able], np.linalg.inv(squares[able])
    ends = np.einsum("mij,mnj,n->mi", spread, parts, score)                                         # (M, 2)
    rss = np.maximum(((score - np.einsum("mni,mi->mn", parts, ends)) ** 2).sum(axis=1), 1e-12)
    return Sigmoid(Bs, Cmids, ends, spread, rss, float(most * rss.min()), tuple(limits))

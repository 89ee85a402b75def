r"""The law of reinforcement with size: ln L = -k(N) ln X + E(N), k(N) = K / (1 + N0 / N) (arXiv 2509.25300).

    law = fit(curves)                                     curves (points.py) of at least two sizes
    law.K, law.N0, law.k(7e9)                             each (value, low, high), a 95% interval
    law.loss("runs/7b", 1e21)                             1 - score of that run after X, which may lie beyond what was measured

L is 1 - score, X what was spent (completions, or FLOPs), N the number of weights. The larger the model, the steeper its line, up
to K. E is a free number of each run. So the law says nothing of a size of which nothing was measured: a new size needs a few
early measurements. Put them into the fit as a curve of their own (`Curve.part`), and then ask for the rest:

    law = fit([*smaller, largest.part(0, 4)])
    law.loss(largest.name, largest.X[-1])

How it is fitted. With N0 given the law is linear in K and the E, so least squares have a formula; N0 is tried on a grid.

What an interval is. All parameters that fit nearly as well as the best ones: whose sum of squares is at most 1 + t^2 / v times
the smallest, where v is the number of measurements less that of parameters and t the quantile of Student's t for v. (This is the
likelihood interval for normal errors whose size is not known.) The interval of anything that follows from the parameters is the
range of its values there. Where it has no end, as that of N0 has when every size lies far below N0, its end is 0 or infinite.

It supposes independent errors of one size in ln L. Errors that a whole run shares go into its E; so several seeds say more about
the law than a run that is measured more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from scaling.points import Curve, Rate

GRID = 2000                          # values of N0, from a thousandth of the smallest size to a thousand times the largest


@dataclass(frozen=True)
class Law:
    """A fit. Grids are of M values of N0; J curves.

    N0s, Ks     (M,) N0, and the best K for each
    rss, most   (M,) the sum of squares with them, and the largest that is not too bad
    weight      (M,) how much the sum of squares grows with (K - its best)^2; infinite where K is known
    means       {name: (number of points, mean of ln X, mean of ln L)} of the curves
    """
    curves: tuple[Curve, ...]
    N0s: np.ndarray
    Ks: np.ndarray
    rss: np.ndarray
    most: float
    weight: np.ndarray
    means: dict[str, tuple[int, float, float]]

    @property
    def N0(self) -> Rate:
        if len(self.N0s) == 1:
            return (float(self.N0s[0]),) * 3              # it was given
        fits = np.flatnonzero(self.rss <= self.most)
        low = 0.0 if fits[0] == 0 else self.N0s[fits[0]]
        high = np.inf if fits[-1] == len(self.N0s) - 1 else self.N0s[fits[-1]]
        return float(self.N0s[self.rss.argmin()]), float(low), float(high)

    @property
    def K(self) -> Rate:
        """Where N0 has no upper end, K has none either: only K / N0 is known."""
        value, low, high = self._range(self.Ks, 1 / self.weight)
        return value, low, high if np.isfinite(self.N0[2]) else np.inf

    def k(self, N: float) -> Rate:
        """The steepness of a size, whether or not it was measured."""
        share = N / (N + self.N0s)
        return self._range(self.Ks * share, share ** 2 / self.weight)

    def loss(self, name: str, X: float) -> Rate:
        """The loss of a run after X. ValueError where the fit has no such run: its E is not known."""
        if name not in self.means:
            raise ValueError(f"{name}: is not in the fit, so E of its size is not known; add its first measurements")
        N = next(c.N for c in self.curves if c.name == name)
        n, x, y = self.means[name]
        share, beyond = N / (N + self.N0s), np.log(X) - x
        found = self._range(y - self.Ks * share * beyond, 1 / n + (share * beyond) ** 2 / self.weight)
        return tuple(float(v) for v in np.exp(found))

    def score(self, name: str, X: float) -> Rate:
        """1 - loss; 0 where the law, below what was measured, comes to a loss above 1."""
        value, low, high = (max(0.0, 1 - loss) for loss in self.loss(name, X))
        return value, high, low

    def _range(self, values, spread):
        """(best, low, high) of a number with these values (M,): with N0 given it may be off by the root of what the sum of
        squares has left, times its spread (M,)."""
        fits = self.rss <= self.most
        off = np.sqrt((self.most - self.rss[fits]) * spread[fits])
        return float(values[self.rss.argmin()]), float((values[fits] - off).min()), float((values[fits] + off).max())


def fit(curves: Sequence[Curve], level: float = 0.95) -> Law:
    """Fits the law. ValueError, in one line, where the measurements cannot tell its parameters."""
    sizes = {c.N for c in curves if np.ptp(c.X) > 0}
    if len(sizes) < 2:
        raise ValueError(f"{len(sizes)} size with two measurements or more: K and N0 need at least two sizes; add runs of "
                         "another one, or fit each run alone")
    N0s = np.geomspace(min(c.N for c in curves) / 1000, max(c.N for c in curves) * 1000, GRID)
    return _fit(curves, N0s, len(curves) + 2, level)


def fit_line(curve: Curve, level: float = 0.95) -> Law:
    """The line of one run alone, ln L = -k ln X + E: `Law.loss` and `Law.k` of its size say all there is."""
    if np.ptp(curve.X) == 0:
        raise ValueError(f"{curve.name}: all measurements were made after the same X, so k is not known; measure more often")
    return _fit([curve], np.zeros(1), 2, level)


def fit_known(curves: Sequence[Curve], K: float, N0: float, level: float = 0.95) -> Law:
    """K and N0 are known, from a paper or from other runs: only the E are fitted, for which a few measurements suffice."""
    return _fit(curves, np.array([float(N0)]), len(curves), level, K)


def _fit(curves, N0s, parameters, level, K=None):
    if len({c.name for c in curves}) < len(curves):
        raise ValueError("two runs have one name; E is a number of each run")
    if wrong := next((c for c in curves if (c.X <= 0).any() or (c.loss <= 0).any()), None):
        raise ValueError(f"{wrong.name}: X and loss must be above 0, for their logarithms")
    left = sum(len(c.X) for c in curves) - parameters
    if left < 1:
        raise ValueError(f"{left + parameters} measurements for {parameters} parameters: nothing is left to tell how well they "
                         "fit; measure more often")
    means, xx, xy, yy = {}, [], [], 0.0
    for c in curves:
        x, y = np.log(c.X), np.log(c.loss)
        means[c.name] = len(x), float(x.mean()), float(y.mean())
        x, y = x - x.mean(), y - y.mean()                 # which takes E out
        xx, xy, yy = [*xx, x @ x], [*xy, x @ y], yy + y @ y
    shares = np.array([[c.N] for c in curves]) / (np.array([[c.N] for c in curves]) + N0s)         # (J, M): k(N) / K
    weight, both = np.array(xx) @ shares ** 2, np.array(xy) @ shares                                # (M,)
    Ks = -both / weight if K is None else np.full(len(N0s), float(K))
    rss = np.maximum(yy + 2 * Ks * both + weight * Ks ** 2, 1e-12 * (1 + yy))                       # rounding may go below 0
    weight = weight if K is None else np.full(len(N0s), np.inf)
    most = rss.min() * (1 + t.ppf((1 + level) / 2, left) ** 2 / left)
    return Law(tuple(curves), N0s, Ks, rss, float(most), weight, means)

"""Mixtures to try, drawn around the shares of the tokens that there are, within bounds.

A mixture is an array of shares (S,), one for each source, none below 0 and together 1. The draw is RegMix's (arXiv 2407.01492):
a Dirichlet distribution whose mean is the smoothed token shares, and whose strength is itself drawn, so that some mixtures lie
near that mean and others in the corners.
"""

from dataclasses import dataclass

import numpy as np

SMALLEST = 1e-3                      # a smaller share is none
DIGITS = 4                           # of a share


@dataclass(frozen=True)
class Bounds:
    """The least and the largest share of each source, (S,) each."""
    low: np.ndarray
    high: np.ndarray

    def hold(self, mixtures: np.ndarray) -> np.ndarray:
        """Which of the mixtures (n, S) lie within: (n,) of bool."""
        return ((mixtures >= self.low - 1e-9) & (mixtures <= self.high + 1e-9)).all(axis=1)


def token_shares(tokens: list[int | None], weights: list[float], endless: int) -> np.ndarray:
    """The share of each source in all tokens there are, (S,). tokens: of each source, None for one that never ends, which then
    holds `endless` of them, as many as a run can take; weights: a factor for each."""
    held = np.array([endless if n is None else n for n in tokens], float) * weights
    return held / held.sum()


def bounds_of(tokens: list[int | None], run_tokens: int, max_epochs: float, given: dict[int, tuple[float, float]]) -> Bounds:
    """What a run of so many tokens may take from each source: at most max_epochs passes over its tokens (0: any), and what the
    user has given, {number of a source: (least, largest share)}. ValueError where no mixture fits."""
    low, high = np.zeros(len(tokens)), np.ones(len(tokens))
    for i, n in enumerate(tokens):
        if max_epochs and n is not None:
            high[i] = min(1.0, max_epochs * n / run_tokens)
        if i in given:
            low[i], high[i] = max(low[i], given[i][0]), min(high[i], given[i][1])
    if (low > high).any() or low.sum() > 1 + 1e-9 or high.sum() < 1 - 1e-9:
        raise ValueError(f"no mixture fits the bounds: the sources may have at least {low.round(3).tolist()} and at most "
                         f"{high.round(3).tolist()} of the tokens; widen --bound, raise --max-epochs, or lower --run-tokens")
    return Bounds(low, high)


def candidates(rng: np.random.Generator, count: int, shares: np.ndarray, bounds: Bounds, temperature: float = 0.5,
               strength: tuple[float, float] = (0.5, 5.0)) -> np.ndarray:
    """So many mixtures within the bounds, (count, S).

    shares: the token shares (S,). temperature: their exponent before they become the mean; 1 leaves them, 0 makes all sources
    alike. strength: of the Dirichlet distribution, 15 values between these two; a small one gives corners. What a bound leaves
    free is shared out; a draw that is out of bounds is drawn again. ValueError if nearly all are.
    """
    mean = shares ** temperature / (shares ** temperature).sum()
    strengths, free = np.geomspace(*strength, 15), max(0.0, 1 - bounds.low.sum())
    found, tried = np.zeros((0, len(mean))), 0
    while len(found) < count:
        gammas = rng.standard_gamma(rng.choice(strengths, (4 * count + 64, 1)) * mean)                        # (n, S)
        gammas = gammas[gammas.sum(axis=1) > 0]           # each row is a Dirichlet draw when divided by its sum
        mixtures = rounded(bounds.low + free * gammas / gammas.sum(axis=1, keepdims=True), bounds.low)
        tried, found = tried + len(mixtures), np.vstack([found, mixtures[bounds.hold(mixtures)]])
        if tried > 2000 * count and len(found) < count:
            raise ValueError(f"of {tried:,} mixtures that were drawn only {len(found)} lie within the bounds; widen --bound, "
                             "or raise --max-epochs")
    return found[:count]


def rounded(mixtures: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Mixtures (n, S) without the shares that are next to nothing (unless a bound asks for them), in few digits, 1 together."""
    kept = np.where((mixtures < SMALLEST) & (low == 0), 0, mixtures)
    kept = np.round(kept / kept.sum(axis=1, keepdims=True), DIGITS)
    rows, largest = np.arange(len(kept)), kept.argmax(axis=1)
    kept[rows, largest] = np.round(kept[rows, largest] + 1 - kept.sum(axis=1), DIGITS)                        # what is left over
    return kept


def draw(count: int, shares: np.ndarray, bounds: Bounds, seed: int = 0, apart: float = 0.02, **how) -> np.ndarray:
    """So many mixtures to train proxies on, no two of them nearer than `apart` (the sum of the differences). how: as in
    `candidates`. ValueError where there are not so many."""
    rng, chosen = np.random.default_rng(seed), []
    for _ in range(50):
        for mixture in candidates(rng, 4 * count, shares, bounds, **how):
            if all(np.abs(mixture - other).sum() >= apart for other in chosen):
                chosen.append(mixture)
            if len(chosen) == count:
                return np.array(chosen)
    raise ValueError(f"within the bounds there are only {len(chosen)} mixtures that differ, and --proxies asks for {count}; ask "
                     "for fewer, or widen the bounds")

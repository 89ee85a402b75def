"""Proxies on mixtures of knowledge and reasoning, as one command of mix.py, which the claims on RegMix share.

Four sources: problems in two styles, and facts about people as biographies and as questions. Two targets, both the loss on
documents in nats per token, where lower is better: on the facts of the training documents, and on new problems. The proxies have
three sizes and see equally many tokens. What mix.py measured is read back from its folder (runner/measures.py), and
intervals are over mixtures: a draw takes some mixtures twice and leaves others out, the same ones at every size.
"""

import functools

import numpy as np
from scipy.stats import spearmanr

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command, make
from claims.runner.measures import Result
from mixing.draw import Bounds, candidates
from mixing.fit import FITS, held_out
from mixing.solve import best_mixture, weighted

OPS = "1-2"
SIZES = ("2x16", "2x32", "2x96")                           # layers x width, from small to large
WEIGHTS = {"knowledge": 0.8, "reasoning": 0.2}             # of the targets, in the order in which they are measured
FIT = "log-linear"                                         # that of data mixing laws and Olmix, smooth and quick
SHAPE = "--heads 2 --kv-heads 1 --attention window+nope --window 8 --rope-theta 100 --qk-norm head --seq-len 256"
RATES = "--lr 0.04 --adam-lr 0.008 --decay 0.3"


def sources(s: Setting) -> list[str]:
    facts = f"knowledge:tiny,split=pretrain,seed={s.seed}"
    return [tiny.world(s, OPS, "pretrain"), tiny.world(s, OPS, "pretrain", style="long"), facts, f"{facts},format=qa"]


def mixed(s: Setting, mixtures: int = 20, steps: int = 90) -> Command:
    """One proxy for each mixture and size. The tokenizer knows the people of this seed."""
    words = make("tokenizer.py", "train", "--data", *sources(s), "--vocab-size", 768)
    targets = [f"loss:knowledge:tiny,split=pretrain,seed={s.seed}@{WEIGHTS['knowledge']}",
               f"loss:{tiny.world(s, OPS, 'test')}@{WEIGHTS['reasoning']}"]
    return make("mix.py", "--sources", *sources(s), "--target", *targets, "--tokenizer", words, "--proxies", s.count(mixtures),
                "--sizes", *SIZES, "--steps", s.steps(steps), "--temperature", 0, "--max-epochs", 0, "--fit", FIT,
                "--pretrain", f"{SHAPE} {RATES} --device {s.device}", "--jobs", 2, "--seed", s.seed)


def value(measured: np.ndarray) -> np.ndarray:
    """(n, 2) of the targets -> (n,): what mix.py minimises."""
    return weighted(measured, list(WEIGHTS.values()))


def predictions(found: Result, size: str) -> np.ndarray:
    """(n, 2): what the fit at a size says of each mixture, which it has not seen. They are made once for all draws."""
    key = ("held out", size)
    if key not in found.values:
        with np.errstate(invalid="ignore"):               # few mixtures (toy) leave nothing for cross-validation
            found.values[key] = np.column_stack([held_out(FITS[FIT], found.mixtures, y) for y in found.measured[size].T])
    return found.values[key]


def rank(found: Result, x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho of two numbers (n,) of each mixture, over the mixtures of this draw; not a number where one is constant."""
    chosen = found.drawn_mixtures()
    return float(spearmanr(x[chosen], y[chosen]).statistic) if np.ptp(x[chosen]) and np.ptp(y[chosen]) else np.nan


@functools.cache
def simulated(sources: int) -> np.ndarray:
    """4,000 mixtures to choose from, drawn like those of the proxies, (4000, sources)."""
    return candidates(np.random.default_rng(0), 4000, np.full(sources, 1 / sources),
                      Bounds(np.zeros(sources), np.ones(sources)))


def optima(found: Result, chosen: np.ndarray, *reasoning: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each weight of reasoning in the target the best mixture by fits to the chosen proxies at the largest size: [(shares of
    the sources (4,), predicted targets (2,))]. It is the mean of the 40 best of 4,000, as mix.py has it of more. Without proxies
    there is none: not a number."""
    many, (*_, largest) = simulated(found.mixtures.shape[1]), found.measured
    if not len(chosen):
        return [(np.full(many.shape[1], np.nan), np.full(2, np.nan)) for _ in reasoning]
    with np.errstate(invalid="ignore"):                   # a draw of few mixtures leaves nothing for cross-validation
        fits = [FITS[FIT]().fit(found.mixtures[chosen], y) for y in found.measured[largest][chosen].T]
    predicted = np.column_stack([fit.predict(many) for fit in fits])          # (4000, 2)
    best = [best_mixture(many, weighted(predicted, [1 - w, w]), 40, np.zeros(many.shape[1])) for w in reasoning]
    return [(shares, np.array([float(fit.predict(shares[None])[0]) for fit in fits])) for shares in best]


def of_reasoning(found: Result, shares: np.ndarray) -> np.ndarray:
    """How much of mixtures (..., 4) is problems: (...)."""
    return shares[..., [source.startswith("world:") for source in found.sources]].sum(axis=-1)

"""Claim 19a: the loss of reinforcement falls by a power law that is steeper the larger the model, and smaller models predict it.

Four sizes, pre-trained on as many tokens, go through the same reinforcement and measure themselves on its way. The law
ln L = -k(N) ln X + E(N) (scaling/rl_law.py) is fitted to the three smaller ones. E is a free number of each size, so the first
third of the measurements of the largest one goes into the fit as well; its last third is predicted. A prediction is also right
where nothing happens: "late - early" says how much does.
"""

import numpy as np

from claims import sweep, tiny
from claims.runner.claim import Claim, Setting, about_zero, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result
from scaling import rl_law

WIDTHS = (64, 96, 128, 192)                                # from an eighth of a million weights to a million
STEEPER, ERROR = "k, largest - smallest", "score of the largest, predicted - measured"


def arms(s: Setting) -> dict[str, Command]:
    runs = {f"width {width}": command for (width, *_), command in sweep.grid(s, WIDTHS).items()}
    largest = f"width {WIDTHS[-1]}"
    return runs | {"again": sweep.run(s, sweep.base(s), seed=s.seed + 100),
                   "largest, before": tiny.evaluate(s, sweep.base(s, WIDTHS[-1])),
                   "largest, after": tiny.evaluate(s, runs[largest])}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    curves = [sweep.curve(r[f"width {width}"]) for width in WIDTHS]
    k = {width: sweep.steepness(c) for width, c in zip(WIDTHS, curves, strict=True)}
    (early, late), largest = sweep.thirds(curves[-1]), curves[-1].name
    law = rl_law.fit([*curves[:-1], early])
    predicted = np.mean([law.score(largest, X)[0] for X in late.X])
    return {STEEPER: k[WIDTHS[-1]] - k[WIDTHS[0]], ERROR: float(predicted - late.score.mean()),
            "score of the largest, late - early": float(late.score.mean() - early.score.mean()),
            **{f"k, width {width}": value for width, value in k.items()},
            "k, other draws": sweep.steepness(sweep.curve(r["again"])) - k[sweep.WIDTH],
            "largest, after - before": r["largest, after"].rate() - r["largest, before"].rate()}


CLAIM = Claim(
    number="19a", says="RL's loss falls by a power law, steeper for larger models; small ones predict the largest.",
    source="Scaling behaviours of RL post-training, arXiv 2509.25300",
    theirs="Qwen2.5 0.5B to 72B: k(N) = K / (1 + N0 / N); over samples K 0.135 and N0 11.5B from all sizes, 0.163 and 17.0B "
    "from those up to 32B",
    would_show="k of the largest above that of the smallest, and its late score within 0.05 of what the law predicts",
    arms=arms, statistic=statistic, headline=STEEPER, also=(ERROR,),
    verdict=lambda n: both(positive(n[STEEPER]), about_zero(n[ERROR])),
    null="k, other draws", oracle="largest, after - before")

"""A sweep that claims on scaling share: reinforcement that measures itself on its way, over sizes and ways to spend a step.

    runs = grid(s, widths=(64, 128), settings=((32, 8),))          {(width, P, G): the command of a run}
    found = curve(r["width 64"])                                   its scaling.points.Curve, from the arm that is this command

All runs of a grid draw as many completions, at a rate that stays up, and measure themselves fifteen times on the same test
problems, greedily. Within a seed an interval comes from drawing these measurements again; it does not hold what the chance of
training and of the test problems does to a whole run. Over seeds it does.

The folders of these runs are what `python bench.py plan --fit` reads; claims/run.py NAME --show prints their names.
"""

from collections.abc import Sequence

import numpy as np

from claims import tiny
from claims.runner.claim import Setting
from claims.runner.commands import Command
from claims.runner.measures import Result
from scaling.points import Curve, curve_of

STEPS, SETTING, WIDTH = 60, (32, 8), 128                   # of reinforcement, as the tiny world usually has them
MEASURED = 15                                              # times on the way


def base(s: Setting, width: int = WIDTH) -> Command:
    """As many tokens for each size. The usual width is the base that other claims have, too."""
    return tiny.steady(s, tiny.tokenizer(), **({} if width == WIDTH else {"width": width}))


def run(s: Setting, init: Command, steps: int = STEPS, **flags) -> Command:
    """Reinforcement at a rate that stays up: one that falls would bend the curve towards its end."""
    usual = {"decay": 0, "eval_data": tiny.world(s, tiny.EDGE, "test"), "eval_problems": s.count(100),
             "eval_every": max(1, s.steps(steps) // MEASURED)}
    return tiny.grpo(s, init, steps=steps, **usual | flags)


def grid(s: Setting, widths: Sequence[int] = (WIDTH,), settings: Sequence[tuple[int, int]] = (SETTING,),
         steps: int = STEPS) -> dict[tuple[int, int, int], Command]:
    """{(width, P, G): a run} of each pair of a size and a setting. steps: of the usual setting; all draw as many completions."""
    completions = steps * SETTING[0] * SETTING[1]
    return {(width, P, G): run(s, base(s, width), round(completions / (P * G)), prompts=P, group=G)
            for width in widths for P, G in settings}


def curve(r: Result, by: str = "samples") -> Curve:
    """The measurements of a run, in a bootstrap those of this draw. (A draw that has one of them alone has no slope, and counts
    as the whole.)"""
    if by not in r.values:
        r.values[by] = curve_of(r.records, by, str(r.line.get("out", "run")))
    drawn = r.drawn_evaluations()
    return r.values[by].taken(drawn) if len(set(drawn)) > 1 else r.values[by]


def thirds(c: Curve) -> tuple[Curve, Curve]:
    """(the first third of the measurements, the last third), at least one each."""
    count = max(1, len(c.X) // 3)
    return c.part(0, count), c.part(-count)


def steepness(c: Curve) -> float:
    """k of the run's own line, ln L = -k ln X + E, by least squares."""
    x, y = np.log(c.X), np.log(c.loss)
    return float(-((x - x.mean()) @ y) / ((x - x.mean()) @ x))

"""Says how to spend a budget of reinforcement, by runs that measured themselves on their way: bench.py plan --fit."""

from collections.abc import Callable

from scaling import rl_law
from scaling.allocation import Option, options
from scaling.points import Curve, Rate, read_curve

HEAD = ("weights", "prompts", "rollouts", "steps", "FLOPs", "hours", "score", "95% interval", "beyond", "run")
WIDTHS = (9, 9, 10, 11, 10, 10, 8, 17, 9, 0)


def spend(runs: list[str], flops: float, hours: float, law: str, steepness: tuple[float, float] | None,
          time_of: Callable[[Curve], tuple[float, bool]]) -> dict:
    """Prints a row for each run, what as many FLOPs or hours of it would buy, the best first, and behind them those that do not
    fit into memory; returns the same.

    flops, hours     the budget, one of them; the other is 0
    law, steepness   as in scaling/allocation.py
    time_of(curve)   (seconds of a step like those of the run, whether it fits into memory)
    """
    if bool(flops) == bool(hours):
        raise ValueError("--fit needs what there is to spend: --budget FLOPS or --hours H, one of them")
    curves = [read_curve(run) for run in dict.fromkeys(runs)]
    if flat := [c.name for c in curves if len(c.X) > 1 and float(c.score.max() - c.score.min()) < 1e-9]:
        raise ValueError(f"--fit {flat[0]}: all its measurements found the same score, so no law can be fitted; measure on "
                         "easier problems, on more of them, or for longer")
    times = {c.name: time_of(c) for c in curves}
    by_time = (lambda c, budget: budget * 3600 / times[c.name][0]) if hours else None
    found = sorted(options(curves, hours or flops, law, by_time, steepness), key=lambda option: not times[option.curve.name][1])
    laws = fitted(curves) if law == "size" and not steepness else []
    rows = [row_of(option, *times[option.curve.name]) for option in found]
    print("".join(f"{title:>{width}}" for title, width in zip(HEAD[:-1], WIDTHS)) + f"  {HEAD[-1]}")
    for row, option in zip(rows, found, strict=True):
        cells = (f"{option.curve.N:.3g}", row["prompts"], row["rollouts"], f"{row['steps']:,}", f"{row['flops']:.3g}",
                 f"{row['hours']:.3g}", *score_text(option.score), f"{option.beyond:.3g}x")
        print("".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS)) + f"  {option.curve.name}"
              + ("" if row["fits"] else "   too large"))
    for text in notes(found, laws):
        print(text)
    return {"best": rows[0], "options": rows, "laws": laws}


def row_of(option: Option, seconds: float, fits: bool) -> dict:
    """A way to spend the budget, for the last line."""
    c = option.curve
    return {"run": c.name, "parameters": c.N, "prompts": c.prompts, "rollouts": c.group, "steps": int(option.steps),
            "flops": float(f"{option.X:.4g}"), "hours": float(f"{option.steps * seconds / 3600:.4g}"),
            "score": [round(v, 4) for v in option.score], "beyond": float(f"{option.beyond:.4g}"), "fits": fits}


def score_text(score: Rate) -> tuple[str, str]:
    value, low, high = score
    return f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"


def fitted(curves: list[Curve]) -> list[dict]:
    """The laws with size, of each P and G that several sizes were measured with."""
    found = []
    for setting in dict.fromkeys(c.setting for c in curves):
        alike = [c for c in curves if c.setting == setting]
        if len({c.N for c in alike if len(set(c.X)) > 1}) > 1:
            law = rl_law.fit(alike)
            found.append({"prompts": setting[0], "rollouts": setting[1], "K": law.K, "N0": law.N0})
    return found


def notes(found: list[Option], laws: list[dict]) -> list[str]:
    """What a reader must know beside the table."""
    lines = [f"{law['prompts']} prompts x {law['rollouts']} rollouts: ln L = -k(N) ln X + E, k(N) = K / (1 + N0 / N), "
             f"K {interval_text(law['K'])}, N0 {interval_text(law['N0'])}" for law in laws]
    alike = sum(option.score[2] >= found[0].score[1] for option in found[1:])
    if alike:
        lines.append(f"{alike} of the others cannot be told from the best: their intervals overlap")
    if found[0].beyond > 1:
        lines.append(f"the best one goes {found[0].beyond:.3g} times as far as was measured, where the law is a guess")
    return lines


def interval_text(rate: Rate) -> str:
    """A value and its interval, which may have no end."""
    value, low, high = rate
    return f"{value:.3g} [{low:.3g}, {f'{high:.3g}' if high < float('inf') else 'no end'}]"

"""The numbers of the page: rates and gains over a band of operations, the headline, what a stage used."""

import re
from collections.abc import Iterable

from data import split_spec
from page.plots import whole_rate
from page.stages import RL, Stage
from tasks.accuracy import gain, interval, parse_band, pass_at_k


def band_of(stage: Stage, measured: Iterable[int], chosen: str = "") -> list[int]:
    """Which of the measured numbers of operations the headline is about: `chosen` ("4-6"), else those that the stage trained
    on most, else all."""
    if chosen:
        return sorted(set(parse_band("--band", chosen)) & set(measured)) or sorted(measured)
    worlds = [d for d in stage.flags.get("data", []) if d.startswith("world:")]
    main = max(worlds, key=lambda spec: split_spec(spec)[1], default="")
    ops = re.search(r"ops=(\d+)(?:-(\d+))?", main)
    return [n for n in sorted(measured) if ops and int(ops[1]) <= n <= int(ops[2] or ops[1])] or sorted(measured)


def per_problem(table: dict, band: list[int], k: int = 1) -> list[float]:
    """Verified pass@k of each problem of the band; empty if rows lack "right" or a problem has fewer than k samples."""
    counts = [pair for ops in band for pair in table[ops].get("right", [])]
    return [pass_at_k(n, c, k) for c, n in counts] if counts and min(n for _, n in counts) >= k else []


def rate_of(table: dict, band: list[int], k: int = 1) -> list[float]:
    """Verified pass@k over the band: [mean, low, high], or [mean] if only the means of the rows are known, or []."""
    if each := per_problem(table, band, k):
        return list(interval(each))
    rows = [(table[ops]["problems"], table[ops]["process"].get(f"pass@{k}")) for ops in band]
    if not rows or any(rate is None for _, rate in rows):
        return []
    return rows[0][1] if len(rows) == 1 else [sum(n * rate[0] for n, rate in rows) / sum(n for n, _ in rows)]


def paired_gain(before: dict, after: dict, band: list[int]) -> list[float]:
    """Mean gain in verified pass@1 and its 95% bootstrap interval, each problem paired with itself; [] if unknown."""
    counts = [len(per_problem(table, band)) for table in (before, after)]
    return list(gain(before.values(), after.values(), band)) if counts[0] == counts[1] > 0 else []


def common_specs(before: Stage | None, after: Stage) -> list[str]:
    """The worlds on which pass@1 of both stages was measured, at the same numbers of operations."""
    return [spec for spec, rows in after.tables.items() if before and rate_of(rows, rows)
            and before.tables.get(spec, {}).keys() == rows.keys()]


def headline(before: Stage | None, after: Stage, evaluation: dict) -> tuple[str, str, dict]:
    """What the pipeline's last step gained: (a sentence, its explanation, the numbers for the JSON line)."""
    specs = common_specs(before, after)
    if not specs:
        loss = after.result.get("loss")
        return (f"{after.name}: {after.steps:,} steps" + (f", loss {loss:.3f}" if isinstance(loss, float) else ""),
                "No two stages were measured on the same problems, so there is no gain to report.", {})
    a, b = before.tables[specs[0]], after.tables[specs[0]]
    band = band_of(after, a, evaluation.get("band"))
    old, new, grown = rate_of(a, band), rate_of(b, band), paired_gain(a, b, band)
    numbers = {"before": before.name, "after": after.name, "band": band, "gain": grown or None,
               "verified": [round(old[0], 4), round(new[0], 4)]}
    how = "greedy" if evaluation.get("k", [1]) == [1] else f"temperature {evaluation.get('temperature', '?')}"
    text = (f"{after.name} against {before.name}: {whole_rate(grown or [new[0] - old[0]], '+.2f')} in pass@1 ({how}) "
            f"over {sum(a[ops]['problems'] for ops in band)} problems. "
            + ("95% bootstrap interval over problems, paired." if grown else "No per-problem results, so no interval."))
    if evaluation.get("solved"):
        solved = band_of(after, a, evaluation["solved"])
        numbers["gain_on_solved"] = paired_gain(a, b, solved)
        text += f" At {span(solved)} operations, solved before: {whole_rate(numbers['gain_on_solved'], '+.2f')}."
    verb = ("takes" if not grown else "raises" if grown[1] > 0 else "lowers" if grown[2] < 0
            else "does not measurably move")
    return (f"{'RL' if after.script == RL[0] else after.name} {verb} verified accuracy at {span(band)} operations, "
            f"from {old[0]:.2f} to {new[0]:.2f}", text, numbers)


def used(stage: Stage) -> tuple:
    """Seconds and tokens of a stage; None if the log does not have them.

    grpo.py logs both at each step, and its tokens are the sampled ones. In the results of the other scripts `seconds` counts
    from the last resume."""
    each = [r for r in stage.records if {"seconds", "rollout_share", "rollout_tokens_per_second"} <= r.keys()]
    if each and len(each) == stage.steps:
        sampled = sum(r["seconds"] * r["rollout_share"] * r["rollout_tokens_per_second"] for r in each)
        return sum(r["seconds"] for r in each), sampled
    return stage.result.get("seconds"), stage.steps * stage.flags.get("batch_tokens", 0) or None


def span(band: list[int]) -> str:
    return f"{band[0]} to {band[-1]}" if len(band) > 1 else str(band[0])

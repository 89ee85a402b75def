"""Computes accuracy with intervals: pass@k, bootstrap intervals, the gain between two checkpoints, and tables as text.

A rate is (mean, low, high): the mean over problems and its 95% bootstrap interval. A table is a list of rows (dict): one for each
number of operations ("ops") and one for each context. tasks/tables.py describes a row.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np

Rate = tuple[float, float, float]                         # mean, low, high


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the probability that at least one of k samples is right, from n >= k samples of which c are right
    (arXiv 2107.03374, equation 1)."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def interval(values: Sequence[float], resamples: int = 2000, seed: int = 0) -> Rate:
    """Mean of the values and its 95% bootstrap interval."""
    values = np.asarray(values, float)
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return round(float(values.mean()), 4), round(float(low), 4), round(float(high), 4)


def rates(right: list[list[bool]], ks: Iterable[int]) -> dict[str, Rate]:
    """{"pass@k": rate}. right: for each problem a list that says which of its samples are right."""
    return {f"pass@{k}": interval([pass_at_k(len(r), sum(r), k) for r in right]) for k in ks}


def gain(before: Iterable[dict], after: Iterable[dict], ops: Collection[int], k: int = 1) -> Rate:
    """The gain in pass@k (every step right) from one table to another of the same problems, on these numbers of operations: the
    mean difference over problems, with its paired bootstrap interval."""
    pairs = [[pair for row in table if row.get("ops") in ops for pair in row["right"]] for table in (before, after)]
    return interval([pass_at_k(n, c, k) - pass_at_k(m, b, k) for (b, m), (c, n) in zip(*pairs, strict=True)])


def gains(measured: dict, bands: dict, k: int = 1) -> list[dict]:
    """The gain from each checkpoint to the next, in each band of each world: in pass@1, and as "gain_at_k" in pass@k.

    measured: {folder: {spec: {"rows"}}}; bands: {name: numbers of operations}."""
    found = []
    for before, after in itertools.pairwise(measured):
        for spec in (s for s in measured[before] if s.startswith("world:")):
            tables = [measured[folder][spec]["rows"] for folder in (before, after)]
            for name, ops in bands.items():
                if any(row.get("ops") in ops for row in tables[0]):
                    found.append({"data": spec, "band": name, "ops": [min(ops), max(ops)], "before": before,
                                  "after": after, "gain": gain(*tables, ops)}
                                 | ({"k": k, "gain_at_k": gain(*tables, ops, k)} if k > 1 else {}))
    return found


def parse_band(flag: str, text: str) -> range:
    """"4-6" -> range(4, 7)."""
    low, dash, high = text.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()) or not 1 <= int(low) <= int(high or low):
        raise ValueError(f"{flag} {text}: use a number of operations, or a range such as 4-6")
    return range(int(low), int(high or low) + 1)


# tables as text

BY_PROBLEM = ("right", "answered", "formed", "lengths", "needless")          # fields that have an entry for each problem


def without_problems(table: list[dict]) -> list[dict]:
    """The table without the results of single problems."""
    return [{key: value for key, value in row.items() if key not in BY_PROBLEM} for row in table]


def print_world(table: list[dict], ks: Sequence[int]) -> None:
    """Prints the table of one checkpoint, first by operations and then by context."""
    head = "".join(f" {f'answer pass@{k}':>24} {f'process pass@{k}':>24}" for k in ks)
    tools = any("calls" in row for row in table)
    of_tools = f" {'calls':>6} {'failed':>6} {'needless':>8}" if tools else ""
    for field, title in (("ops", "operations"), ("context", "context")):
        print(f"{title:<12}{'problems':>9}{head} {'steps':>7} {'tokens':>7} {'thinking':>8} {'empty':>6}{of_tools}  common error")
        for row in (r for r in table if field in r):
            cells = "".join(f" {rate_text(row[part][f'pass@{k}']):>24}" for k in ks for part in ("answer", "process"))
            calls = f" {row['calls']:>6.3f} {row['failed_calls']:>6.3f} {row['needless_calls']:>8.3f}" if tools else ""
            print(f"{row[field]!s:<12}{row['problems']:>9}{cells} {row['steps']:>7.3f} {row['tokens']:>7.1f} "
                  f"{row['thinking']:>8.3f} {row['empty']:>6.3f}{calls}  {row['why']}")


def rate_text(rate: Rate | Sequence[float] | None, form: str = ".3f") -> str:
    """0.610 [0.500, 0.700], of (mean, low, high) or of (mean,); a dash where there is nothing."""
    if not rate:
        return "–"
    return f"{rate[0]:{form}}" + (f" [{rate[1]:{form}}, {rate[2]:{form}}]" if len(rate) == 3 else "")


def print_evaluation(found: dict) -> None:
    """Prints the result of evaluate_all (measuring/in_training.py)."""
    for name, result in found.items():
        if isinstance(result, list):
            print(name)
            print_world(result, [1])
        else:
            print(file_line(name, result))


def file_line(name: str, result: dict) -> str:
    """One line about a file: the result of file_accuracy, bits_per_byte or heldout_loss (measuring/)."""
    if "bits_per_byte" in result:
        return f"{name}: {result['bits_per_byte']:.4f} bits per byte over {result['bytes']:,} bytes"
    if "loss" in result:
        return f"{name}: {result['loss']:.4f} nats per token over {result['tokens']:,} tokens"
    rates = ", ".join(f"{k} {rate_text(rate)}" for k, rate in result["accuracy"].items())
    first = next(iter(result["accuracy"]))
    rates += "".join(f"; {kind} {found[first][0]:.3f}" for kind, found in result.get("kinds", {}).items())
    return (f"{name}: {result['problems']} questions, {rates}; {result['tokens']} tokens, thinking {result['thinking']:.3f}, "
            f"empty {result['empty']:.3f}, cut off {result['cut_off']:.3f}"
            + (f", calls {result['calls']:.3f}, failed {result['failed_calls']:.3f}" if "calls" in result else ""))


def print_comparison(measured: dict, ks: Sequence[int], found_gains: Sequence[dict] = ()) -> None:
    """Prints verified accuracy by operations for every world, with a column for each checkpoint and k; and the gains in bands."""
    folders = list(measured)
    for spec in [s for s in measured[folders[0]] if s.startswith("world:")]:
        print(f"\nverified accuracy on {spec}")
        print("operations  " + "".join(f" {f'{f[-18:]} pass@{k}':>26}" for k in ks for f in folders))
        for rows in zip(*(measured[f][spec]["rows"] for f in folders), strict=True):
            if "ops" in rows[0]:
                cells = [f" {rate_text(row['process'][f'pass@{k}']):>26}" for k in ks for row in rows]
                print(f"{rows[0]['ops']:<12}{''.join(cells)}")
        for g in (g for g in found_gains if g["data"] == spec):
            mean, low, high = g["gain"]
            print(f"gain in pass@1 on {g['ops'][0]}-{g['ops'][1]} operations ({g['band']}), {g['before'][-18:]} to "
                  f"{g['after'][-18:]}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]")

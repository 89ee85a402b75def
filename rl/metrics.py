"""What is known of the completions of a step, as metrics {name: (sum, divisor)} (training/metrics.py)."""

import numpy as np

from rl.rollouts import Collected, has_spread


class Largest(float):
    """A metric of which the log shows the largest."""


def add(metrics: dict, more: dict) -> None:
    """Adds the metrics of `more` to those of `metrics`, in place."""
    for name, value in more.items():
        if isinstance(value, Largest):
            metrics[name] = max(metrics.get(name, value), value)
        else:
            before = metrics.get(name, (0, 0))
            metrics[name] = before[0] + value[0], before[1] + value[1]


def means(metrics: dict, ranks) -> dict[str, float]:
    """{name: value over all ranks}. All ranks must call this together, with the same names."""
    names = sorted(name for name, value in metrics.items() if not isinstance(value, Largest))
    sums = ranks.sum(*(x for name in names for x in metrics[name])) if names else []
    found = {name: sums[2 * i] / max(sums[2 * i + 1], 1e-9) for i, name in enumerate(names)}
    for name in sorted(metrics.keys() - found.keys()):
        found[name] = ranks.most(float(metrics[name]))
    return {name: found[name] for name in metrics}


def of_rollouts(found: Collected) -> dict:
    """Of all completions that this rank sampled.

    reward is what the task gave; the penalties, which training adds to it, stand beside it. zero_spread is the share of
    groups of which no completion earned more than another (the penalty for length included)."""
    flat, several = [r for g in found.sampled for r in g], [g for g in found.sampled if len(g) > 1]
    lengths = [len(r.completion.tokens) for r in flat]
    of_completions = {
        "reward": [r.score.reward for r in flat],
        "overlong_penalty": [r.overlong_penalty for r in flat],
        "kl_penalty": [r.kl_penalty for r in flat],
        "answer": [r.score.answer_ok for r in flat],
        "process": [bool(r.score.process_ok) for r in flat],
        "steps_right": [r.score.steps_ok or 0 for r in flat],
        "length_mean": lengths,
        "cut_off": [r.cut_off for r in flat]}
    of_groups = {
        "reward_std": [float(np.std([r.score.reward for r in g], ddof=1)) for g in several],
        "zero_spread": [not has_spread(g) for g in several]}
    metrics = {name: (sum(values), len(flat)) for name, values in of_completions.items()}
    metrics |= {name: (sum(values), len(found.sampled)) for name, values in of_groups.items()}
    return metrics | {"length_max": Largest(max(lengths, default=0))}


def of_time(found: Collected, rollout_seconds: float, trained: int, train_seconds: float, ranks: int) -> dict:
    """Tokens per second over all ranks, and how the time and the decode slots were used. trained: slots that hold tokens, in all
    updates of the step on this rank."""
    return {"rollout_tokens_per_second": (found.busy, rollout_seconds / ranks),
            "train_tokens_per_second": (trained, train_seconds / ranks),
            "rollout_share": (rollout_seconds, rollout_seconds + train_seconds),
            "wasted_slots": (found.slots - found.busy, found.slots)}

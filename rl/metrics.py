"""What is known of the completions of a step, as metrics {name: (sum, divisor)} (training/metrics.py)."""

import numpy as np

from rl.rollouts import Collected, has_spread
from training.metrics import Largest


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

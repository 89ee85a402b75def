"""Makes the record of a step in the log, and the last line of the run.

Means over completions, groups and tokens are metrics {name: (sum, divisor)} (training/metrics.py). Every metric that is added to
run.metrics during a step is in its record.
"""

import time

import numpy as np

from rl.batches import Minibatch
from rl.diagnosis import Diagnosis, nothing_to_learn
from rl.groups import Collected, has_spread
from rl.rollouts import Rollouts
from training.metrics import Largest, add
from training.run import Run


def of_completions(found: Collected, tools: bool = False) -> dict:
    """Metrics of all completions that this rank sampled.

    reward is that of the task. Training adds the penalties to it; they have their own metrics. zero_spread is the share of groups
    in which all completions have the same reward (with the penalty for length). tools: whether completions may call any."""
    flat, several = [r for g in found.sampled for r in g], [g for g in found.sampled if len(g) > 1]
    lengths = [len(r.completion.tokens) for r in flat]
    by_completion = {
        "reward": [r.score.reward for r in flat],
        "overlong_penalty": [r.overlong_penalty for r in flat],
        "kl_penalty": [r.kl_penalty for r in flat],
        "answer": [r.score.verdict.answer_ok for r in flat],
        "process": [bool(r.score.verdict.process_ok) for r in flat],
        "steps_right": [r.score.verdict.steps_ok or 0 for r in flat],
        "length_mean": lengths,
        "cut_off": [r.cut_off for r in flat]}
    if tools:
        calls = [r.completion.calls for r in flat]
        by_completion |= {"calls": list(map(len, calls)), "failed_calls": [sum(call.failed for call in c) for c in calls],
                          "needless_calls": [r.needless for r in flat]}
    levels = {level: [len(r.completion.tokens) for r in flat if getattr(r.problem, "difficulty", "") == level]
              for level in ("easy", "medium", "hard")}    # of tasks that know it
    by_group = {
        "reward_std": [float(np.std([r.score.reward for r in g], ddof=1)) for g in several],
        "zero_spread": [not has_spread(g) for g in several]}
    metrics = {name: (sum(values), len(flat)) for name, values in by_completion.items()}
    metrics |= {name: (sum(values), len(found.sampled)) for name, values in by_group.items()}
    metrics |= {f"length_{level}": (sum(found), len(found)) for level, found in levels.items() if found}
    return metrics | {"length_max": Largest(max(lengths, default=0))}


def of_time(found: Collected, trained: int, seconds: float, ranks: int) -> dict:
    """Metrics of the use of time and decode slots. trained: slots with tokens, in all updates of the step on this rank. seconds:
    of the complete step. Tokens per second are those of all ranks together."""
    return {"rollout_tokens_per_second": (found.busy, found.seconds / ranks),
            "train_tokens_per_second": (trained, (seconds - found.seconds) / ranks),
            "rollout_share": (found.seconds, seconds),
            "wasted_slots": (found.slots - found.busy, found.slots)}


class Records:
    """Makes the record of each step, and prints what a user should see at once on standard error.

    over_batch: rewards are compared over the batch, and teach even if all rewards of a group are equal. None: what is learned
    does not depend on rewards (distill.py)."""

    def __init__(self, run: Run, rollouts: Rollouts, over_batch: bool | None):
        self.run, self.args, self.rollouts, self.over_batch = run, run.args, rollouts, over_batch
        self.diagnosis, self.rollout_seconds = Diagnosis(run.args.steps), 0.0

    def of_step(self, found: Collected, minibatches: list[Minibatch], updates: int = 1, more: int = 0) -> dict:
        """Adds the metrics of this step, in which so many passes were made over the minibatches, to run.metrics; returns more
        fields for its record. All ranks must call this together. more: slots that were trained on beside the minibatches."""
        run, args, step = self.run, self.args, self.run.step + 1
        seconds = time.perf_counter() - found.began
        trained = updates * sum(minibatch.slots for minibatch in minibatches) + more
        self.rollout_seconds += found.seconds
        run.progress.tokens += int(run.sum(trained)[0])
        add(run.metrics, of_completions(found, self.rollouts.use_tools) | of_time(found, trained, seconds, run.ranks))
        record = {"seconds": round(seconds, 3)} | self.rollouts.notes()
        if self.over_batch is not None:
            record |= self.diagnose(found, updates * len(minibatches))
        for name, text, error in self.rollouts.failures:
            run.progress.say(f"step {step}: reward {name} failed on a completion, counted as 0: {error}: {text[:200]!r}")
            record.setdefault("failed_rewards", []).append([name, str(error), text[:2000]])
        self.rollouts.failures.clear()
        if args.show_every and (step % args.show_every == 0 or step == 1):
            record["samples"] = [{"question": r.problem.question, "text": r.reply.text, "reward": round(r.score.reward, 4),
                                  "reason": r.score.verdict.reason} for g in found.sampled[:3] for r in g[:1]]
        return record

    def diagnose(self, found: Collected, made: int) -> dict:
        """A note for the record of a step in which nothing was learned, or whose loss must be zero. made: updates."""
        why = nothing_to_learn(self.run, found.sampled, self.over_batch, self.args.mask_truncated)
        if warning := self.diagnosis.note(self.run.step + 1, why):
            self.run.say(warning)
        if not why and abs(self.run.loss) < 1e-6 and made == 1:
            why = "the loss is zero because it must be: r = 1 and the advantages cancel; see grad_norm"
        return {"note": why} if why else {}

    def result(self) -> dict:
        """Fields for the last line of the run."""
        found = {"rollout_share": round(self.rollout_seconds / max(self.run.progress.seconds(), 1e-9), 3),
                 "prompts": self.rollouts.prompts.table()}
        return found | ({"warning": self.diagnosis.warning} if self.diagnosis.warning else {})

"""Summarises graded replies: the table of accuracy on the world, samples to show, and the style of replies."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formats.chat import split_thinking
from tasks.accuracy import rates
from tasks.rewards import format_reward
from tasks.task import Problem, Reply
from tasks.tools import needless_calls
from tasks.verdict import Verdict
from tasks.verify import mark_lines


def reply_style(groups: list[list[Reply]]) -> dict:
    """The style of replies, right or wrong: their mean length in tokens, and three shares: of replies with reasoning in a think
    block, of replies without text outside of it, and of replies that were cut off at their limit. With tools also how many calls
    a reply makes, and how many of them fail."""
    replies = [reply for group in groups for reply in group]
    split = [split_thinking(reply.text) for reply in replies]

    def mean(values, digits=4):
        return round(float(np.mean(values)), digits)
    return {"tokens": mean([r.tokens for r in replies], 1),
            "thinking": mean([bool((reasoning or "").strip()) for reasoning, _ in split]),
            "empty": mean([not said.strip() for _, said in split]),
            "cut_off": mean([r.finish == "length" for r in replies])} | ({
                "calls": mean([len(r.calls or ()) for r in replies]),
                "failed_calls": mean([sum(call.failed for call in r.calls or ()) for r in replies])}
                if any(r.calls is not None for r in replies) else {})


@dataclass
class Graded:
    """A problem, its replies, and the verdict on each reply."""
    problem: Problem
    replies: list[Reply]
    verdicts: list[Verdict]


def world_table(graded: list[Graded], ks: Sequence[int] = (1,)) -> list[dict]:
    """One row for each number of operations, then one for each context:

    ops or context   the number of operations, or the context
    problems         the number of problems
    answer, process  pass@k for the answer alone, and with every step right
    steps            the share of steps that are right
    why              the most common first error
    right            rows by operations: [samples with every step right, samples] of each problem, in order
    answered         the same of samples with the right answer
    lengths          the same of tokens: [tokens of all samples, samples]
    well_formed      the share of replies that ended by themselves, in the right form (the reward "format", tasks/rewards.py)
    formed           the same as [such samples, samples] of each problem
    needless_calls   of tools, in a reply; needless: the same as [calls, samples] of each problem
    and what `reply_style` finds
    """
    table = []
    for field in ("ops", "context"):
        for value in sorted({getattr(a.problem, field) for a in graded}):
            part = [a for a in graded if getattr(a.problem, field) == value]
            verdicts = [v for a in part for v in a.verdicts]
            reasons = [v.reason.partition(": ")[2] or v.reason for v in verdicts if not v.ok]
            kinds = [" ".join(word for word in reason.split()[:2]) for reason in reasons]
            row = {field: value, "problems": len(part),
                   "answer": rates([[v.answer_ok for v in a.verdicts] for a in part], ks),
                   "process": rates([[v.ok for v in a.verdicts] for a in part], ks),
                   "steps": round(float(np.mean([v.steps_ok for v in verdicts])), 4),
                   **reply_style([a.replies for a in part]),
                   "why": max(set(kinds), key=kinds.count) if kinds else ""}
            formed = [[int(format_reward(a.problem, reply)) for reply in a.replies] for a in part]
            row["well_formed"] = round(float(np.mean(formed)), 4)
            if field == "ops":
                row["formed"] = [[sum(each), len(each)] for each in formed]
                row["right"] = [[sum(v.ok for v in a.verdicts), len(a.verdicts)] for a in part]
                row["answered"] = [[sum(v.answer_ok for v in a.verdicts), len(a.verdicts)] for a in part]
                row["lengths"] = [[sum(r.tokens for r in a.replies), len(a.replies)] for a in part]
            if "calls" in row:
                needless = [[needless_calls(r.calls, a.problem.task.useful_calls(a.problem)) for r in a.replies] for a in part]
                row["needless_calls"] = round(float(np.mean(needless)), 4)
                if field == "ops":
                    row["needless"] = [[sum(counts), len(counts)] for counts in needless]
            table.append(row)
    return table


def world_samples(graded: list[Graded], keep: int) -> list[dict]:
    """The first completion of the first `keep` problems of each number of operations. Each line is marked as right (True), wrong
    (False) or neither (None)."""
    samples, seen = [], Counter()
    for a in graded:
        seen[a.problem.ops] += 1
        if seen[a.problem.ops] <= keep:
            p, text, verdict = a.problem, a.replies[0].text, a.verdicts[0]
            samples.append({"ops": p.ops, "question": p.question, "gold": p.solution, "text": text, "ok": verdict.ok,
                            "reason": verdict.reason, "lines": mark_lines(p, text)})
    return samples

"""Explains why nothing is learned, when the rewards of a step give no signal; for the log and the last line."""

import math

from rl.groups import Group, Rollout, has_spread
from tasks.rewards import answer_of
from training.ranks import Ranks

ADVICE = ("use prompts at the edge of competence (--keep-rate 0.1 0.9), a larger --group, a longer --max-new-tokens, or "
          "another --reward")


class Diagnosis:
    """Counts the steps in which nothing is learned, and warns if there are many in a row."""

    def __init__(self, last_step: int):
        self.last_step, self.in_vain, self.learned, self.warning = last_step, 0, False, ""

    def note(self, step: int, why: str) -> str:
        """Takes the reason why nothing was learned in this step, or "". Returns a warning if it is time for one, else ""."""
        self.in_vain, self.learned = self.in_vain + 1 if why else 0, self.learned or not why
        never = why and not self.learned and step == self.last_step and self.in_vain < 5
        if not (self.in_vain in (5, 50) or never):
            return ""
        self.warning = f"nothing can be learned from the rewards of the last {self.in_vain} steps: {why}; {ADVICE}"
        return self.warning


def nothing_to_learn(run: Ranks, groups: list[Group], over_batch: bool, masked: bool = False) -> str:
    """Why there is nothing to learn from a batch, with statistics of completions and groups. "" if rewards differ within a group
    (with over_batch: anywhere in the batch). masked: completions that were cut off have no loss. All ranks must call this
    together."""
    flat = [r for g in groups for r in g]
    earned, alike = [r.earned for r in flat], sum(not has_spread(g) for g in groups)
    teach = run.sum(sum(not (masked and r.cut_off) for r in flat))[0]
    if over_batch:
        spread = run.max(max(earned, default=-math.inf)) > -run.max(max((-e for e in earned), default=-math.inf))
    else:
        spread = run.sum(len(groups) - alike)[0] > 0
    if spread and teach:
        return ""
    if not teach:
        why = "every completion was cut off and has no loss"
    else:
        why = "all rewards of the batch were alike" if over_batch else "no group had two different rewards"
    return f"{why}; {shares(run, groups, flat, alike)}"


def shares(run: Ranks, groups: list[Group], flat: list[Rollout], alike: int) -> str:
    """Statistics of the completions and the groups, over all ranks, as text. alike: the number of groups without spread."""
    answered = [answer_of(r.problem, r.reply) is not None for r in flat]
    endless = sum(r.cut_off and has_answer for r, has_answer in zip(flat, answered, strict=True))
    n, cut, endless, silent = run.sum(len(flat), sum(r.cut_off for r in flat), endless, answered.count(False))
    count, solved, failed, same = run.sum(len(groups), sum(all(r.score.solved for r in g) for g in groups),
                                          sum(not any(r.score.solved for r in g) for g in groups), alike)
    return (f"of {n:.0f} completions {cut / n:.0%} cut off at the cap ({endless / n:.0%} with an answer but no end "
            f"token), {silent / n:.0%} no answer found; of {count:.0f} groups {solved / count:.0%} all right, "
            f"{failed / count:.0%} all wrong, {same / count:.0%} no spread")

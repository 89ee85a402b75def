"""Claim 12b: of the policy losses, those that bound a divergence learn more at the edge than GRPO's clip of the ratio.

Every batch is trained on in four parts, so that the policy moves away from the one that sampled: with one update for a batch the
ratio is 1, no bound acts, and most losses are the same. The curve of a run is that of the reward in its log; each arm "LOSS, run"
is the run itself, which the arm "LOSS" measures on test problems.
"""

from statistics import mean

from claims import tiny
from claims.runner.claim import Claim, Setting, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

LOSSES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "dppo_tv", "dppo_kl", "sapo", "maxrl", "rloo", "reinforce++",
          "reinforce++-baseline", "ppo")
AFTER = "after RL, dppo - grpo"


def reinforced(s: Setting, loss: str, **flags) -> Command:
    return tiny.grpo(s, tiny.steady(s, tiny.tokenizer()), **{"loss": loss, "minibatches": 4, "lr": 5e-4} | flags)


def arms(s: Setting) -> dict[str, Command]:
    found = {"base": tiny.evaluate(s, tiny.steady(s, tiny.tokenizer())),
             "grpo again": tiny.evaluate(s, reinforced(s, "grpo", seed=s.seed + 100))}
    for loss in LOSSES:
        run = reinforced(s, loss)
        found |= {loss: tiny.evaluate(s, run), f"{loss}, run": run}
    return found


def curve(run: Result) -> list[float]:
    """The mean reward of the rollouts in each third of the steps: from these three points one sees how fast it learns."""
    rewards = [record["reward"] for record in run.records if "reward" in record]
    third = max(1, len(rewards) // 3)
    return [mean(rewards[:third]), mean(rewards[third:-third] or rewards), mean(rewards[-third:])]


def statistic(r: dict[str, Result]) -> dict[str, float]:
    """What each loss gains on test problems, and the points of its curve. These have no interval within a seed; over seeds they
    have one."""
    found = {AFTER: (r["dppo_tv"].rate() + r["dppo_kl"].rate()) / 2 - r["grpo"].rate()}
    found |= {f"{loss} - before RL": r[loss].rate() - r["base"].rate() for loss in LOSSES}
    for loss in LOSSES:
        found |= {f"{loss}, reward in third {i}": value for i, value in enumerate(curve(r[f"{loss}, run"]), 1)}
    return found | {"RL with other draws": r["grpo again"].rate() - r["grpo"].rate()}


CLAIM = Claim(
    number="12b", says="A bound on the divergence of the policy learns more at the edge than a clip of the ratio.",
    source="DPPO, arXiv 2602.04879; the other losses of grpo.py beside it",
    theirs="Qwen3-30B-A3B, AIME24: DPPO is stabler than GRPO and ends higher (a curve, findings in words)",
    would_show="Above 0: at equal steps DPPO's two losses reach more, in the mean, than GRPO's",
    arms=arms, statistic=statistic, headline=AFTER, verdict=lambda n: positive(n[AFTER]),
    null="RL with other draws", oracle="grpo - before RL")

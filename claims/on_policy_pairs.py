"""Claim 22b: training on what the policy says now reaches more than preferences among what it said once; rounds lie between.

All have the same number of questions, and eight answers to each. Offline, the student answers all of them and DPO learns from
these pairs; in rounds, each third is answered by the policy that the third before it has made; GRPO answers anew at every step.
"""

from claims import preferences
from claims.preferences import QUESTIONS, STEPS, dpo, online, solves
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

ROUNDS = 3                                                 # 3 x 640 questions, as many as 60 steps of GRPO with 32 prompts
ONLINE, IN_ROUNDS = "verified, GRPO - offline DPO", "verified, DPO in rounds - offline DPO"
OVER_ROUNDS = "verified, GRPO - DPO in rounds"


def rounds(s: Setting, policy: Command) -> Command:
    for part in range(ROUNDS):
        policy = dpo(s, policy, preferences.contrasts(s, policy, part + 1))
    return policy


def offline(s: Setting, start: Command, **flags) -> Command:
    return dpo(s, start, preferences.contrasts(s, start, count=ROUNDS * QUESTIONS), ROUNDS * STEPS, **flags)


def arms(s: Setting) -> dict[str, Command]:
    start = preferences.student(s)
    made = {"student": start, "offline": offline(s, start), "rounds": rounds(s, start), "GRPO": online(s, start),
            "offline, again": offline(s, start, seed=s.seed + 100), "GRPO, again": online(s, start, seed=s.seed + 100)}
    return {name: solves(s, checkpoint) for name, checkpoint in made.items()}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    rate = {name: result.rate() for name, result in r.items()}
    formed = {name: result.rate(of="formed") for name, result in r.items()}
    return {ONLINE: rate["GRPO"] - rate["offline"], IN_ROUNDS: rate["rounds"] - rate["offline"],
            OVER_ROUNDS: rate["GRPO"] - rate["rounds"],
            "pass@8, GRPO - offline DPO": r["GRPO"].rate(8) - r["offline"].rate(8),
            "verified, offline DPO - student": rate["offline"] - rate["student"],
            "well-formed, GRPO - offline DPO": formed["GRPO"] - formed["offline"],
            "offline, another seed": rate["offline, again"] - rate["offline"],
            "GRPO with other draws": rate["GRPO, again"] - rate["GRPO"],
            "verified, GRPO - student": rate["GRPO"] - rate["student"]}


CLAIM = Claim(
    number="22b", says="At equal samples online RL reaches more than DPO on pairs drawn once, and DPO in rounds lies between.",
    source="Dynamic fine-tuning, arXiv 2508.05629 (its comparison of offline RL); rounds after arXiv 2404.19733",
    theirs="Qwen2.5-Math-1.5B, mean of its benchmarks: DPO 23.20, GRPO 32.00, from 15.92; rounds are not compared there",
    would_show="All above 0: GRPO and DPO in rounds against DPO on as many pairs of the student alone, and GRPO against rounds",
    arms=arms, statistic=statistic, headline=ONLINE, also=(IN_ROUNDS, OVER_ROUNDS),
    verdict=lambda n: both(positive(n[ONLINE]), positive(n[IN_ROUNDS]), positive(n[OVER_ROUNDS])),
    null="GRPO with other draws", oracle="verified, GRPO - student")

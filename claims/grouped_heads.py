"""Claim 28: few groups of key and value heads make rollouts cheaper, and cost no accuracy after reinforcement.

1, 2, 4 and 8 groups for 8 query heads. What fewer groups save in weights the feed-forward gets, so that all models have as many.
Memory is what the keys and values of one sequence take, by the shape of the model; time is that of the rollouts of grpo.py, whose
prompts are texts of a length. A model that has hardly learned yet writes nearly all replies to their end, so the replies of all
models are as long. Other work on the machine disturbs the time, so it cannot prove the claim, only withhold the verdict.
"""

import statistics

from claims import tiny
from claims.runner.claim import HOLDS, OPEN, Claim, Setting, both, no_worse
from claims.runner.commands import Command, make
from claims.runner.measures import Result

HEADS, FEW = 8, 2
FEED_FORWARD = {1: 395, 2: 384, 4: 363, 8: 320}            # groups: width that gives each model as many weights
CHEAPER = 0.95                                             # of the time; closer to 1 it may be other work on the machine
LENGTHS = (256, 1024)                                      # of prompts, in tokens
AFTER, TIME = f"after RL, {FEW} - {HEADS} groups", f"time of a rollout at {LENGTHS[-1]} tokens, {FEW} / {HEADS} groups"


def base(s: Setting, groups: int, **flags) -> Command:
    return tiny.steady(s, tiny.tokenizer(), heads=HEADS, kv_heads=groups, ff=FEED_FORWARD[groups], **flags)


def rollouts(s: Setting, groups: int, length: int) -> Command:
    """Six steps at a rate of 0: 16 answers to each of 4 texts of so many tokens, of a model after two steps of training."""
    texts = f"needle:tiny,kind=chain,length={length},seed={s.seed}"
    return make("grpo.py", "--init", base(s, groups, steps=2), "--data", texts, "--mode", "plain", "--reward", "answer",
                "--steps", 6, "--prompts", 4, "--group", 16, "--rows", 64, "--max-new-tokens", 32, "--lr", 0, "--show-every", 0,
                "--seed", s.seed, "--device", s.device)


def arms(s: Setting) -> dict[str, Command]:
    """"N before": the base; "N": after reinforcement; "N weights": the base as a run; "N at L": its rollouts on L tokens."""
    found = {}
    for groups in FEED_FORWARD:
        start = base(s, groups)
        found |= {f"{groups} before": tiny.evaluate(s, start), f"{groups}": tiny.evaluate(s, tiny.grpo(s, start)),
                  f"{groups} weights": start}
        found |= {f"{groups} at {length}": rollouts(s, groups, length) for length in LENGTHS}
    return found | {"again": tiny.evaluate(s, tiny.grpo(s, base(s, FEW), seed=s.seed + 100))}


def seconds(r: Result) -> float:
    """Of rollouts, for each token that was sampled: the median over steps, without the first one, which warms up."""
    return 1 / statistics.median(
        [record["rollout_tokens_per_second"] for record in r.records if "rollout_tokens_per_second" in record][1:])


def memory(r: Result) -> int:
    """Bytes that the keys and values of one token take in all layers, in float32."""
    config = r.records[0]["config"]
    return 2 * config["layers"] * config["kv_heads"] * config["head_size"] * 4


def statistic(r: dict[str, Result]) -> dict[str, float]:
    numbers = {AFTER: r[f"{FEW}"].rate() - r[f"{HEADS}"].rate(),
               TIME: seconds(r[f"{FEW} at {LENGTHS[-1]}"]) / seconds(r[f"{HEADS} at {LENGTHS[-1]}"])}
    for groups in FEED_FORWARD:
        numbers |= {f"after RL, {groups} groups": r[f"{groups}"].rate(),
                    f"before RL, {groups} groups": r[f"{groups} before"].rate(),
                    f"pass@8 after RL, {groups} groups": r[f"{groups}"].rate(8),
                    f"weights, {groups} groups": r[f"{groups} weights"].line["parameters"]}
        for length in LENGTHS:
            kilobytes = memory(r[f"{groups} weights"]) * length / 1024
            numbers[f"kilobytes of a sequence of {length} tokens, {groups} groups"] = kilobytes
            numbers[f"milliseconds of a token behind {length}, {groups} groups"] = 1000 * seconds(r[f"{groups} at {length}"])
    return numbers | {"RL with other draws": r["again"].rate() - r[f"{FEW}"].rate(),
                      f"{HEADS} groups, RL - before": r[f"{HEADS}"].rate() - r[f"{HEADS} before"].rate()}


CLAIM = Claim(
    number="28", says="A quarter of the key/value heads makes rollouts cheaper and costs no accuracy after reinforcement.",
    source="GQA, arXiv 2305.13245, which measures summaries, translations and questions; the question for rollouts is ours",
    theirs="T5-XXL: grouped heads nearly as good as one for each query, and nearly as fast as one for all (a finding in words)",
    would_show=f"Not below 0, with a ratio of times below {CHEAPER}",
    arms=arms, statistic=statistic, headline=AFTER, also=(TIME,),
    verdict=lambda n: both(no_worse(n[AFTER]), HOLDS if n[TIME][2] < CHEAPER else OPEN), matters=0.05,
    null="RL with other draws", oracle=f"{HEADS} groups, RL - before")

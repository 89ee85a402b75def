"""Claim 17: at equal compute mid-training and reinforcement together reach more beyond the edge than reinforcement alone.

A budget of tokens is divided. Reinforcement is charged as in the paper: a completion costs (4/3 + g/3) L tokens of training. L
are the tokens of a question and its answer, and g is 1 with a reference model (here 0): sampling and the forward pass take 2 N
FLOPs a token, the backward pass 4 N, and training 6 N. This charges too much, here as there: a prompt is read once for its whole
group, and groups whose rewards are equal are not trained on. So "FLOPs, RL alone / mid-training alone" says what was really
spent, and the claim must hold against one more arm, too: RL alone with MORE times the steps.

Mid-training and reinforcement see problems of two and of three operations. Of two the base solves half (the edge); of three it
has seen a few and solves hardly any (hard): RL alone seldom finds a reward there. In the paper hard problems stand in neither
stage. Models as small as these solve none of what no stage has shown (four operations here; or three, after stages of two alone:
results/tried.jsonl), so that cannot be asked of them. The learning rate of pre-training never falls, nor that of mid-training
where reinforcement follows, so that what comes next can still move the model.
"""

from claims import midtraining, tiny
from claims.runner.claim import Claim, Setting, both, positive
from claims.runner.commands import Command
from claims.runner.measures import Result

BUDGET = 480                                               # steps of mid-training that the whole budget buys
PROMPTS, GROUP = 16, 8
TOKENS = 64                                                # of a question on the edge and its answer, on average
MORE = 2.5
SHARES = (0, 20, 50, 80, 100)                              # percent for reinforcement
TRAINED, EDGE, HARD = "2-3", "2", "3"
TOGETHER, WITH_MORE = "hard, half and half - RL alone", "hard, half and half - RL alone with more"
AGAINST_MID, COST = "hard, half and half - mid-training alone", "FLOPs, RL alone / mid-training alone"


def base(s: Setting) -> Command:
    return midtraining.pretrained(s, **tiny.STEADY)


def completion_cost(tokens: float, reference: bool = False) -> float:
    """In tokens of training (arXiv 2512.07783, appendix A: T_RL = (4/3 + g/3) N r L)."""
    return (4 + reference) / 3 * tokens


def trained(s: Setting, share: float, times: float = 1.0, **flags) -> Command:
    """So many percent of the budget for reinforcement (times as many of its steps), the others before it for mid-training."""
    step = PROMPTS * GROUP * completion_cost(TOKENS)       # of reinforcement, in tokens
    mid, rl = BUDGET * (1 - share / 100), times * BUDGET * 2048 * share / 100 / step
    found = base(s)
    if mid:
        found = tiny.branch(s, found, *data(s), steps=round(mid), **tiny.STEADY if rl else {})
    if rl:
        found = midtraining.reinforced(s, found, ops=TRAINED, steps=round(rl), prompts=PROMPTS, group=GROUP, **flags)
    return found


def data(s: Setting) -> list[str]:
    return [tiny.world(s, TRAINED, "midtrain", 0.8, style="short"), tiny.world(s, "1", "midtrain", 0.2, style="short")]


def arms(s: Setting) -> dict[str, Command]:
    made = {f"{share}% RL": trained(s, share) for share in SHARES}
    made |= {"base": base(s), "50% RL, again": trained(s, 50, seed=s.seed + 100),
             "100% RL, more": trained(s, 100, MORE)}
    found = {name: tiny.evaluate(s, command, "2-4", style="short") for name, command in made.items()}
    return found | {"cost of mid-training": made["0% RL"], "cost of RL": made["100% RL"]}


def statistic(r: dict[str, Result]) -> dict[str, float]:
    found = {TOGETHER: r["50% RL"].rate(ops=HARD) - r["100% RL"].rate(ops=HARD),
             WITH_MORE: r["50% RL"].rate(ops=HARD) - r["100% RL, more"].rate(ops=HARD),
             AGAINST_MID: r["50% RL"].rate(ops=HARD) - r["0% RL"].rate(ops=HARD),
             "edge, 20% RL - 80%": r["20% RL"].rate(ops=EDGE) - r["80% RL"].rate(ops=EDGE),
             "hard, 80% RL - 20%": r["80% RL"].rate(ops=HARD) - r["20% RL"].rate(ops=HARD)}
    for share in SHARES:
        found |= {f"{band}, {share}% RL - base": r[f"{share}% RL"].rate(ops=ops) - r["base"].rate(ops=ops)
                  for band, ops in (("edge", EDGE), ("hard", HARD))}
    cost = r["cost of RL"].own_flops() / r["cost of mid-training"].own_flops()
    found |= {f"four operations, {share}% RL": r[f"{share}% RL"].rate(ops=4) for share in SHARES}
    return found | {COST: cost,
                    "hard, RL with other draws": r["50% RL, again"].rate(ops=HARD) - r["50% RL"].rate(ops=HARD)}


CLAIM = Claim(
    number="17", says="At equal compute mid-training and RL together reach more on hard problems than RL alone.",
    source="On the interplay of pre-training, mid-training and RL, arXiv 2512.07783, figure 1 and table 3",
    theirs="100M weights, problems beyond the edge: +10.8 over RL alone; with a light share of RL the edge is best, with a heavy "
    "one what lies beyond",
    would_show="The first two above 0: half of the tokens for each reach more on hard problems than all of them for RL, and than "
    f"{MORE:g} times as many steps of RL. The third says whether RL is needed there at all",
    arms=arms, statistic=statistic, headline=TOGETHER, also=(WITH_MORE, AGAINST_MID, COST),
    verdict=lambda n: both(positive(n[TOGETHER]), positive(n[WITH_MORE])),
    null="hard, RL with other draws", oracle="hard, 50% RL - base")

"""The claims on reinforcement beside fine-tuning and on small students: planted effects, planted nulls, and what arms share."""

import numpy as np
import pytest

from claims import excursions, parallel, small_student
from claims.runner.claim import FAILS, HOLDS, OPEN, Setting, judge
from claims.runner.commands import in_order
from claims.runner.measures import Result, numbers_of
from model import Config, Transformer


def planted(claim, **rates):
    """{arm: (solvable, chance)}: that share of the problems can be solved, with that chance. And what training has cost."""
    rng, found = np.random.default_rng(0), {}
    for name, command in claim.arms(Setting()).items():
        if command.script == "evaluate.py":
            solvable, chance = rates.get(name, (0.5, 0.5))
            counts = rng.binomial(8, np.where(np.arange(400) < 400 * solvable, chance, 0))
            right = {("test", 2, 400): [[int(c), 8] for c in counts]}
            found[name] = Result({}, right=right, answered=right)
        else:
            spent = {"base, cost": 100, "RL, cost": 300, "SFT, cost": 150}.get(name, 400)
            weights = (10, 20) if name == "SFT, run" else (40, 20)
            found[name] = Result({"flops": {"total": spent}}, records=[{"flags": {}}, *({"weight": w} for w in weights)])
    return found


SHARP, WIDE = (0.5, 0.9), (0.7, 0.6)                       # pass@1 rises alone; both rise
FIRST, STEPS = f"{excursions.CHECKPOINTS[0]}", excursions.CHECKPOINTS
AT_ONCE = {f"{steps}, RL": WIDE for steps in STEPS} | {"RL again": WIDE, FIRST: (0.3, 0.5)}
AFTER = {f"{steps}, SFT, RL": SHARP for steps in STEPS}
BETTER = {name: (0.9, 0.6) for name in ("parallel", "parallel again")} | {"SFT, then RL": (0.7, 0.5)}
TAUGHT = {name: (0.9, 0.5) for name in ("on-policy", "on-policy again", "teacher")} | {"SFT": (0.7, 0.5)}
LOW, ALL = (0.2, 0.5), (1, 0.7)


@pytest.mark.parametrize("claim, effect, nothing, oracle, null", [
    (excursions, AT_ONCE | AFTER, {f"{steps}, RL": SHARP for steps in STEPS} | {"RL again": SHARP}, {FIRST: ALL},
     {"RL again": LOW}),
    (excursions, AT_ONCE | AFTER, {f"{steps}, SFT, RL": WIDE for steps in STEPS}, {FIRST: ALL}, {"RL again": LOW}),
    (parallel, BETTER, {"SFT": ALL}, {"base": ALL}, {"parallel again": LOW}),
    (parallel, BETTER, {"RL": ALL}, {"base": ALL}, {"parallel again": LOW}),
    (small_student, TAUGHT, {"SFT, 3 passes": ALL}, {"teacher": LOW}, {"on-policy again": LOW}),
    (small_student, TAUGHT, {"student": (1, 0.5), "teacher": ALL}, {"teacher": LOW}, {"on-policy again": LOW})])
def test_planted_effects_hold_and_planted_nulls_do_not(claim, effect, nothing, oracle, null):
    def verdict(rates):
        return judge(claim.CLAIM, numbers_of(claim.CLAIM.statistic, planted(claim.CLAIM, **rates), draws=100))
    assert verdict(effect) == (HOLDS, "") and verdict(effect | nothing) == (FAILS, "")
    for broken, arm in ((oracle, "oracle"), (null, "null")):
        found, why = verdict(effect | broken)
        assert found == OPEN and why.startswith(f"the {arm} arm"), (found, why)


def test_what_reinforcement_has_done_has_a_name():
    up, down, flat, wide = (.1, .05, .2), (-.1, -.2, -.05), (0, -.01, .01), (0, -.1, .1)
    for pass_1, pass_8, name in (
            (up, up, "expansion"), (down, up, "expansion"), (up, flat, "sharpening"), (up, down, "sharpening"),
            (flat, flat, "nothing"), (down, flat, "nothing"), (wide, flat, "undecided"), (up, wide, "undecided")):
        assert excursions.name_of(pass_1, pass_8) == name


def test_costs_and_tokens():
    numbers = numbers_of(parallel.CLAIM.statistic, planted(parallel.CLAIM), draws=10)
    assert numbers["FLOPs of RL / parallel"][0] == 0.6667 and numbers["FLOPs of SFT / parallel"][0] == 0.1667
    numbers = numbers_of(small_student.CLAIM.statistic, planted(small_student.CLAIM), draws=10)
    assert numbers["teacher tokens, SFT / on-policy"][0] == 0.5


def trained(claim, script):
    """The commands of a script that the arms need, each as {flag: its first value, or its last if the flag comes twice}."""
    commands = [c for c in in_order(claim.CLAIM.arms(Setting(3)).values()) if c.script == script]
    return [{flag: value for flag, value in zip(c.words, c.words[1:]) if str(flag).startswith("--")} for c in commands]


def differ(commands):
    """The flags in which commands are not all alike."""
    return {flag for c in commands for flag in c if any(other.get(flag) != c[flag] for other in commands)}


def test_checkpoints_are_the_beginnings_of_one_run():
    bases = trained(excursions, "pretrain.py")
    assert len(bases) == len(excursions.CHECKPOINTS) and differ(bases) == {"--steps"}
    assert all(base["--decay"] == "0" and base["--warmup"] == "0" for base in bases)          # a rate that does not know the end
    assert differ(trained(excursions, "grpo.py")) == {"--init", "--seed"} and differ(trained(excursions, "sft.py")) == {"--init"}


def test_fine_tuning_beside_reinforcement_reads_what_it_reads_alone():
    alone, runs = trained(parallel, "sft.py"), trained(parallel, "grpo.py")
    beside = [run for run in runs if "--sft-data" in run]
    assert len(runs) == 5 and len(beside) == 3 and len(alone) == 2 and differ(alone) == {"--steps"}
    assert differ(runs) == {"--init", "--sft-data", "--sft-tokens", "--sft-weight", "--seed"}
    assert {run["--init"] for run in beside} < {run["--init"] for run in runs}
    for run in runs:
        assert all(run[flag] == alone[0][flag] for flag in ("--lr", "--schedule", "--decay"))
    for run in beside:
        flags = {"--sft-data": "--data", "--sft-tokens": "--batch-tokens"}
        assert all(run[flag] == alone[0][other] for flag, other in flags.items())
        assert run["--steps"] in {c["--steps"] for c in alone}


def test_sizes_and_answers():
    for shape, millions in ((small_student.TEACHER, 2.7), (small_student.STUDENT, 0.9)):
        config = Config(**{"vocab_size": 470, "layers": 2, "heads": 4, "kv_heads": 2, "qk_norm": "head"} | shape)
        assert round(sum(w.numel() for w in Transformer(config).parameters()) / 1e6, 1) == millions
    made, taught = trained(small_student, "augment.py"), trained(small_student, "distill.py")
    answers = {c["--data"]: c for c in made}[taught[0]["--data"]]             # the others are those of the student's start
    assert len(made) == 2 and all(c["--init"] == taught[0]["--teacher"] for c in made)
    assert len(taught) == 4 and differ(taught) == {"--seed", "--loss", "--clip-divergence"}
    assert int(answers["--count"]) == int(taught[0]["--steps"]) * int(taught[0]["--prompts"]) * int(taught[0]["--group"])
    tuned = [c for c in trained(small_student, "sft.py") if c["--init"] == taught[0]["--init"]]
    assert len(tuned) == 2 and differ(tuned) == {"--steps", "--lr"} and tuned[0]["--optimizer"] == "adamw"
    assert all(tuned[0][flag] == taught[0][flag] for flag in ("--schedule", "--decay"))
